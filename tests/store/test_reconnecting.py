"""A connection that breaks at any moment of an operation: the store does the operation again, and it is done once.

Each operation is tried once for every request that it sends, with that request or its answer lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from perdure.model.decision import Action, CatalogEntry, Control, Lease
from perdure.model.run import Retention, Run
from perdure.store import Store, open_store
from tests.servers import cut
from tests.store.making import CAPACITY, NOW, STORES, decide, event, new, record

# The nodes of a cluster are reached at the addresses that they announce, so no line stands in between.
KINDS = ("postgres", "redis")
MOST_REQUESTS = 20
"""More than any operation sends."""

NAMES = ("a", "b", "done", "queued", "new", "leased", "a/c")
OUTPUT = record(1, "output", kind="output")


class Scene:
    """The same few runs in a store, again and again: those of the n-th time have n behind their names."""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.number = number
        self.runs: dict[str, Run] = {}

    def id(self, name: str) -> str:
        return f"{name}~{self.number}~"

    async def furnish(self) -> None:
        """Two leased runs, one that has ended, one that is queued."""
        await self.store.create([new(self.id(name), queue=self.id("of")) for name in ("a", "b", "done")])
        claims = await self.store.claim([self.id("of")], 10, "w", NOW, NOW + 60)
        self.runs = {name: claim.run for name, claim in zip(("a", "b", "done"), claims, strict=True)}
        await self.store.commit([decide(self.runs["done"], "complete", records=(OUTPUT,))])
        await self.store.create([new(self.id("queued"), retention=Retention(0, 0, 0))])

    async def all(self) -> str:
        """Everything that is stored of these runs."""
        ids = [self.id(name) for name in NAMES]
        boxes = [[await self.store.journal(each), await self.store.inbox(each)] for each in ids]
        everything = [await self.store.get(ids), boxes, await self.store.catalog()]
        return repr(everything).replace(f"~{self.number}~", "")


Operation = Callable[[Store, Scene], Awaitable[Any]]


async def create(store: Store, at: Scene) -> Any:
    return await store.create([new(at.id("new")), new(at.id("b")), new(at.id("leased"), worker="w", due_at=NOW + 1)])


async def post(store: Store, at: Scene) -> Any:
    sent = [event(at.id("a"), "m1"), event(at.id("queued"), "m1"), event(at.id("a"), "m2")]
    return await store.post(sent, NOW, CAPACITY)


async def step(store: Store, at: Scene) -> Any:
    return await store.commit([decide(at.runs[name], records=(record(1),)) for name in "ab"])


async def let_go(store: Store, at: Scene) -> Any:
    child = new(at.id("a/c"), parent_id=at.id("a"), parent_key="c")
    return await store.commit([decide(at.runs["a"], "waiting", records=(record(1),), children=(child,))])


async def end(store: Store, at: Scene) -> Any:
    told = event(at.id("queued"), "a", kind="child", ref=at.id("a"))
    others: dict[str, Any] = {"posts": (told,), "terminate": (at.id("b"),)}
    return await store.commit([decide(at.runs["a"], "complete", records=(OUTPUT,), **others)])


async def extend(store: Store, at: Scene) -> Any:
    return await store.extend([Lease(at.id("a"), 1, NOW + 99, '"p"'), Lease(at.id("b"), 1, NOW + 98)], NOW)


async def pause(store: Store, at: Scene) -> Any:
    return await store.control([Control(at.id(name), Action.PAUSE) for name in ("a", "queued")], NOW)


async def terminate(store: Store, at: Scene) -> Any:
    return await store.control([Control(at.id(name), Action.TERMINATE, "{}") for name in ("a", "queued")], NOW)


async def prune(store: Store, at: Scene) -> Any:
    return await store.prune(NOW * 2, 10)


async def publish(store: Store, at: Scene) -> Any:
    return await store.publish([CatalogEntry("w", "1", "default", "{}", NOW, "worker")])


async def read(store: Store, at: Scene) -> Any:
    found = [await store.get([at.id("a"), "none"]), await store.journal(at.id("a")), await store.inbox(at.id("a"))]
    return [*found, await store.stats(NOW), await store.next_due(["default"])]


# A restart is not among them: one that is done again begins anew once more.
OPERATIONS = [create, post, step, let_go, end, extend, pause, terminate, prune, publish, read]


async def hints_are_sent(store: Any) -> None:
    """Let what the scene set off go by, so that it is the operation whose request is lost."""
    while store._hints._sending:
        await asyncio.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("what", ["request", "answer"])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_operation_cut_off_at_any_request_is_done_once(
    kind: str, tmp_path: Path, operation: Operation, what: str
) -> None:
    url = STORES[kind](tmp_path)
    async with cut(urlsplit(url).port or 0) as line:
        store = open_store(line.url(url), listen="off")
        await store.open()
        undisturbed = Scene(store, 0)
        await undisturbed.furnish()
        await operation(store, undisturbed)
        expected = await undisturbed.all()
        for number in range(1, MOST_REQUESTS):
            scene, lost = Scene(store, number), line.lost
            await scene.furnish()
            await hints_are_sent(store)
            (line.lose_request if what == "request" else line.lose_answer)(after=number - 1)
            await operation(store, scene)
            line.lose_nothing()
            assert await scene.all() == expected, f"{what} {number} was lost"
            if line.lost == lost:
                break
        assert 1 < number < MOST_REQUESTS - 1, "it lost nothing at all, or sends more requests than expected"
        await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["request", "answer"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_claim_cut_off_at_any_request_leaves_no_run_behind(kind: str, tmp_path: Path, what: str) -> None:
    url = STORES[kind](tmp_path)
    async with cut(urlsplit(url).port or 0) as line:
        store = open_store(line.url(url), listen="off")
        await store.open()
        for number in range(MOST_REQUESTS):
            names = [f"{name}{number}" for name in "abc"]
            await store.create([new(name) for name in names])
            await hints_are_sent(store)
            lost = line.lost
            (line.lose_request if what == "request" else line.lose_answer)(after=number)
            claims = await store.claim(["default"], 10, "w", NOW, NOW + 10)
            line.lose_nothing()
            assert [claim.run.id for claim in claims] in ([], names)
            again = await store.claim(["default"], 10, "w", NOW + 10, NOW + 10_000)
            assert [claim.run.id for claim in again] == names, f"{what} {number} was lost"
            assert await store.claim(["default"], 10, "w", NOW + 10, NOW + 10_000) == []
            if line.lost == lost:
                break
        assert 0 < number < MOST_REQUESTS - 1, "it lost nothing at all, or sends more requests than expected"
        await store.close()
