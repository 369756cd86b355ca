"""What moves beside the runs: queues with their limits, and workflows that are written as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.engine.moving import Moved, move
from perdure.model.decision import StoredDefinition
from perdure.model.errors import StoreLockedError, UsageError
from perdure.model.queue import Admission, QueueLimits, QueueState, Rate
from perdure.store import Store
from tests.engine.test_moving import Clock, opened
from tests.store.filling import dumped, memory
from tests.store.making import NOW, STORES, decide, held, new, store_at

STATE = QueueState("default", 1, limits=QueueLimits(2, 1, Rate(3, 1000), is_fair=True), declared=QueueLimits(5))
ONE = StoredDefinition("checkout", "1", '{"steps": []}', NOW)


async def run(source: Any, target: Any, **more: Any) -> Moved:
    return await move(source, target, env=Clock(), **more)


@pytest.mark.parametrize("kind", list(STORES))
async def test_they_are_as_they_were(kind: str, tmp_path: Path) -> None:
    source, target = await memory(), store_at(kind, tmp_path)
    async with opened(target):
        await source.set_queue(replace(STATE, limits=QueueLimits()))
        await source.set_queue(replace(STATE, version=2))
        await source.set_queue(QueueState("stopped", is_paused=True))
        await source.admit(Admission("default", 0, (), {}), "w", NOW, NOW)
        await source.create([new("a", limit_key="tenant"), new("b", queue="stopped")])
        await source.define([ONE, replace(ONE, version="2", created_at=NOW + 1)])
        moved = await run(source, target)
        assert (moved.queues, moved.definitions, moved.is_whole) == (2, 2, True)
        assert await target.queues() == [STATE, QueueState("stopped", is_paused=True)]
        assert await target.definitions() == await source.definitions()
        assert await target.claim(["default", "stopped"], 9, "w", NOW, NOW + 9) == []
        (claim,) = await target.admit(Admission("default", 0, ("a",), {}), "w", NOW, NOW + 9) or ()
        assert claim.run.limit_key == "tenant"
        await target.set_queue(replace(STATE, version=2, is_paused=True))
        again = await run(source, target)
        assert (again.queues, again.definitions) == (0, 0)


async def test_a_queue_that_the_target_has_set_stays() -> None:
    source, target = await memory(), await memory()
    await source.set_queue(STATE)
    await source.set_queue(QueueState("other", is_paused=True))
    await target.set_queue(QueueState("default", is_paused=True))
    assert (await run(source, target)).queues == 1
    assert await target.queues() == [QueueState("default", is_paused=True), QueueState("other", is_paused=True)]


async def test_many_definitions_go_in_batches() -> None:
    source, target = await memory(), await memory()
    await source.define([replace(ONE, version=str(number)) for number in range(7)])
    await target.define([replace(ONE, version="3", created_at=NOW - 1)])
    assert (await run(source, target, batch=2)).definitions == 6
    assert len(await target.definitions()) == 7


async def test_another_text_under_the_same_version_is_refused_before_anything_is_copied() -> None:
    source, target = await memory(), await memory()
    await source.create([new("a")])
    await source.define([replace(ONE, version="0"), ONE])
    await target.define([replace(ONE, text="{}")])
    with pytest.raises(UsageError, match=r"definitions: the target has another 'checkout' of version '1'"):
        await run(source, target)
    assert await dumped(target) == []
    assert await target.definitions() == [replace(ONE, text="{}")]


async def test_a_run_that_is_being_undone_is_in_the_way(tmp_path: Path) -> None:
    source, target = await memory(), await memory()
    run_held = await held(source, "undone")
    await source.commit([decide(run_held, "compensating")])
    with pytest.raises(StoreLockedError, match="1 run is leased in the source .as 'undone', by worker w"):
        await move(source, target, env=Clock(NOW))


async def test_one_that_waits_to_be_undone_is_not(tmp_path: Path) -> None:
    source, target = await memory(), await memory()
    run_held = await held(source, "undone")
    await source.commit([decide(run_held, "compensating", due_at=NOW + 5)])
    assert (await run(source, target)).is_whole
    assert await claims(target, NOW + 5) == ["compensating"]


async def claims(store: Store, now: int) -> list[str]:
    return [str(claim.run.status) for claim in await store.claim(["default"], 9, "w", now, now + 9)]
