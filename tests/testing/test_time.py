"""Time in a test: it stands still, moves from timer to timer, and waits for what really runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
import time

import pytest

from perdure import (
    EventTimeoutError,
    Perdure,
    Retry,
    RunFailedError,
    RunNotFinishedError,
    RunNotFoundError,
    RunStatus,
    StoreUnavailableError,
    UsageError,
    flow,
    testing,
)
from tests.testing.bodies import in_a_process

START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


async def test_a_thousand_runs_sleep_three_days(app: Perdure):
    woken: list[int] = []

    @app.step
    async def wake(number: int) -> int:
        woken.append(number)
        return number

    @app.workflow
    async def sleeper(number: int) -> int:
        await flow.sleep("3 days")
        return await wake(number)

    async with testing.engine(app) as engine:
        runs = await app.start_many(sleeper, [(number,) for number in range(1_000)])
        await engine.advance("2 days 23 hours 59 minutes 59 seconds 999 ms")
        assert woken == []
        assert (await app.stats()).status == {RunStatus.WAITING: 1_000}
        await engine.advance("1ms")
        assert sorted(woken) == list(range(1_000))
        assert [await run.result() for run in runs] == list(range(1_000))
        assert engine.now == START + dt.timedelta(days=3)


async def test_time_stops_at_every_timer_in_order(app: Perdure):
    seen: list[tuple[str, dt.datetime]] = []

    @app.step
    async def see(name: str) -> None:
        seen.append((name, engine.now))

    @app.workflow
    async def sleeper(name: str, hours: int) -> None:
        await flow.sleep(dt.timedelta(hours=hours))
        await see(name)
        await flow.sleep("10 hours")
        await see(name)

    async with testing.engine(app) as engine:
        for name, hours in (("late", 5), ("early", 1), ("never", 50)):
            await app.start(sleeper, name, hours)
        await engine.advance("1 day")
        assert [(name, (at - START).total_seconds() / 3600) for name, at in seen] == [
            ("early", 1),
            ("late", 5),
            ("early", 11),
            ("late", 15),
        ]
        assert engine.now == START + dt.timedelta(days=1)


async def test_time_stands_still_by_itself(app: Perdure):
    @app.workflow
    async def sleeper() -> None:
        await flow.sleep("20ms")

    async with testing.engine(app) as engine:
        run = await app.start(sleeper)
        await engine.settle()
        await asyncio.sleep(0.1)
        await engine.settle()
        assert (await run.get()).status is RunStatus.RUNNING
        assert engine.now == START
        await engine.advance(0.02)
        assert (await run.get()).status is RunStatus.COMPLETE


async def test_a_year_in_which_nothing_happens_costs_nothing(app: Perdure):
    @app.workflow
    async def waiter() -> None:
        await flow.wait_for_event("pay", type="paid", timeout=None)

    async with testing.engine(app) as engine:
        await app.start(waiter)
        await engine.settle()
        timers = engine.world.timers_set
        await engine.advance("365 days")
        assert engine.world.timers_set - timers < 5, "a timer goes off again and again"
        await app.start("served elsewhere", input={"number": 1}, id="elsewhere", anyway=True)
        await engine.advance("10 days")
        assert "announced workflow 'served elsewhere'" in str(await app.run("elsewhere").explain())
        assert engine.world.timers_set - timers < 500


async def test_a_delayed_start_an_event_and_its_timeout(app: Perdure):
    @app.workflow
    async def waiter() -> str:
        try:
            return str(await flow.wait_for_event("pay", type="paid", timeout="10 minutes"))
        except EventTimeoutError:
            return "too late"

    async with testing.engine(app) as engine:
        first = await app.start(waiter, delay="1 hour")
        second = await app.start(waiter, delay="1 hour", id="second")
        await engine.advance("1 hour")
        assert await engine.send_event("second", "paid", {"cents": 3}) is True
        assert await second.result() == "{'cents': 3}"
        await engine.advance("9 minutes 59 seconds")
        assert (await first.get()).status is RunStatus.WAITING
        await engine.advance("1 second")
        assert await first.result() == "too late"


async def test_retries_and_step_timeouts_take_virtual_time(app: Perdure):
    attempts: list[dt.datetime] = []

    @app.step(retry=Retry(attempts=3, delay="1 minute", jitter=0), timeout="1 hour")
    async def hang() -> None:
        attempts.append(engine.now)
        await asyncio.Event().wait()

    @app.workflow
    async def work() -> None:
        await hang()

    async with testing.engine(app, patience="20ms") as engine:
        run = await app.start(work)
        await engine.advance("4 hours")
        with pytest.raises(RunFailedError, match="StepTimeoutError"):
            await run.result()
    assert [(at - START).total_seconds() for at in attempts] == [0, 3660, 7380]


async def test_threads_and_processes_are_waited_for(app: Perdure):
    @app.step
    def in_a_thread(number: int) -> tuple[int, int]:
        time.sleep(0.05)
        return number * 2, threading.get_ident()

    process = app.step(run_in="process")(in_a_process)

    @app.workflow
    async def work() -> list[tuple[int, int]]:
        await flow.sleep("1 day")
        first = await in_a_thread(2)
        await flow.sleep("1 day")
        return [first, await process(3)]

    async with testing.engine(app, patience="30s") as engine:
        run = await app.start(work)
        await engine.advance("2 days")
        assert (await run.get()).status is RunStatus.COMPLETE
        (four, thread), (six, pid) = await run.result()
    assert (four, six) == (4, 6)
    assert thread != threading.get_ident()
    assert pid != os.getpid()


async def test_real_work_on_the_loop_is_waited_for(app: Perdure):
    @app.step
    async def fetch() -> str:
        await asyncio.sleep(0.05)
        return "fetched"

    @app.workflow
    async def work() -> str:
        return await fetch()

    async with testing.engine(app) as engine:
        run = await app.start(work)
        await engine.settle()
        assert (await run.get()).status is RunStatus.COMPLETE
        assert (await run.get()).finished_at == int(START.timestamp() * 1000)


async def test_result_moves_time_as_far_as_it_takes(app: Perdure):
    @app.workflow
    async def child() -> str:
        await flow.sleep("40 days")
        return "done"

    @app.workflow
    async def parent() -> str:
        return await child()

    async with testing.engine(app) as engine:
        assert await engine.result(await app.start(parent)) == "done"
        assert engine.now == START + dt.timedelta(days=40)


async def test_result_says_why_time_alone_does_not_help(app: Perdure):
    @app.workflow
    async def waiter() -> None:
        await flow.wait_for_event("pay", type="paid", timeout=None)

    @app.workflow
    async def sleeper() -> None:
        await flow.sleep("30 days")

    async with testing.engine(app) as engine:
        with pytest.raises(RunNotFinishedError, match="paid"):
            await engine.result(await app.start(waiter))
        with pytest.raises(RunNotFinishedError, match="2030-01-31"):
            await engine.result(await app.start(sleeper), within="29 days")
        assert engine.now == START


@pytest.mark.parametrize("seed", [0, 7])
async def test_a_seed_gives_the_same_journals(app: Perdure, seed: int):
    @app.step(retry=Retry(attempts=5, delay="1 minute"))
    async def flaky() -> int:
        if flow.attempt() < 4:
            raise OSError
        return flow.attempt()

    @app.workflow
    async def work() -> list[object]:
        return [str(flow.uuid()), flow.random(), await flaky()]

    async def journal(seed: int) -> bytes:
        async with testing.engine(app, seed=seed) as engine:
            run = await app.start(work)
            await engine.result(run)
            journals = [line for line in (await testing.export_journal(run)).splitlines() if b"traceback" not in line]
            return b"\n".join(journals)

    assert await journal(seed) == await journal(seed)
    assert await journal(seed) != await journal(seed + 1)


async def test_it_begins_when_it_is_told_to(app: Perdure):
    moment = dt.datetime(2024, 2, 28, 12, tzinfo=dt.UTC)

    @app.workflow
    async def tell() -> dt.datetime:
        await flow.sleep_until(moment + dt.timedelta(days=2))
        return flow.now()

    async with testing.engine(app, at=moment) as engine:
        run = await app.start(tell)
        await engine.advance_to(dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC))
        assert await run.result() == moment + dt.timedelta(days=2)
        with pytest.raises(UsageError, match="has passed"):
            await engine.advance_to(moment)


async def test_ended_runs_stay_until_they_are_pruned(app: Perdure):
    @app.workflow
    async def work() -> int:
        return 1

    async with testing.engine(app) as engine:
        run = await app.start(work)
        await engine.advance("3 days")
        assert (await run.status()).output == 1
        assert await engine.prune() == 1
        with pytest.raises(RunNotFoundError):
            await run.get()


async def test_all_queues_are_served_whatever_the_mode(tmp_path):
    app = Perdure(f"sqlite:///{tmp_path}/no/folder/x.db", mode="client", queues=["other"])

    @app.workflow(queue="mails")
    async def work() -> int:
        return 1

    async with testing.engine(app) as engine:
        assert await engine.result(await app.start(work)) == 1
    assert app.settings.mode == "client"
    assert app.settings.queues == ("other",)


async def test_the_application_is_given_back_as_it_was(app: Perdure):
    before = app.store, app.world, app.settings

    @app.workflow
    async def work() -> int:
        return 1

    for _ in range(2):  # each engine has a store of its own
        async with testing.engine(app) as engine:
            assert (await app.stats()).status == {}
            assert (await app.describe()).engine == "memory"
            assert await engine.result(await app.start(work, id="one")) == 1
    assert (app.store, app.world, app.settings) == before
    assert app.worker is None
    with pytest.raises(StoreUnavailableError):
        await app.stats()


async def test_misuse_is_named(app: Perdure):
    @app.step
    async def meddle() -> None:
        await engine.advance("1 day")

    @app.workflow
    async def work() -> None:
        await meddle()

    @app.workflow
    async def circle() -> None:
        await flow.continue_as_new()

    closed = testing.engine(app)
    with pytest.raises(UsageError, match="not open"):
        await closed.settle()
    async with testing.engine(app) as engine:
        with pytest.raises(UsageError, match="open already"):
            await testing.engine(app).open()
        with pytest.raises(UsageError, match="here, await instead"):
            engine.run(asyncio.sleep(0))
        run = await app.start(work)
        with pytest.raises(RunFailedError, match="is being moved already"):
            await engine.result(run)
        await app.start(circle)
        with pytest.raises(UsageError, match="does not come to rest"):
            await engine.settle()


def test_plain_tests_run_coroutines(app: Perdure):
    @app.workflow
    async def work() -> int:
        await flow.sleep("1 day")
        return 1

    async def started() -> int:
        return await engine.result(await app.start(work))

    with asyncio.Runner() as runner:
        engine = testing.engine(app)
        runner.run(engine.open())
        assert engine.run(started()) == 1
        runner.run(engine.close())


async def test_a_world_may_be_given_to_an_engine_by_hand():
    world = testing.VirtualWorld(at=1_000.5, seed=3)
    fired: list[int] = []
    loop = asyncio.get_running_loop()
    world.call_later(loop, 2, lambda: fired.append(2))
    world.call_later(loop, 1, lambda: fired.append(1))
    world.call_later(loop, 0.5, lambda: fired.append(0)).cancel()
    assert (world.now(), world.next_timer(), world.timers_set) == (1_000_500, 1_001_500, 3)
    assert world.fire() == 0
    world.move_to(1_002_500)
    assert world.fire() == 2
    await asyncio.sleep(0)
    assert fired == [1, 2]
    assert world.next_timer() is None
    world.move_to(0)
    assert world.now() == 1_002_500
    assert world.entropy(4) == testing.VirtualWorld(seed=3).entropy(4)
    assert 0 <= world.roll() < 1
