"""`python -m bench.deliveries`: messages delivered and accepted, beside a bare httpx loop that posts the same.

Server, store, client, destination and loop share the machine. Messages are published in batches ahead of the moment
that they are due at. The loop (`bench.floor.httpx_loop`) signs the same bodies and sends the same headers; it keeps
nothing. Both are timed by the destination (`bench.destination`), by when the last message has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path

import uvloop
from rich.table import Table

from bench import measure
from bench.client import connected
from bench.destination import body_of
from bench.engine import Program, started
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from bench.stores import Store

BATCH = 1_000
WARM_UP = 500
DELIVERED, IN_ORDER = 10_000, 1_000
"""How many messages a rate is taken of: of those that are plain, and of those of a queue without parallelism."""

POSTED = 4_000
"""How many posts each of the loop's rates is taken of."""

PACED, PACE = 500, 50.0
"""How many messages a latency is taken of, and how many of them are published a second."""

AT_ONCE = (1, 2, 4, 8, 16, 32, 64)
"""How much the loop has under way; the fastest is what we are compared with."""

ACCEPTED = {100: 200, 1_000: 40}
"""How many requests acceptance is measured with, by the messages in each."""

CONNECTIONS = 4
DRAINED = 100_000
PUT_OFF = 3_600
"""Seconds by which messages are put off that are only to be accepted."""

CLIENTS = ("httpx", "httpcore", "anyio", "sniffio", "uvloop")
"""What requests are sent with, by us and by the loop; without sniffio, httpcore looks for it with every request."""

LIMIT_SECONDS = 900.0

GOALS = {"deliveries beside the loop": 0.5, "accepted/s, 100 a request": 10_000, "accepted/s, 1000 a request": 10_000}


class Deliveries:
    """A destination, and what has been sent to it."""

    def __init__(self, destination: Program, port: int) -> None:
        self.destination = destination
        self.url = f"http://127.0.0.1:{port}/orders"

    def expect(self, messages: int) -> None:
        """Have the destination wait for so many different messages."""
        self.destination.say(str(messages))

    def arrived(self) -> dict[str, float]:
        """Return what the destination says of them."""
        return {name: float(str(value)) for name, value in self.destination.hear("arrived").items()}

    def deliver(self, port: int, messages: int, *, queue: str = "", server: Program | None = None) -> dict[str, float]:
        """Publish messages that fall due at one moment; return how they were delivered.

        Args:
            port: of the server.
            messages: how many.
            queue: see `publish`.
            server: whose memory is looked at; None to leave it out.
        """
        due = int(time.time() + messages / 4_000) + 3
        self.expect(messages)
        uvloop.run(publish(port, self.url, messages, due, queue))
        if time.time() >= due:
            raise RuntimeError(f"{messages:,} messages could not be published before they were due")
        found: dict[str, float] = {}
        if server is not None:
            found["before"] = resident_mb(server.pid)
            forget_peak(server.pid)
        came = self.arrived()
        if server is not None:
            found["peak"] = resident_mb(server.pid, "VmHWM")
        seconds = came["last"] - due
        return {**found, "seconds": seconds, "rate": messages / seconds, "again": came["arrived"] - messages}


@contextlib.contextmanager
def receiving() -> Iterator[Deliveries]:
    """A destination in a process of its own."""
    with started([sys.executable, "-m", "bench.destination"], {}, LIMIT_SECONDS) as program:
        yield Deliveries(program, int(str(program.hear("ready")["port"])))


def item(url: str, headers: Mapping[str, str], n: int, at: float = 0.0) -> dict[str, object]:
    """Return a message of a batch."""
    return {"destination": url, "headers": headers, "body": body_of(n, at).decode()}


async def publish(port: int, url: str, messages: int, due: int, queue: str = "") -> float:
    """Publish messages in batches; return how many are accepted per second.

    Args:
        port: of the server.
        url: where they go.
        messages: how many.
        due: when they are due, in seconds since the epoch; 0 for now.
        queue: the queue that they are enqueued to; empty for none.
    """
    headers = {"Content-Type": "application/json", **({"Upstash-Not-Before": str(due)} if due else {})}
    firsts = iter(range(0, messages, BATCH))

    async def work() -> None:
        async with connected(port) as client:
            for first in firsts:
                numbers = range(first, min(first + BATCH, messages))
                body = [{**item(url, headers, n, float(due)), "queue": queue} for n in numbers]
                await client.post("/v2/batch", json.dumps(body).encode())

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
    return messages / (time.perf_counter() - began)


async def publish_paced(port: int, url: str) -> None:
    """Publish messages one by one, so many a second."""
    due = time.time()
    async with connected(port) as client:
        for n in range(PACED):
            due += 1 / PACE
            await asyncio.sleep(max(0.0, due - time.time()))
            await client.post(f"/v2/publish/{url}", body_of(n, time.time()))


async def accept(port: int, url: str, each: int) -> float:
    """Return how many messages are accepted per second, so many in each request, none of which is due yet."""
    headers = {"Content-Type": "application/json", "Upstash-Delay": f"{PUT_OFF}s"}
    body = json.dumps([item(url, headers, n) for n in range(each)]).encode()
    requests = iter(range(ACCEPTED[each]))

    async def work() -> None:
        async with connected(port) as client:
            for _ in requests:
                await client.post("/v2/batch", body)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
    return each * ACCEPTED[each] / (time.perf_counter() - began)


