"""Events: kept until they are waited for, read once, in order."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from perdure import (
    EventTimeoutError,
    InboxFullError,
    Limits,
    PayloadTooLargeError,
    RunFailedError,
    RunFinishedError,
    SerializationError,
    UsageError,
    flow,
)


class Payment(msgspec.Struct):
    cents: int


@pytest.fixture
def waiting(make):
    app = make()

    @app.workflow
    async def w(count: int = 1) -> list[object]:
        return [await flow.wait_for_event(f"wait {n}", type="paid", timeout="10 minutes") for n in range(count)]

    return app, w


async def test_an_event_ends_the_wait(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w)
        await world.settle()
        assert str((await run.get()).status) == "waiting"
        assert app.worker.turns == {}, "a waiting run takes no memory"
        assert await run.send_event("paid", {"cents": 5}) is True
        assert await run.result(timeout=5) == [{"cents": 5}]


async def test_an_event_sent_before_the_wait_is_kept(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        await flow.sleep("1 hour")
        return await flow.wait_for_event("wait", type="paid")

    async with app:
        run = await app.start(w)
        await run.send_event("paid", "early")
        await world.advance(3601)
        assert await run.result() == "early"


async def test_an_event_sent_before_the_start_of_a_delayed_run_is_kept(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w, delay=60)
        await run.send_event("paid", "early")
        await world.advance(61)
        assert await run.result() == ["early"]


async def test_events_of_one_type_are_read_in_the_order_they_came(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w, 5)
        for n in range(5):
            await run.send_event("paid", n)
        assert await run.result(timeout=5) == [0, 1, 2, 3, 4]


async def test_an_event_of_another_type_is_left_alone(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w)
        await run.send_event("refused", "no")
        await world.settle()
        assert str((await run.get()).status) == "waiting"
        await run.send_event("paid", "yes")
        assert await run.result(timeout=5) == ["yes"]


async def test_an_event_of_one_id_is_taken_once(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w, 2)
        assert await run.send_event("paid", "a", id="evt_1") is True
        assert await run.send_event("paid", "a", id="evt_1") is False
        await world.settle()
        assert await run.send_event("paid", "a", id="evt_1") is False, "also once it was read"
        assert str((await run.get()).status) == "waiting"
        await run.send_event("paid", "b", id="evt_2")
        assert await run.result(timeout=5) == ["a", "b"]
        assert await run.send_event("paid", "b", id="evt_2") is False, "a repeated send gets the answer that was lost"


async def test_no_event_in_time_is_an_error_of_its_own(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        try:
            return await flow.wait_for_event("wait", type="paid")
        except EventTimeoutError as error:
            return str(error)

    async with app:
        run = await app.start(w)
        await world.advance(119)
        assert str((await run.get()).status) == "waiting"
        await world.advance(1)
        assert "no event came for 'wait' in time" in await run.result()


async def test_a_timeout_that_is_not_caught_fails_the_run(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w)
        await world.advance(600)
        with pytest.raises(RunFailedError, match="EventTimeoutError") as failed:
            await run.result()
    assert type(failed.value.__cause__) is EventTimeoutError


async def test_an_event_that_came_is_not_timed_out_later(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        got = await flow.wait_for_event("wait", type="paid", timeout=60)
        await flow.sleep(600)
        return got

    async with app:
        run = await app.start(w)
        await world.settle()
        await run.send_event("paid", "yes")
        await world.advance(1000)
        assert await run.result() == "yes"


async def test_a_wait_without_timeout_waits_for_ever(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        return await flow.wait_for_event("wait", type="paid", timeout=None)

    async with app:
        run = await app.start(w)
        await world.advance(40 * 86_400)
        await run.send_event("paid", "at last")
        assert await run.result(timeout=5) == "at last"


async def test_the_first_of_two_events_wins_a_race(make, world):
    app = make()

    @app.workflow
    async def w() -> list[str]:
        waits = {
            kind: asyncio.ensure_future(flow.wait_for_event(kind, type=kind, timeout="1 day"))
            for kind in ("approved", "rejected")
        }
        done, left = await asyncio.wait(waits.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await flow.sleep(60)
        return [name for name, task in waits.items() if task in done]

    async with app:
        run = await app.start(w)
        await world.settle()
        await run.send_event("rejected")
        await world.settle()
        await run.send_event("approved")
        await world.advance(100)
        assert await run.result() == ["rejected"]


async def test_a_payload_is_read_as_the_type_that_was_asked_for(make, world):
    app = make()

    @app.workflow
    async def w() -> list[str]:
        payment = await flow.wait_for_event("typed", type="paid", into=Payment)
        try:
            await flow.wait_for_event("bad", type="refunded", into=Payment)
        except SerializationError as error:
            return [repr(payment), str(error)]
        return []

    async with app:
        run = await app.start(w)
        await run.send_event("paid", Payment(5))
        await run.send_event("refunded", "five")
        good, bad = await run.result(timeout=5)
    assert good == repr(Payment(5))
    assert bad.startswith("the event's payload does not fit Payment: ")


async def test_an_ended_run_takes_no_event(waiting, world):
    app, w = waiting
    async with app:
        run = await app.start(w, 0)
        await run.result()
        with pytest.raises(RunFinishedError, match="has ended and takes no event 'paid'"):
            await run.send_event("paid")


async def test_an_inbox_is_bounded(world, url):
    app = world.app(url, limits=Limits(inbox_messages=3))

    @app.workflow
    async def w():
        await flow.wait_for_event("wait", type="other", timeout=None)

    async with app:
        run = await app.start(w)
        for n in range(3):
            await run.send_event("paid", n)
        with pytest.raises(InboxFullError, match=r"Limits.inbox_messages = 3"):
            await run.send_event("paid")
        await run.terminate()


@pytest.mark.parametrize("bad", ["", "x" * 201, None, 5])
async def test_a_bad_event_type_is_refused(waiting, bad):
    app, w = waiting
    async with app:
        run = await app.start(w)
        with pytest.raises(UsageError, match="event type"):
            await run.send_event(bad)
        with pytest.raises(UsageError, match="event id"):
            await run.send_event("paid", id="")
        with pytest.raises(SerializationError, match="the payload of event 'paid'"):
            await run.send_event("paid", object())
        with pytest.raises(PayloadTooLargeError):
            await run.send_event("paid", "x" * 1_048_577)


async def test_an_event_from_another_process_arrives(make, world):
    app, client = make(), make(mode="client")

    @app.workflow
    async def w() -> list[str]:
        return [await flow.wait_for_event("e", type="paid", timeout=None) for _ in range(2)]

    async with app, client:
        run = await app.start(w)
        await world.settle()
        await client.run(run.id).send_event("paid", "one")
        await world.settle()
        await client.run(run.id).send_event("paid", "two")
        await world.advance(6)
        assert await run.result(timeout=5) == ["one", "two"]


async def test_events_during_a_turn_are_not_lost(make, world):
    """Each arrives while the run is in a worker's hands, between two of its commits."""
    app = make()

    @app.step
    async def work(n: int) -> int:
        await app.run("r").send_event("tick", n)
        return n

    @app.workflow
    async def w() -> list[int]:
        await asyncio.gather(*(work(n) for n in range(30)))
        return sorted([await flow.wait_for_event("tick", type="tick", timeout=60) for _ in range(30)])

    async with app:
        run = await app.start(w, id="r")
        await world.settle()
        assert await run.result(timeout=5) == list(range(30))


async def test_a_wait_that_was_given_up_leaves_its_event_for_the_next(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(10):
                await flow.wait_for_event("first", type="paid", timeout=None)
        except TimeoutError:
            pass
        return await flow.wait_for_event("second", type="paid", timeout=None)

    async with app:
        run = await app.start(w)
        await world.advance(20)
        await run.send_event("paid", "late")
        assert await run.result(timeout=5) == "late"
