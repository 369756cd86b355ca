"""`python -m bench.server_pages`: every list and run page of the dashboard and of the API beside a million runs.

Each is asked for some hundred times, one after the other: in this process, without sockets, and over a socket of the
listener that `perdure server` has. What a page looks for is as common or as rare as it comes in `bench.server_mix`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from urllib.parse import quote

import httpx
import uvloop
from rich.table import Column, Table

from bench import measure, server_mix
from bench.large import settle
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from perdure.engine.app import Perdure
from perdure.model.decision import RunFilter
from perdure.model.run import RunStatus
from perdure.server import ServerSettings, create_server
from perdure.server.listening import Listener
from perdure.store import open_store

AT_MOST = 100.0
"""Milliseconds that 95 of a hundred answers may take."""

WARM_UP = 3

FEWEST = 3
"""How often each page is asked for at least: of fewer there is no median."""

FILTERS: Mapping[str, str] = {
    "": "",
    **{f"status={status.value}": f"status={status.value}" for status in RunStatus},
    "two states": "status=errored&status=compensated",
    "live states": "status=queued&status=running&status=compensating",
    "a workflow": "workflow=order3",
    "a rare workflow": "workflow=seldom",
    "no workflow": "workflow=nobody",
    "a queue": "queue=mail",
    "a rare queue": "queue=aside",
    "failed of a workflow": "status=errored&workflow=order3",
    "complete, rare": "status=complete&workflow=seldom",
    "a tag": "tag=customer%3Dc5",
    "a rare tag": "tag=vip%3Dyes",
    "no tag": "tag=no%3Done",
    "a rare prefix": "prefix=rare-",
    "a common prefix": "prefix=0",
    "a parent": "parent={parent}",
    "the last hour": "since=1%20hour",
    "the last ten days, of a workflow": "since=10%20days&workflow=seldom",
    "workflow, queue, status, tag": "status=complete&workflow=order3&queue=mail&tag=customer%3Dc5",
}

PLAIN: Mapping[str, Sequence[str]] = {
    "dashboard": (
        *("/", "/failures", "/queues", "/queues/mail", "/schedules", "/workers", "/definitions"),
        *("/definitions/order3", "/definitions/seldom", "/undos", "/audit", "/runs/{complete}", "/runs/{errored}"),
        *("/runs/{waiting}", "/runs/{parent}"),
    ),
    "API": (
        *("/api/v1/stats", "/api/v1/queues", "/api/v1/queues/mail", "/api/v1/queues/mail/dead", "/api/v1/failures"),
        *("/api/v1/failures?workflow=order3", "/api/v1/undos", "/api/v1/workers", "/api/v1/workflows"),
        *("/api/v1/schedules", "/api/v1/definitions", "/api/v1/audit", "/api/v1/runs/{complete}"),
        *("/api/v1/runs/{errored}", "/api/v1/runs/{errored}/journal", "/api/v1/runs/{waiting}/explain"),
        *("/api/v1/runs/{complete}/result", "/readyz"),
    ),
}

Ask = Callable[[str], Awaitable[float]]
"""Asks for a path, and returns the milliseconds that it took."""


def pages(known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what each page is called, and its path.

    Args:
        known: ids of runs, by what is said of them.
    """
    found = [(each, each.format(**known)) for paths in PLAIN.values() for each in paths]
    for base in ("/runs", "/api/v1/runs"):
        found += [
            (f"{base} ({name})" if name else base, f"{base}?{query.format(**known)}" if query else base)
            for name, query in FILTERS.items()
        ]
    return found