def ours(store: Store, directory: Path, drained: int) -> dict[str, float]:
    """What a server on a fresh store comes to."""
    with store.serving(directory) as served, receiving() as at:
        environment = {"STORE": served.url + store.options, "KIND": "perdure"}
        with started([sys.executable, "-m", "bench.ours.server"], environment, LIMIT_SECONDS) as server:
            port = int(str(server.hear("ready")["port"]))
            at.deliver(port, WARM_UP)
            found = {"messages/s": at.deliver(port, DELIVERED)["rate"]}
            at.deliver(port, 1, queue="orders")
            found["in a queue, one after the other"] = at.deliver(port, IN_ORDER, queue="orders")["rate"]
            at.expect(PACED)
            uvloop.run(publish_paced(port, at.url))
            came = at.arrived()
            found |= {"ms at p50": came["p50"], "ms at p95": came["p95"]}
            for each in ACCEPTED:
                found[f"accepted/s, {each} a request"] = uvloop.run(accept(port, at.url, each))
            at.expect(DELIVERED)
            found["accepted/s, due at once"] = uvloop.run(publish(port, at.url, DELIVERED, 0))
            at.arrived()
            if drained:
                drain = at.deliver(port, drained, server=server)
                found |= {f"drain: {name}": drain[name] for name in ("seconds", "before", "peak", "again")}
    return found


def bare() -> dict[str, float]:
    """What the loop comes to."""
    with receiving() as at, started([sys.executable, "-m", "bench.floor.httpx_loop"], {"URL": at.url}, 600.0) as loop:
        loop.hear("ready")

        def posted(count: int, *, at_once: int = 1, pace: float = 0.0) -> dict[str, float]:
            at.expect(count)
            loop.say(json.dumps({"first": 0, "count": count, "at_once": at_once, "pace": pace}))
            began = float(str(loop.hear("began")["began"]))
            came = at.arrived()
            return {**came, "rate": count / (came["last"] - began)}

        posted(WARM_UP, at_once=8)
        found = {f"{n} at once": posted(POSTED, at_once=n)["rate"] for n in AT_ONCE}
        came = posted(PACED, pace=PACE)
    return {**found, "ms at p50": came["p50"], "ms at p95": came["p95"]}


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """Return a process's resident memory in MB: now, or, as VmHWM, the most since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1_024 / measure.MB
    raise RuntimeError(f"{field} of {pid} cannot be read")


def forget_peak(pid: int) -> None:
    """Have a process's greatest memory be what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turn, print tables, write `bench/results/deliveries.json`; 1 when a goal is missed."""
    command = command_on_stores("deliveries", __doc__, "sqlite,postgres")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    command.add_argument("--drained", type=int, default=DRAINED, help="how many messages fall due at once; 0 for none")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    taken: dict[str, list[dict[str, float]]] = {"httpx": [], **{store.name: [] for store in asked.store}}
    for _ in range(asked.runs):
        note("httpx", taken["httpx"], bare())
        for store in asked.store:
            note(store.name, taken[store.name], ours(store, asked.directory, asked.drained))
    report = {name: medians(found) for name, found in taken.items()}
    fastest = max((f"{n} at once" for n in AT_ONCE), key=report["httpx"].__getitem__)
    for store in asked.store:
        row = report[store.name]
        row["deliveries beside the loop"] = row["messages/s"] / report["httpx"][fastest]
    OUT.print(table("a bare httpx loop", {"httpx": report["httpx"]}))
    OUT.print(table("messages", {store.title: report[store.name] for store in asked.store}))
    for store in asked.store:
        OUT.print(store.settings, markup=False)
    OUT.print(f"the loop is fastest with {fastest}; latencies at {PACE:.0f} messages a second, published one by one")
    versions = {name: metadata.version(name) for name in CLIENTS if util.find_spec(name)}
    OUT.print(", ".join(" ".join(each) for each in versions.items()), markup=False)
    if asked.drained == command.get_default("drained"):
        versions |= {name: version for store in asked.store for name, version in store.versions.items()}
        measure.write_json(RESULTS / "deliveries.json", {"deliveries": report}, versions)
    return int(any(report[store.name][figure] < goal for store in asked.store for figure, goal in GOALS.items()))


def note(name: str, taken: list[dict[str, float]], found: dict[str, float]) -> None:
    """Keep a measurement, and tell of it."""
    taken.append(found)
    NOTES.print(f"{name}: {', '.join(f'{key} {measure.number(value)}' for key, value in found.items())}", markup=False)


def medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: round(measure.median([each[key] for each in found]), 3) for key in found[0]}


def table(title: str, report: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each figure, a column for each store."""
    made = Table("", *report, title=title, title_justify="left")
    for figure in next(iter(report.values())):
        made.add_row(figure, *(measure.number(row[figure]) for row in report.values()))
    return made


if __name__ == "__main__":
    sys.exit(main())
