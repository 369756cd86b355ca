"""What operators ask for that applications seldom do: what needs help, and changes of a part of something."""

from __future__ import annotations

import pytest

from perdure import (
    DefinitionError,
    KeyLimits,
    QueueLimits,
    Rate,
    Retry,
    RunFinishedError,
    RunNotFoundError,
    RunStatus,
    UsageError,
    flow,
)
from tests.engine.test_schedules import at, fires, ticking

# Runs that need help.


def trips(app):
    """A workflow whose undo fails, and one that waits."""

    @app.step(retry=Retry(attempts=1))
    async def refund() -> None:
        raise ValueError("the bank is closed")

    @app.step(undo=refund)
    async def pay() -> str:
        return "paid"

    @app.workflow
    async def trip() -> None:
        await pay()
        raise ValueError("no hotel")

    @app.workflow
    async def nap() -> None:
        await flow.sleep("1 hour")

    return trip, nap


async def test_what_needs_help_is_found_among_what_is_paused(make, world):
    app = make()
    trip, nap = trips(app)
    async with app:
        stuck = await app.start(trip, id="stuck")
        naps = [await app.start(nap, id=f"nap-{n}") for n in range(5)]
        await world.advance(30)
        assert (await stuck.get()).status is RunStatus.COMPENSATION_FAILED
        for run in naps:
            await run.pause()
        await world.advance(1)
        page = await app.in_need(limit=1)
        assert [run.id for run in page.runs] == ["stuck"]
        page = await app.in_need()
        assert ([run.id for run in page.runs], page.cursor) == (["stuck"], None)
        with pytest.raises(UsageError, match=r"^limit: 0 must be from 1 to 1,000"):
            await app.in_need(limit=0)
        await stuck.retry_undo()
        assert (await app.in_need()).runs == [], "somebody has seen to it"


# Limits, one by one.


async def test_one_bound_of_a_queue_is_changed_and_the_others_stay(make):
    app = make(mode="client")
    async with app:
        queue = app.queue("mail")
        await queue.set_limits(concurrency=5, rate=Rate.of(2, per="1s"), fair=True)
        assert await queue.change_limits(per_key=1) == QueueLimits(5, 1, Rate(2, 1000), is_fair=True)
        assert await queue.change_limits(concurrency=None, fair=False) == QueueLimits(None, 1, Rate(2, 1000))
        with pytest.raises(UsageError, match="per_key: 0 must be a whole number"):
            await queue.change_limits(per_key=0)
        assert await queue.limits() == QueueLimits(None, 1, Rate(2, 1000))


async def test_limit_keys_have_bounds_of_their_own(make):
    app = make(mode="client")
    async with app:
        queue = app.queue("mail")
        slow, fast = KeyLimits(1, Rate(1, 60_000)), KeyLimits(20)
        await queue.set_key_limits({"acme": slow, "globex": fast})
        await queue.set_limits(concurrency=5)
        await queue.change_limits(per_key=1)
        assert await queue.limits() == QueueLimits(5, 1, own={"acme": slow, "globex": fast})
        await queue.set_key_limits({"acme": None, "nobody": None})
        assert (await queue.limits()).own == {"globex": fast}


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"": KeyLimits(1)}, "queue 'mail', limit key: it is empty"),
        ({"a\n": KeyLimits(1)}, "queue 'mail', limit key: 'a\\\\n' must be printable text"),
        ({"a": KeyLimits(0)}, "queue 'mail, limit key a', concurrency: 0 must be a whole number"),
        ({str(n): KeyLimits(1) for n in range(10_001)}, "10,001 limit keys have bounds of their own, over 10,000"),
    ],
)
async def test_bounds_of_a_limit_key_that_make_no_sense_are_refused(make, limits, told):
    app = make(mode="client")
    async with app:
        with pytest.raises(UsageError, match=told):
            await app.queue("mail").set_key_limits(limits)
        assert await app.queue("mail").limits() == QueueLimits()


# Schedules.


async def test_a_schedule_is_changed_in_part(app, world):
    tick = ticking(app)
    async with app:
        await app.schedules.create("tick", tick, every="1 hour", jitter="1s", overlap="skip", end=at(86_400))
        changed = await app.schedules.update("tick", every="90 minutes")
        assert (changed.timing, changed.overlap) == ("every 5400 s", "skip")
        changed = await app.schedules.update("tick", cron="30 * * * *", tz="Asia/Kolkata")
        assert changed.timing.startswith("30 * * * *")
        await world.advance(2 * 3_600)
        assert len(await fires(app)) == 2
        with pytest.raises(UsageError, match="give one of cron, every and at"):
            await app.schedules.update("tick", cron="* * * * *", every="1 minute")
        with pytest.raises(UsageError, match=r"'tick', option|overlap: 'never'"):
            await app.schedules.update("tick", overlap="never")
        with pytest.raises(UsageError, match="its time has passed"):
            await app.schedules.update("tick", at=at(-60))
        with pytest.raises(RunNotFoundError, match="no schedule 'tock'"):
            await app.schedules.update("tock", every=60)


async def test_a_changed_schedule_has_its_new_input_and_stays_paused(app, world):
    got = []

    @app.workflow
    async def greet(name: str) -> None:
        got.append(name)

    async with app:
        await app.schedules.create("greet", greet, "ada", every="1 hour", paused=True)
        changed = await app.schedules.update("greet", input={"name": "grace"})
        assert (changed.input, changed.is_paused) == ({"name": "grace"}, True)
        await world.advance(3_600)
        assert got == []
        await app.schedules.resume("greet")
        await world.advance(3_600)
        assert got == ["grace"]
        with pytest.raises(UsageError, match="input does not fit: .*missing a required argument"):
            await app.schedules.update("greet", input={"nobody": 1})


async def test_a_schedule_that_has_ended_is_changed_no_more(app, world):
    tick = ticking(app)
    async with app:
        await app.schedules.create("once", tick, at=at(60))
        await world.advance(120)
        with pytest.raises(RunFinishedError, match="schedule 'once' has ended"):
            await app.schedules.update("once", every=60)


# Definitions.


async def test_a_definition_is_checked_and_not_kept(make):
    app = make(mode="client")

    @app.task
    def send(to: str) -> None: ...

    async with app:
        right = {"name": "mail", "definition": {"steps": [{"taskName": "send", "data": {"to": "ada"}}]}}
        checked = await app.validate(right)
        assert (checked.name, checked.data["definition"]["steps"][0]["data"]) == ("mail", {"to": "ada"})
        assert await app.definitions() == []
        wrong = {"name": "mail", "steps": [{"task": "sent", "data": {"to": "ada"}, "timeot": 1}, {"task": "send"}]}
        with pytest.raises(DefinitionError) as caught:
            await app.validate(wrong)
        assert [each.partition(": ")[0] for each in caught.value.found] == ["steps[0].timeot", "steps[0]"]
