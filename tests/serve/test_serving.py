"""The same workflow functions, served over HTTP: what a run does, it does once, wherever its code is."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure
from perdure.model.errors import RunCompensatedError, RunFailedError
from perdure.serve import worker
from tests.engine.conftest import STORES
from tests.serve.bodies import everything

WITHIN = 15


def three(app: Perdure) -> None:
    @app.step
    async def add(a: int, b: int) -> int:
        return a + b

    @app.workflow
    async def sum_up(n: int) -> int:
        total = 0
        for each in range(1, n + 1):
            total = await add(total, each)
        return total


async def test_a_workflow_of_three_steps_is_worked_where_it_is_served(scene):
    made = await scene(three)
    run = await made.app.start("sum_up", input={"n": 3})
    assert await run.result(timeout=WITHIN) == 6
    assert [(each.key, each.state) for each in await run.journal()] == [
        ("input", "ok"),
        ("add", "ok"),
        ("add#2", "ok"),
        ("add#3", "ok"),
        ("output", "ok"),
    ]
    (row,) = await made.served.app.store.get([run.id])
    assert (row.epoch, row.seq) == (1, 3)  # one claim, one decision a step


class TestEverythingThatTheEngineHas:
    async def test_steps_side_by_side(self, every, body):
        made = await every()
        run = await made.app.start("gathered")
        assert await run.result(timeout=WITHIN) == ["0", "1", "2", "3"]
        assert sorted(body.did) == ["0", "1", "2", "3"]

    async def test_a_race(self, every, body):
        made = await every()
        run = await made.app.start("raced")
        assert await run.result(timeout=WITHIN) == "fast"

    async def test_nested_steps_are_recorded_one_by_one(self, every, body):
        made = await every()
        run = await made.app.start("nested")
        assert await run.result(timeout=WITHIN) == ["in 1", "in 2"]
        keys = [record.key for record in await run.journal()]
        assert keys == ["input", "outer/note", "outer/note#2", "outer", "output"]
        assert body.did == ["in 1", "in 2"]

    async def test_retries(self, every, body):
        made = await every()
        run = await made.app.start("retried")
        assert await run.result(timeout=WITHIN) == "try"
        assert body.did == ["try", "try", "try"]

    async def test_an_error(self, every):
        made = await every()
        run = await made.app.start("failing")
        with pytest.raises(RunFailedError, match="no tea"):
            await run.result(timeout=WITHIN)

    async def test_undos(self, every, body):
        made = await every()
        run = await made.app.start("undoing")
        with pytest.raises(RunCompensatedError, match="no tea"):
            await run.result(timeout=WITHIN)
        assert body.did == ["hotel", "flight", "no flight", "no hotel"]

    async def test_an_event(self, every, body):
        made = await every()
        run = await made.app.start("asked")
        await run.send_event("approval", "yes")
        assert await run.result(timeout=WITHIN) == "asked: yes"

    async def test_sleep(self, every, body):
        made = await every()
        run = await made.app.start("slept")
        assert await run.result(timeout=WITHIN) == "awake"

    async def test_children(self, every):
        made = await every()
        run = await made.app.start("parent", input={"n": 4})
        assert await run.result(timeout=WITHIN) == 14

    async def test_continue_as_new(self, every, body):
        made = await every()
        run = await made.app.start("counted", input={"n": 1})
        assert await run.result(timeout=WITHIN) == 3
        assert body.did == ["round 1", "round 2", "round 3"]

    async def test_what_is_made_known(self, every):
        made = await every()
        run = await made.app.start("told")
        assert await run.result(timeout=WITHIN) == "two"
        assert await run.state("phase") == "two"

    async def test_one_request_can_go_on(self, every, body):
        made = await every(stay=5)
        run = await made.app.start("undoing")
        with pytest.raises(RunCompensatedError, match="no tea"):
            await run.result(timeout=WITHIN)
        assert body.did == ["hotel", "flight", "no flight", "no hotel"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
async def test_on_every_store(scene, body, kind, tmp_path):
    made = await scene(lambda app: everything(app, body), store=STORES[kind](tmp_path))
    runs = {name: await made.app.start(name) for name in ("gathered", "nested", "undoing", "retried", "slept", "told")}
    parent = await made.app.start("parent", input={"n": 4})
    asked = await made.app.start("asked")
    await asked.send_event("approval", "yes")
    assert await parent.result(timeout=WITHIN) == 14
    assert await asked.result(timeout=WITHIN) == "asked: yes"
    assert await runs["gathered"].result(timeout=WITHIN) == ["0", "1", "2", "3"]
    assert await runs["nested"].result(timeout=WITHIN) == ["in 1", "in 2"]
    with pytest.raises(RunCompensatedError):
        await runs["undoing"].result(timeout=WITHIN)
    for name in ("retried", "slept", "told"):
        await runs[name].result(timeout=WITHIN)


async def test_schedules_are_declared_where_they_are_served(scene, body):
    def declare(app: Perdure) -> None:
        everything(app, body)

        @app.schedule(every=1)
        @app.workflow
        async def ticking() -> None:
            body.began.set()

    await scene(declare)
    async with asyncio.timeout(WITHIN):
        await body.began.wait()


async def test_an_event_starts_what_is_served(scene, body):
    def declare(app: Perdure) -> None:
        @app.on("order.paid")
        @app.workflow
        async def paid(order: dict[str, int]) -> int:
            return order["number"]

    made = await scene(declare)
    async with Perdure(made.server_url) as client:
        (run,) = await client.emit("order.paid", {"number": 7})
        assert await run.result(timeout=WITHIN) == 7


async def test_a_run_with_a_long_journal_is_not_brought_for_each_step(scene, monkeypatch):
    monkeypatch.setattr(worker, "LONG", 10)
    made = await scene(three)
    run = await made.app.start("sum_up", input={"n": 50})
    assert await run.result(timeout=WITHIN) == 1275
    assert len(made.faulty.pushes) == 10  # 9 steps of a request each, and then all others in one
    assert (await run.journal())[-1].position == 51
