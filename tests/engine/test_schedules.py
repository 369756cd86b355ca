"""Schedules at work: each fire starts one run, whoever is there, and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from zoneinfo import ZoneInfo

import pytest

from perdure import (
    BatchTooLargeError,
    DefinitionError,
    Retention,
    RunFinishedError,
    RunNotFoundError,
    RunStatus,
    SerializationError,
    UnknownWorkflowError,
    UsageError,
    flow,
)
from perdure.core.schedule import QUEUED
from perdure.engine.triggers.scheduler import RENEW_AFTER
from tests.engine.world import NOW, World

MINUTE, HOUR, DAY = 60, 3_600, 86_400


def at(seconds: float = 0) -> dt.datetime:
    """A moment of the world, so many seconds behind its beginning."""
    return dt.datetime.fromtimestamp(NOW / 1000 + seconds, dt.UTC)


async def fires(app, name: str = "tick") -> list[str]:
    """The times of the fires that started a run, in their order."""
    found, cursor = [], None
    while True:
        page = await app.runs(id_prefix=f"schedule:{name}@", limit=1_000, cursor=cursor)
        found += [run.id.partition("@")[2] for run in page.runs]
        cursor = page.cursor
        if cursor is None:
            return sorted(found)


def ticking(app):
    @app.workflow(retention=Retention.of(complete=None))
    async def tick() -> str:
        return flow.run_id()

    return tick


def napping(app):
    @app.workflow
    async def nap(minutes: float = 5) -> None:
        await flow.sleep(minutes * MINUTE)

    return nap


async def test_it_starts_its_target(world, app):
    async with app:
        summary = await app.schedules.create("tick", ticking(app), every="1h")
        assert (summary.next_at, summary.timing, summary.status) == (at(2_800), "every 3600 s", RunStatus.QUEUED)
        await world.advance(3 * HOUR)
        assert await fires(app) == ["2023-11-14T23:00:00Z", "2023-11-15T00:00:00Z", "2023-11-15T01:00:00Z"]
        run = await app.run("schedule:tick@2023-11-15T00:00:00Z").get()
        assert (run.status, run.created_at - NOW) == (RunStatus.COMPLETE, 6_400_000)
        assert run.tags == {"schedule": "tick", "fire": "2023-11-15T00:00:00Z"}
        summary = await app.schedules.get("tick")
        assert (summary.started, summary.last_run, summary.next_at) == (
            3, "schedule:tick@2023-11-15T01:00:00Z", at(2_800 + 3 * HOUR),
        )  # fmt: skip


async def test_it_takes_no_place_in_the_queue_of_its_target_and_waits_for_none(world, make):
    app = make()
    app.limit("default", concurrency=1)
    nap = napping(app)
    async with app:
        await app.schedules.create("nap", nap, 90, every="1h", overlap="cancel-previous")
        await world.advance(5 * HOUR)
        assert (await app.schedules.get("nap")).started == 5
        assert [run.status for run in (await app.runs(workflow="nap")).runs[1:]] == [RunStatus.TERMINATED] * 4
        await app.queue("default").pause()
        await world.advance(2 * HOUR)
        summary = await app.schedules.get("nap")
        assert (summary.started, summary.missed) == (7, 0)
        assert (await app.queue("default").stats()).later == 0
        await app.queue("perdure.schedules:default").pause()
        await world.advance(2 * HOUR)
        assert (await app.schedules.get("nap")).started == 7


async def test_arguments_reach_the_target(world, app):
    got = []

    @app.task(queue="mail", priority=7)
    async def mail(to: str, copies: int = 1) -> None:
        got.append((to, copies))

    app.settings = type(app.settings)(queues=("default", "mail"))
    async with app:
        await app.schedules.create("first", mail, "ada", every="1h")
        await app.schedules.create("second", "mail", input={"to": "bob", "copies": 2}, every="1h", start=at(60))
        assert [summary.input for summary in await app.schedules.list()] == [{"to": "ada"}, {"to": "bob", "copies": 2}]
        await world.advance(HOUR)
        assert got == [("bob", 2), ("ada", 1)]
        run = (await app.runs(id_prefix="schedule:first@")).runs[0]
        assert (run.queue, run.priority) == ("mail", 7)


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe"])
async def test_a_year_of_days_over_both_changes_of_the_clock(app, world, zone):
    world.at = int(dt.datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).timestamp() * 1000)
    async with app:
        await app.schedules.create("tick", ticking(app), cron="15 2 * * *", tz=zone)
        await world.advance(365 * DAY)
        found = [dt.datetime.fromisoformat(fire).astimezone(ZoneInfo(zone)) for fire in await fires(app)]
        assert [fire.timetuple().tm_yday for fire in found] == list(range(1, 366))
        moved = [(fire.month, fire.hour, fire.minute) for fire in found if (fire.hour, fire.minute) != (2, 15)]
        assert moved == {
            "Europe/Paris": [(3, 3, 0)], "America/New_York": [(3, 3, 0)], "Australia/Lord_Howe": [(10, 2, 30)],
        }[zone]  # fmt: skip
        summary = await app.schedules.get("tick")
        assert (summary.started, summary.missed, summary.failed) == (365, 0, 0)


async def test_its_journal_stays_short(app, world):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1m")
        await world.advance(3 * RENEW_AFTER * MINUTE)
        assert len(await fires(app)) == 3 * RENEW_AFTER
        run = await app.run("schedule:tick").get()
        assert run.journal_length < 2 * RENEW_AFTER
        assert run.incarnation > 3


async def test_two_workers_never_double_a_fire(world, make):
    one, other = make(), make()
    for app in (one, other):
        ticking(app)
    async with one, other:
        await one.schedules.create("tick", "tick", every="30s")
        await world.advance(10 * MINUTE)
        found = await fires(one)
        assert len(found) == 20
        assert (await other.schedules.get("tick")).started == 20
        runs = (await one.runs(id_prefix="schedule:tick@")).runs
        assert {run.status for run in runs} == {RunStatus.COMPLETE}


@pytest.mark.parametrize("operation", ["create", "commit"])
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_that_dies_anywhere_doubles_and_loses_nothing(world, make, operation, number, moment):
    """It dies before or after the n-th write of a kind; another one takes over when its lease has run out."""
    first, second = make(lease="15s"), make(lease="15s")
    for app in (first, second):
        ticking(app)
    async with first:
        await first.schedules.create("tick", "tick", every="1m", catch_up="1h")
    seen, dead, never = [], [], asyncio.Event()

    async def step_in(name: str) -> None:
        if name != operation or dead:
            return
        seen.append(name)
        if len(seen) > number:
            dead.append(asyncio.current_task())
            world.stores.remove(first.store)  # nobody waits for it
            await never.wait()

    await first.open()
    setattr(first.store, moment, step_in)
    for _ in range(10 * MINUTE):
        if dead:
            break
        await world.advance(1)
    assert dead
    await world.crash(first)
    async with second:
        await world.advance(5 * MINUTE)
        found = await fires(second)
        summary = await second.schedules.get("tick")
    dead[0].cancel()
    steps = {dt.datetime.fromisoformat(b) - dt.datetime.fromisoformat(a) for a, b in itertools.pairwise(found)}
    assert steps == {dt.timedelta(minutes=1)}
    assert (summary.started, summary.missed) == (len(found), 0)


class TestMissed:
    async def gone(self, world: World, app, hours: float, **options) -> list[str]:
        """What is made up for after so many hours without a worker."""
        ticking(app)
        async with app:
            await app.schedules.create("tick", "tick", every="1h", **options)
            await world.settle()
        await world.advance(hours * HOUR)
        assert await self.known(world, app) == []
        async with app:
            await world.settle()
            self.summary = await app.schedules.get("tick")
            return await fires(app)

    async def known(self, world: World, app) -> list[str]:
        return []

    async def test_the_last_is_made_up_for(self, world, app):
        assert await self.gone(world, app, 5) == ["2023-11-15T03:00:00Z"]
        assert (self.summary.started, self.summary.missed) == (1, 4)

    async def test_all_within_the_catch_up_are(self, world, app):
        assert await self.gone(world, app, 5, catch_up="2h") == ["2023-11-15T02:00:00Z", "2023-11-15T03:00:00Z"]
        assert (self.summary.started, self.summary.missed) == (2, 3)

    async def test_none_is_where_nothing_is_to_be_caught_up_with(self, world, app):
        assert await self.gone(world, app, 5, catch_up=0) == []
        assert (self.summary.started, self.summary.missed) == (0, 5)


class TestOverlap:
    async def overlapping(self, world: World, app, overlap: str, minutes: float = 15) -> None:
        napping(app)
        await app.schedules.create("nap", "nap", input={"minutes": 2.5}, every="1m", overlap=overlap)
        await world.advance(minutes * MINUTE)
        self.summary = await app.schedules.get("nap")
        self.runs = sorted((await app.runs(id_prefix="schedule:nap@")).runs, key=lambda run: run.created_at)

    def apart(self) -> list[float]:
        starts = [run.created_at / 1000 for run in self.runs]
        return [later - earlier for earlier, later in itertools.pairwise(starts)]

    async def test_allow(self, world, app):
        async with app:
            await self.overlapping(world, app, "allow")
            assert set(self.apart()) == {60}
            assert [run.status for run in self.runs].count(RunStatus.WAITING) in (2, 3)

    async def test_skip(self, world, app):
        async with app:
            await self.overlapping(world, app, "skip")
            assert set(self.apart()) == {180}
            assert (self.summary.started, self.summary.skipped) == (5, 10)

    async def test_queue(self, world, app):
        async with app:
            await self.overlapping(world, app, "queue")
            assert all(150 <= apart <= 165 for apart in self.apart())
            assert [run.status for run in self.runs].count(RunStatus.WAITING) == 1
            assert self.summary.started + self.summary.queued == 15
            nominal = [dt.datetime.fromisoformat(run.id.partition("@")[2]) for run in self.runs]
            assert {later - earlier for earlier, later in itertools.pairwise(nominal)} == {dt.timedelta(minutes=1)}

    async def test_queue_is_bounded(self, world, app):
        napping(app)
        async with app:
            await app.schedules.create("nap", "nap", input={"minutes": 1e6}, every="1m", overlap="queue")
            await world.advance((QUEUED + 10) * MINUTE)
            summary = await app.schedules.get("nap")
            assert (summary.queued, summary.started, summary.skipped) == (QUEUED, 1, 9)

    async def test_cancel_previous(self, world, app):
        async with app:
            await self.overlapping(world, app, "cancel-previous")
            assert set(self.apart()) == {60}
            assert [run.status for run in self.runs] == [RunStatus.TERMINATED] * 14 + [RunStatus.WAITING]


async def test_a_pause_fires_nothing_and_makes_up_for_nothing(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h", catch_up="1d")
        await app.schedules.pause("tick")
        assert (await app.schedules.get("tick")).is_paused  # before its run has heard of it
        await world.advance(5 * HOUR)
        summary = await app.schedules.get("tick")
        assert (await fires(app), summary.next_at, summary.is_paused) == ([], None, True)
        await app.schedules.resume("tick")
        await world.advance(HOUR)
        assert await fires(app) == ["2023-11-15T04:00:00Z"]


async def test_it_may_begin_paused(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h", paused=True)
        await world.advance(2 * HOUR)
        assert await fires(app) == []


async def test_once(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), at=at(100))
        await world.advance(1_000)
        assert await fires(app) == ["2023-11-14T22:15:00Z"]
        summary = await app.schedules.get("tick")
        assert (summary.status, summary.next_at, summary.started) == (RunStatus.COMPLETE, None, 1)
        assert await app.schedules.list() == []
        with pytest.raises(RunFinishedError):
            await app.schedules.pause("tick")
        await app.schedules.create("tick", "tick", at=at(2_000), replace=True)
        await world.advance(2_000)
        assert len(await fires(app)) == 2


async def test_once_in_centuries(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), at=dt.datetime(2200, 1, 1, tzinfo=dt.UTC))
        await world.advance(170 * 366 * DAY)
        assert (await app.schedules.get("tick")).status is RunStatus.WAITING
        await world.advance(10 * 366 * DAY)
        assert await fires(app) == ["2200-01-01T00:00:00Z"]


async def test_what_asks_for_nothing_changes_nothing(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h")
        for wish in ({"schedule": 5}, None, {"schedule": {"name": "tick", "workflow": "tick", "cron": "x"}}):
            await app.run("schedule:tick").send_event("schedule.change", wish)
            assert (await app.schedules.get("tick")).timing == "every 3600 s"
        await world.advance(2 * HOUR)
        assert len(await fires(app)) == 2


async def test_from_start_to_end(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h", start=at(1_800), end=at(1_800 + 2 * HOUR))
        await world.advance(5 * HOUR)
        assert await fires(app) == ["2023-11-14T22:43:20Z", "2023-11-14T23:43:20Z"]
        assert (await app.schedules.get("tick")).status is RunStatus.COMPLETE


async def test_jitter(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h", jitter="10m")
        await world.advance(48 * HOUR)
        runs = (await app.runs(id_prefix="schedule:tick@")).runs
        late = [run.created_at / 1000 - dt.datetime.fromisoformat(run.tags["fire"]).timestamp() for run in runs]
        assert len(late) in (47, 48)
        assert all(0 <= by <= 601 for by in late)
        assert len(set(late)) > 40


async def test_a_trigger_starts_it_at_once(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1d", paused=True, overlap="skip")
        run = await app.schedules.trigger("tick")
        assert (await run.result()) == run.id
        assert run.id.startswith("schedule:tick!")


async def test_a_backfill_starts_what_is_not_there(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h")
        await world.advance(2 * HOUR)
        runs = await app.schedules.backfill("tick", at(-3 * HOUR), at(2 * HOUR))
        assert len(runs) == 5
        assert len(await fires(app)) == 5
        assert {await run.result() for run in runs} == {run.id for run in runs}
        with pytest.raises(BatchTooLargeError, match="more than 1,000 fires"):
            await app.schedules.backfill("tick", at(-2_000 * HOUR), at())


async def test_the_next_times(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), cron="0 9 * * mon-fri", tz="Europe/Paris")
        following = await app.schedules.next("tick", 3)
        assert [time.isoformat() for time in following] == [
            "2023-11-15T09:00:00+01:00", "2023-11-16T09:00:00+01:00", "2023-11-17T09:00:00+01:00",
        ]  # fmt: skip
        await app.schedules.create("once", "tick", at=at(60))
        assert await app.schedules.next("once") == [at(60)]
        for n in (0, 1_001):
            with pytest.raises(UsageError, match="must be from 1 to 1,000"):
                await app.schedules.next("tick", n)


async def test_a_deleted_one_is_gone_and_its_name_is_free(world, app):
    async with app:
        await app.schedules.create("tick", ticking(app), every="1h")
        await world.advance(HOUR)
        await app.schedules.delete("tick")
        assert await app.schedules.list() == []
        await world.advance(HOUR)
        assert len(await fires(app)) == 1
        for call in (app.schedules.get, app.schedules.pause, app.schedules.delete, app.schedules.trigger):
            with pytest.raises(RunNotFoundError, match="no schedule 'tick': it was never made, or was deleted"):
                await call("tick")
        await app.schedules.create("tick", "tick", every="1h")


async def test_names_are_taken_once(world, app):
    tick = ticking(app)
    async with app:
        await app.schedules.create("tick", tick, every="1h")
        await app.schedules.create("tick", tick, every="1h")  # the same
        with pytest.raises(UsageError, match="there is another schedule 'tick'; give it another name, or replace=True"):
            await app.schedules.create("tick", tick, every="2h")
        await app.schedules.pause("tick")
        await app.schedules.create("tick", tick, every="2h", replace=True)
        summary = await app.schedules.get("tick")
        assert (summary.timing, summary.is_paused) == ("every 7200 s", True)
        await world.settle()
        assert (await app.schedules.get("tick")).timing == "every 7200 s"


async def test_what_cannot_be_made(world, app):
    nap = napping(app)
    async with app:
        await world.settle()
        for arguments, options, error, message in [
            ((), {}, UsageError, "give one of cron, every and at, not none"),
            ((), {"cron": "0 9 * *"}, UsageError, "cron: '0 9 . .' is no cron expression"),
            ((), {"cron": "* * * * *", "tz": "Mars"}, UsageError, "tz: 'Mars' is no IANA time zone"),
            ((), {"every": "1h", "tz": "Mars"}, UsageError, "tz: 'Mars' is no IANA time zone"),
            ((), {"every": "soon"}, UsageError, "every: 'soon' is no duration"),
            ((), {"every": "1h", "jitter": "2h"}, UsageError, "jitter: 7200 s is longer than"),
            ((), {"every": "1h", "overlap": "never"}, UsageError, "overlap: 'never' must be"),
            ((), {"at": at(-1)}, UsageError, "never fires: its time has passed"),
            ((), {"at": 1e15}, UsageError, "only after the year 9000"),
            ((), {"at": dt.datetime(2030, 1, 1)}, UsageError, "at: .* has no time zone"),  # noqa: DTZ001  # is tested
            (("five",), {"every": "1h"}, SerializationError, "the input of workflow 'nap' does not fit"),
        ]:
            with pytest.raises(error, match=message):
                await app.schedules.create("nap", nap, *arguments, **options)
        for name in ("", "a/b", "x" * 141):
            with pytest.raises(UsageError, match="schedule name"):
                await app.schedules.create(name, nap, every="1h")
        with pytest.raises(UnknownWorkflowError, match="did you mean 'nap'"):
            await app.schedules.create("x", "nop", every="1h")
        with pytest.raises(UsageError, match="schedule 'x': there is no option 'evry'; known: cron, every, at, tz"):
            await app.schedules.create("x", nap, evry="1h")
        with pytest.raises(UsageError, match="is given by name, so give its arguments as input"):
            await app.schedules.create("x", "nap", 5, every="1h")
        with pytest.raises(UsageError, match="is no workflow of this application"):
            await app.schedules.create("x", napping(World().app("memory://elsewhere")), every="1h")
        assert await app.schedules.list() == []


async def test_a_target_that_cannot_be_started_is_counted(world, make):
    app, other = make(), make()
    napping(other)
    async with app:
        await app.schedules.create("gone", "nap", every="1h", input={"minutes": "x"})
        async with other:
            await world.settle()
            await world.advance(2 * HOUR)
            summary = await app.schedules.get("gone")
    assert summary.failed + summary.started == 2


class TestDeclared:
    def declare(self, app, **options):
        @app.schedule(**{"every": "1h", **options})
        @app.workflow
        async def tick() -> None: ...

    async def test_a_worker_writes_it(self, world, make):
        client, app = make(mode="client"), make()
        self.declare(client)
        self.declare(app, overlap="skip")
        async with client:
            assert await client.schedules.list() == []
            async with app:
                (summary,) = await client.schedules.list()
                assert (summary.name, summary.overlap) == ("tick", "skip")
                await world.advance(HOUR)
                assert len(await fires(client)) == 1

    async def test_a_change_comes_with_the_next_worker(self, world, make):
        for hours in (1, 1, 2, 1):
            app = make()
            self.declare(app, every=f"{hours}h")
            async with app:
                await world.settle()
                (summary,) = await app.schedules.list()
                assert summary.timing == f"every {hours * HOUR} s"
                await app.schedules.pause("tick")
                await world.settle()
        assert summary.is_paused  # whatever else changed
        app = make()
        async with app:
            assert (await app.schedules.get("tick")).is_paused  # taken out of the code, and still there

    async def test_it_moves_with_its_target_to_another_queue(self, world, make):
        for number, queue in enumerate(("a", "a", "b"), 1):
            app = make(queues=(queue,))

            @app.schedule(every="1h", catch_up="1d")
            @app.workflow(queue=queue)
            async def tick() -> None: ...

            async with app:
                await world.advance(HOUR)
                assert (await app.run("schedule:tick").get()).queue == f"perdure.schedules:{queue}"
                assert (await app.schedules.get("tick")).started == len(await fires(app)) == number + (number == 3)
            if number == 2:
                await world.advance(HOUR)

    async def test_a_paused_one_that_moves_stays_paused(self, world, make):
        for queue in ("a", "b"):
            app = make(queues=(queue,))

            @app.schedule(every="1h")
            @app.workflow(queue=queue)
            async def tick() -> None: ...

            async with app:
                if queue == "a":
                    await app.schedules.pause("tick")
                await world.advance(2 * HOUR)
                assert await fires(app) == []

    async def test_what_was_missed_before_another_input_is_made_up_for(self, world, make):
        for number in (1, 2):
            app = make()

            @app.schedule(every="1h", input={"number": number}, catch_up="1d")
            @app.workflow
            async def tick(number: int) -> int:
                return number

            async with app:
                await world.settle()
                found = await fires(app)
            await world.advance(3 * HOUR)
        assert len(found) == 3

    async def test_one_that_is_over_is_left_alone(self, world, make):
        for _ in range(3):
            app = make()
            self.declare(app, every=None, at=at(60))
            async with app:
                await world.advance(100)
                assert len(await fires(app)) == 1
                assert (await app.schedules.get("tick")).started == 1

    def test_mistakes_are_told_where_it_stands(self, app):
        with pytest.raises(UsageError, match="is no cron expression"):
            self.declare(app, every=None, cron="x")
        with pytest.raises(TypeError, match="missing a required argument"):

            @app.schedule(every="1h")
            @app.workflow
            async def needy(number: int) -> None: ...

        with pytest.raises(UsageError, match="@app.schedule stands above @app.workflow or @app.task"):

            @app.schedule(every="1h")
            async def plain() -> None: ...

        with pytest.raises(UsageError, match="workflow 'nap' is not registered with this application"):
            app.schedule(every="1h")(napping(World().app("memory://elsewhere")))

        nap = napping(app)
        app.schedule(every="1h")(nap)
        app.schedule(every="2h", name="slow")(nap)
        with pytest.raises(DefinitionError, match="a schedule 'slow' is declared already"):
            app.schedule(every="3h", name="slow")(nap)


async def test_why_it_does_not_move_is_told(world, make):
    client, app = make(mode="client"), make()
    ticking(app)

    async def reason() -> str:
        return (await client.run("schedule:tick").explain()).reasons[-1]

    async with client:
        await client.schedules.create("tick", "tick", every="1h")
        assert await reason() == "no worker has ever announced anything: start one"
        async with app:
            await world.settle()
            assert "'change' waits for an event of type 'schedule.change' until" in await reason()
        await client.schedules.create("other", "tick", every="1h")
        assert "workers are there, and busy" in (await client.run("schedule:other").explain()).reasons[-1]
        await world.advance(DAY)
        first, *_ = (await client.run("schedule:tick").explain()).reasons
        assert first.startswith("no worker has announced anything since 2023-11-14 22:13:20 UTC")
