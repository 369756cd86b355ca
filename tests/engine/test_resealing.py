"""Three keys, one after the other, under load: no error, nothing lost or done twice, and the old keys may go."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure import Perdure, RunStatus, flow
from perdure.model.document import Document
from perdure.model.encryption import Encryption
from perdure.store import open_store
from perdure.store.resealing import Resealed, reseal

KEYS = {"a": bytes(32), "b": bytes(range(32)), "c": bytes(range(1, 33))}
RUNS = 12
"""How many are started while each set of keys is used."""


def keys(ids: str) -> Encryption:
    return Encryption({name: KEYS[name] for name in ids})


class Shop:
    """Applications with one set of keys or another, on one store, and what their steps did."""

    def __init__(self, world: Any, url: str) -> None:
        self.world = world
        self.url = url
        self.done: Counter[str] = Counter()
        self.started = 0

    def app(self, ids: str) -> Perdure:
        app: Perdure = self.world.app(self.url, encryption=keys(ids))

        @app.workflow
        async def parcel(number: int) -> str:
            await self.step(f"parcel {number}")
            return f"parcel {number}"

        @app.workflow
        async def order(number: int) -> list[Any]:
            reserved = await flow.do("reserve", self.step, f"reserve {number}")
            flow.set("number", number)
            paid: Any = await flow.wait_for_event("paid", type="paid", timeout="1 day")
            await flow.sleep("1 hour")
            sent = await parcel(number)
            return [reserved, paid, sent]

        return app

    async def step(self, what: str) -> str:
        self.done[what] += 1
        await asyncio.sleep(0)
        return what

    async def work(self, app: Perdure) -> None:
        """Start runs, and have those from before go on."""
        for number in range(self.started, self.started + RUNS):
            await app.start("order", input={"number": number}, id=f"order-{number}")
            if number >= RUNS:
                await app.run(f"order-{number - RUNS}").send_event("paid", {"by": f"card {number - RUNS}"})
            assert await app.store.put([Document("views", f"{number:04}", f"view {number}")]) == [True]
            changed = Document("views", "0000", f"changed by {number}", number, number)
            assert number == 0 or await app.store.put([changed]) == [True]
            await self.world.settle()
        self.started += RUNS

    async def reseal(self, ids: str) -> Resealed:
        raw = open_store(self.url)
        await raw.open()
        try:
            return await reseal(raw, keys(ids))
        finally:
            await raw.close()


async def test_keys_change_under_load(world: Any, url: str, tmp_path: Path) -> None:
    shop = Shop(world, url)
    told = Resealed("", 0, {}, 0, ())
    for old, new in (("a", "b"), ("b", "c")):
        for ids in (old, old + new):  # who has only the old one; then all can read the new one
            async with shop.app(ids) as app:
                await shop.work(app)
        async with shop.app(old + new) as late, shop.app(new + old) as app:  # some write with one, some with the other
            _, told = await asyncio.gather(shop.work(app), shop.reseal(new + old))
            await shop.work(late)
        async with shop.app(new + old) as app:
            told, _ = await asyncio.gather(shop.reseal(new + old), shop.work(app))
            last = await shop.reseal(new + old)
            assert last.is_whole, last
            assert told.resealed + last.resealed > 0
    async with shop.app("c") as app:  # the others are gone
        await shop.work(app)
        for number in range(shop.started - RUNS, shop.started):
            await app.run(f"order-{number}").send_event("paid", {"by": f"card {number}"})
        await world.settle()
        await world.advance(3 * 3_600)
        for number in range(shop.started):
            run = app.run(f"order-{number}")
            wanted = [f"reserve {number}", {"by": f"card {number}"}, f"parcel {number}"]
            assert await run.result(timeout=5) == wanted
        assert {run.status for run in (await app.runs(limit=500)).runs} == {RunStatus.COMPLETE}
        views = await app.store.documents("views", 500)
        assert [view.text for view in views[1:]] == [f"view {number}" for number in range(1, shop.started)]
        assert views[0].revision == shop.started
    assert set(shop.done.values()) == {1}
    assert len(shop.done) == 2 * shop.started
    raw = open_store(url)
    await raw.open()
    assert (await reseal(raw, keys("c"), dry_run=True)).is_whole
    await raw.close()
    if url.startswith("sqlite"):
        whole = tmp_path / "whole.db"
        apsw.Connection(str(tmp_path / "store.db")).execute("VACUUM INTO ?", (str(whole),))
        stored = whole.read_bytes()
        assert (b"sealed:c:" in stored, b"sealed:a" in stored, b"sealed:b" in stored) == (True, False, False)


@pytest.mark.parametrize("ids", ["ba", "ab"])
async def test_a_run_in_memory_goes_on_while_its_journal_gets_another_key(world: Any, url: str, ids: str) -> None:
    shop = Shop(world, url)
    async with shop.app(ids) as app:
        run = await app.start("order", input={"number": 7}, id="r")
        await world.settle()
        await shop.reseal("ba")
        await run.send_event("paid", "card")
        await world.settle()
        await shop.reseal("ba")
        await world.advance(3_601)
        assert await run.result(timeout=5) == ["reserve 7", "card", "parcel 7"]
    assert (await shop.reseal("ba")).is_whole