async def fill(url: str, runs: int) -> None:
    """Load a store with the mix."""
    store = open_store(url)
    await store.open()
    await server_mix.fill(store, runs, time.time_ns() // 1_000_000)
    await store.close()


async def announce(url: str) -> None:
    """Put the workflows of the mix into the catalog, as their workers would."""
    app = Perdure(url)
    for name in (*(f"order{n}" for n in range(server_mix.WORKFLOWS)), "seldom"):

        @app.workflow(name=name)
        async def order(order: int, note: str = "") -> str:
            return note

    async with app:
        pass


async def measured(url: str, turns: int) -> dict[str, tuple[float, float, float, float]]:
    """Return of each page the median and p95 in this process, the p95 over a socket, and the processor's time.

    That is the median of what this process was busy for, client and all, when it was asked without a socket: it tells
    whether a page was slow, or the machine at something else. All is in milliseconds.

    Args:
        url: of a store that `fill` has filled.
        turns: how often each is asked for.
    """
    await announce(url)
    async with inside(url) as ask, over_socket(url) as ask_far:
        known = await some(url)
        found = {}
        for name, path in pages(known):
            near, far, busy = [], [], []
            for turn in range(-WARM_UP, turns):
                began = time.process_time()
                one = await ask(path)
                spent = (time.process_time() - began) * 1000
                two = await ask_far(path)
                if turn >= 0:
                    near.append(one)
                    far.append(two)
                    busy.append(spent)
            figures = (measure.median(near), measure.percentile(near, 95), measure.percentile(far, 95))
            found[name] = (*figures, measure.median(busy))
            NOTES.print(f"{name}: {', '.join(map(measure.number, found[name]))}", markup=False, highlight=False)
    return found


async def some(url: str) -> dict[str, str]:
    """Return the ids of some runs, quoted for a path, by what is said of them."""
    store = open_store(url)
    await store.open()
    found = {}
    for status in (RunStatus.COMPLETE, RunStatus.ERRORED, RunStatus.WAITING):
        found[status.value] = (await store.find(RunFilter((status,)), 40)).runs[-1].id
    cursor = None
    while "parent" not in found:
        page = await store.find(RunFilter(), 1_000, cursor)
        parents = [run.parent_id for run in page.runs if run.parent_id is not None]
        found |= {"parent": parents[0]} if parents else {}
        cursor = page.cursor
    await store.close()
    return {name: quote(run_id, safe="") for name, run_id in found.items()}


@contextlib.asynccontextmanager
async def inside(url: str) -> AsyncIterator[Ask]:
    """A server in this process that is asked without a socket."""
    asgi = create_server(ServerSettings(store=url))
    server = asgi.state.server
    await server.open()
    transport = httpx.ASGITransport(asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", timeout=60) as http:
        yield asking(http)
    await server.close()


@contextlib.asynccontextmanager
async def over_socket(url: str) -> AsyncIterator[Ask]:
    """A server in this process that listens at a port."""
    base: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    listener = Listener(create_server(ServerSettings(store=url, port=0)), base.set_result)
    working = asyncio.ensure_future(listener.work())
    async with httpx.AsyncClient(base_url=await base, timeout=60) as http:
        yield asking(http)
    listener.should_exit = True
    await working


def asking(http: httpx.AsyncClient) -> Ask:
    """Return how a client asks."""

    async def ask(path: str) -> float:
        accept = "application/json" if path.startswith(("/api/", "/readyz")) else "text/html"
        began = time.perf_counter()
        answer = await http.get(path, headers={"Accept": accept})
        took = (time.perf_counter() - began) * 1000
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:300]}")
        return took

    return ask


def table(title: str, found: Mapping[str, tuple[float, float, float, float]]) -> Table:
    """A row for each page."""
    made = Table(
        Column("page", overflow="fold"),
        "median",
        "p95",
        "p95 over a socket",
        "busy",
        "",
        title=title,
        title_justify="left",
    )
    for name, figures in found.items():
        verdict = "met" if max(figures[1:3]) <= AT_MOST else "missed"
        made.add_row(name, *(measure.number(figure) for figure in figures), verdict)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on each store, print tables, write `bench/results/*-pages.json`; 1 when a page takes too long."""
    command = command_on_stores("server_pages", __doc__, "sqlite,postgres")
    command.add_argument("--runs", type=int, default=1_000_000, help="how many runs are in the store")
    command.add_argument("--turns", type=int, default=200, help="how often each page is asked for")
    asked = command.parse_args(arguments)
    if asked.turns < FEWEST:
        command.error(f"--turns: {asked.turns} are too few for a median; give at least {FEWEST}")
    end_on_sigterm()
    is_good = True
    for kind in asked.store:
        NOTES.print(kind.title)
        with kind.serving(asked.directory) as served:
            uvloop.run(fill(served.url + kind.options, asked.runs))
            settle(served)
            found = uvloop.run(measured(served.url + kind.options, asked.turns))
        OUT.print(table(f"{kind.title}, {asked.runs:,} runs: ms", found))
        is_good = is_good and all(max(figures[1:3]) <= AT_MOST for figures in found.values())
        report = {name: [round(figure, 2) for figure in figures] for name, figures in found.items()}
        if asked.runs == command.get_default("runs"):
            measure.write_json(RESULTS / f"{kind.name}-pages.json", {"ms": report}, kind.versions)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
