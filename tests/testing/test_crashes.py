"""Crashes: a worker that is gone tells nobody, and what it held goes on elsewhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from perdure import Perdure, Retry, RunStatus, UsageError, flow, testing


async def test_a_crash_costs_a_lease_and_the_running_step(app: Perdure):
    starts: list[str] = []

    @app.step
    async def first() -> None:
        starts.append("first")

    @app.step
    async def second() -> None:
        starts.append("second")
        if len(starts) == 2:
            await asyncio.Event().wait()

    @app.workflow
    async def work() -> None:
        await first()
        await second()

    async with testing.engine(app, patience=0) as engine:
        run = await app.start(work)
        await engine.settle()
        assert starts == ["first", "second"]
        await engine.crash()
        await engine.advance("14 seconds 999 ms")
        assert starts == ["first", "second"]
        assert (await run.get()).status is RunStatus.RUNNING
        await engine.advance("1 ms")
        assert starts == ["first", "second", "second"]
        assert (await run.get()).status is RunStatus.COMPLETE
        await run.result()


async def test_nothing_of_a_crashed_worker_reaches_the_store(app: Perdure):
    @app.step
    async def step() -> str:
        try:
            await asyncio.sleep(0)
            reached.set()
            await gate.wait()
        finally:
            cleaned.append(1)
        return "of the dead"

    @app.workflow
    async def work() -> str:
        return await step()

    cleaned: list[int] = []
    gate, reached = asyncio.Event(), asyncio.Event()
    async with testing.engine(app) as engine:
        run = await app.start(work)
        await reached.wait()
        await engine.crash()
        gate.set()
        await engine.settle()
        assert [record.key for record in await run.journal()] == ["input"]
        assert cleaned == [1]
        with engine.mock(step, returns="of the living"):
            assert await engine.result(run) == "of the living"


@pytest.mark.parametrize("rounds", range(8))
async def test_a_worker_may_die_with_a_run_that_it_has_not_begun(app: Perdure, rounds: int):
    @app.workflow
    async def work() -> str:
        await flow.do("step", str)
        return "done"

    async with testing.engine(app) as engine:
        starting = asyncio.create_task(app.start(work))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await engine.crash()
        await engine.settle()
        run = await starting
        left = await run.get()
        assert (left.epoch, left.status) != (1, RunStatus.QUEUED), "the dead worker gave it back"
        assert left.epoch < 2, "the dead worker gave it back"
        assert await engine.result(run) == "done"


async def test_a_new_worker_is_late_for_nothing(app: Perdure):
    @app.workflow
    async def sleeper() -> None:
        await flow.sleep("10s")

    async with testing.engine(app) as engine:
        run = await app.start(sleeper)
        await engine.advance(9.999)
        await engine.crash()
        await engine.advance(0.001)
        assert (await run.get()).status is RunStatus.COMPLETE


async def test_heartbeats_outlive_the_worker(app: Perdure):
    seen: list[object] = []

    @app.step
    async def copy() -> None:
        seen.append(flow.last_heartbeat())
        flow.heartbeat(len(seen) * 10)
        if len(seen) < 3:
            await asyncio.Event().wait()

    @app.workflow
    async def work() -> None:
        await copy()

    async with testing.engine(app, patience=0) as engine:
        run = await app.start(work)
        for _ in range(2):
            await engine.settle()
            await engine.crash()
            await engine.advance("15s")
        await run.result()
    assert seen == [None, 10, 20]


async def test_sleepers_and_waiting_callers_do_not_notice(app: Perdure):
    @app.workflow
    async def sleeper() -> str:
        await flow.sleep("1 day")
        return "woken"

    async with testing.engine(app) as engine:
        run = await app.start(sleeper)
        waiting = asyncio.create_task(run.result())
        await engine.settle()
        await engine.crash()
        late = await app.start(sleeper)
        await engine.advance("1 day")
        assert await waiting == await late.result() == "woken"


@pytest.fixture
def shop(app: Perdure) -> Any:
    """A shop that counts charges: with a key the bank knows repeated ones, without one it does not."""

    class Shop:
        charged: Counter[str] = Counter()

        @app.step
        async def charge(order: str, is_careful: bool) -> str:
            key = flow.idempotency_key() if is_careful else f"{order} {sum(Shop.charged.values())}"
            Shop.charged[key] = 1
            return "receipt"

        @app.step
        async def ship(order: str) -> None:
            await asyncio.sleep(0)

        @app.workflow
        async def checkout(order: str, is_careful: bool) -> str:
            receipt = await Shop.charge(order, is_careful)
            await flow.sleep("1 day")
            await Shop.ship(order)
            return receipt

        @staticmethod
        async def test(engine: testing.Engine, *, is_careful: bool) -> None:
            Shop.charged.clear()
            run = await app.start(Shop.checkout, "order-1", is_careful, id="order-1")
            await engine.advance("1 day")
            assert await run.result() == "receipt"
            assert sum(Shop.charged.values()) == 1

    return Shop


async def test_what_is_idempotent_survives_every_crash(app: Perdure, shop: Any):
    has_another_worker: list[bool] = []

    async def test(engine: testing.Engine) -> None:
        first = app.worker
        await shop.test(engine, is_careful=True)
        has_another_worker.append(app.worker is not first)

    crashes = await testing.crash_everywhere(app, test)
    assert crashes == 9  # three commits: the charge, the timer with what it led to, the end; three moments each
    assert has_another_worker == [False] + 9 * [True]


async def test_what_is_not_idempotent_is_caught_and_the_point_named(app: Perdure, shop: Any):
    with pytest.raises(AssertionError) as caught:
        await testing.crash_everywhere(app, lambda engine: shop.test(engine, is_careful=False))
    (note,) = caught.value.__notes__
    assert note == (
        "crash_everywhere: it was run with a crash at commit 1 ('charge' of run 'order-1'), "
        "just before it was stored: what its steps did is done, and not recorded"
    )


async def test_a_step_that_does_half_is_caught(app: Perdure):
    """The worst of halves: begun after everything before it was acknowledged, and never ended."""
    lines: list[str] = []

    @app.step
    async def first() -> None:
        pass

    @app.step
    async def write() -> None:
        lines.append("half")
        await asyncio.sleep(0.001)
        lines.append("whole")

    @app.workflow
    async def work() -> None:
        await first()
        await write()

    async def test(engine: testing.Engine) -> None:
        lines.clear()
        await (await app.start(work)).result()
        assert lines.count("half") == lines.count("whole")

    with pytest.raises(AssertionError) as caught:
        await testing.crash_everywhere(app, test)
    assert "commit 1 ('first'" in caught.value.__notes__[0]
    assert "right after it was acknowledged, with the next steps begun" in caught.value.__notes__[0]


async def test_children_events_retries_and_undone_work_survive_every_crash(app: Perdure):
    @app.step(retry=Retry(attempts=3, delay="1 minute"))
    async def flaky() -> int:
        if flow.attempt() < 3:
            raise OSError
        return flow.attempt()

    @app.workflow
    async def child(number: int) -> int:
        await flow.sleep("1 hour")
        return number * await flaky()

    @app.workflow
    async def parent() -> list[int]:
        paid = await flow.wait_for_event("pay", type="paid", timeout="2 days")
        return [paid, *await asyncio.gather(child(1), child(2))]

    async def test(engine: testing.Engine) -> None:
        run = await app.start(parent, id="parent")
        await engine.advance("1 day")
        await engine.send_event(run, "paid", 5)
        await engine.advance("1 day")
        assert await run.result() == [5, 3, 6]

    assert await testing.crash_everywhere(app, test) > 20


async def test_a_test_without_a_commit_or_with_too_many_is_refused(app: Perdure):
    @app.workflow
    async def work() -> None:
        for _ in range(5):
            await flow.sleep("1 hour")

    async def nothing(engine: testing.Engine) -> None:
        await engine.advance("1 day")

    async def much(engine: testing.Engine) -> None:
        await engine.result(await app.start(work))

    with pytest.raises(UsageError, match="made no commit"):
        await testing.crash_everywhere(app, nothing)
    with pytest.raises(UsageError, match=r"makes \d+ commits and would run \d+ times more"):
        await testing.crash_everywhere(app, much, commits=2)


async def test_what_fails_without_a_crash_says_so(app: Perdure):
    async def wrong(engine: testing.Engine) -> None:
        raise AssertionError("wrong anyway")

    with pytest.raises(AssertionError) as caught:
        await testing.crash_everywhere(app, wrong)
    assert caught.value.__notes__ == ["crash_everywhere: it was run without a crash"]
