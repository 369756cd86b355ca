"""A connection that breaks at any moment of an operation: the store does the operation again, and it is done once.

Each operation is tried once for every request that it sends, with that request or its answer lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from perdure.model.decision import Action, CatalogEntry, Control, Lease
from perdure.store import Store, open_store
from tests.servers import Line, cut
from tests.store.making import CAPACITY, NOW, STORES, decide, event, new, record

# The nodes of a cluster are reached at the addresses that they announce, so no line stands in between.
KINDS = ("postgres", "redis")
MOST_REQUESTS = 60
"""More than any operation sends."""

Operation = Callable[[Store, dict[str, Any]], Awaitable[object]]


async def create(store: Store, runs: dict[str, Any]) -> object:
    return await store.create([new("new"), new("b"), new("leased", worker="w", due_at=NOW + 1)])


async def post(store: Store, runs: dict[str, Any]) -> object:
    return await store.post([event("a", "m1"), event("q", "m1"), event("a", "m2")], NOW, CAPACITY)


async def step(store: Store, runs: dict[str, Any]) -> object:
    return await store.commit([decide(runs[name], records=(record(1),)) for name in "ab"])


async def let_go(store: Store, runs: dict[str, Any]) -> object:
    child = new("a/c", parent_id="a", parent_key="c")
    return await store.commit([decide(runs["a"], "waiting", records=(record(1),), children=(child,))])


async def end(store: Store, runs: dict[str, Any]) -> object:
    told = event("q", "a", kind="child", ref="a")
    return await store.commit(
        [decide(runs["a"], "complete", records=(record(1, "output", kind="output"),), posts=(told,), terminate=("b",))]
    )


async def extend(store: Store, runs: dict[str, Any]) -> object:
    return await store.extend([Lease("a", 1, NOW + 99, '"p"'), Lease("b", 1, NOW + 98)], NOW)


async def pause(store: Store, runs: dict[str, Any]) -> object:
    return await store.control([Control("a", Action.PAUSE), Control("q", Action.PAUSE)], NOW)


async def terminate(store: Store, runs: dict[str, Any]) -> object:
    return await store.control([Control("a", Action.TERMINATE, "{}"), Control("q", Action.TERMINATE)], NOW)


async def prune(store: Store, runs: dict[str, Any]) -> object:
    return await store.prune(NOW * 2, 10)


async def publish(store: Store, runs: dict[str, Any]) -> object:
    return await store.publish([CatalogEntry("w", "1", "default", "{}", NOW, "worker")])


async def read(store: Store, runs: dict[str, Any]) -> object:
    return [await store.get(["a", "none"]), await store.journal("a"), await store.stats(NOW), await store.inbox("q")]


# A claim or a restart that is done again is a second one, and a first one is all that its state can tell.
OPERATIONS = [create, post, step, let_go, end, extend, pause, terminate, prune, publish, read]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, tmp_path: Path) -> Callable[[str], str]:
    """The URL of an empty store of a kind, for each name."""
    return lambda name: STORES[kind](tmp_path / name)


async def furnish(store: Store) -> dict[str, Any]:
    """Two leased runs, one that is queued, one that has ended."""
    await store.create([new(name) for name in "abe"])
    claims = await store.claim(["default"], 10, "w", NOW, NOW + 60)
    runs = {claim.run.id: claim.run for claim in claims}
    await store.commit([decide(runs["e"], "complete", records=(record(1, "output", kind="output"),))])
    await store.create([new("q", retention=replace(new("q").retention, terminated=0))])
    return runs


async def all_of(store: Store) -> list[Any]:
    """Everything that is stored."""
    ids = ["a", "b", "e", "q", "new", "leased", "a/c"]
    boxes = [[await store.journal(each), await store.inbox(each)] for each in ids]
    return [await store.get(ids), boxes, await store.stats(NOW), await store.catalog()]


async def undisturbed(url: str, operation: Operation) -> list[Any]:
    """What is stored after the operation if nothing goes wrong."""
    store = open_store(url)
    await store.open()
    await operation(store, await furnish(store))
    expected = await all_of(store)
    await store.close()
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("what", ["request", "answer"])
async def test_an_operation_cut_off_at_any_request_is_done_once(
    place: Callable[[str], str], operation: Operation, what: str
) -> None:
    expected = await undisturbed(place("undisturbed"), operation)
    for number in range(MOST_REQUESTS):
        url = place(f"disturbed {number}")
        async with cut(urlsplit(url).port or 0) as line:
            if not await disturbed(line, url, operation, what, number, expected):
                assert number > 0, "nothing was lost at all"
                return
    raise AssertionError("it sends more requests than this test expects")


async def disturbed(line: Line, url: str, operation: Operation, what: str, number: int, expected: list[Any]) -> bool:
    """Whether the operation still sent a request of this number, which was lost."""
    store = open_store(line.url(url), listen="off")
    await store.open()
    runs = await furnish(store)
    before = line.lost
    (line.lose_request if what == "request" else line.lose_answer)(after=number)
    await operation(store, runs)
    line.lose_nothing()
    assert await all_of(store) == expected, f"{what} {number} was lost"
    await store.close()
    return line.lost > before
