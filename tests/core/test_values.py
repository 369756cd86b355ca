"""What workflow code makes up is recorded once, and what it shows can be read."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.core.wait import decode_waits
from perdure.model.errors import UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.run import RunStatus
from tests.core.driver import BEGAN, Driver, steps

a, b = steps("a", "b")


async def makes_things_up() -> list[Any]:
    made: list[Any] = [flow.now().isoformat(), flow.random(), str(flow.uuid())]
    await a()
    return [*made, flow.now().isoformat(), flow.random(), str(flow.uuid())]


def test_now_random_and_uuid_are_the_same_on_every_replay():
    dice = itertools.count()
    entropy: Any = lambda count: bytes([next(dice)] * count)  # noqa: E731  # each roll gives something else
    run = Driver(makes_things_up, entropy=entropy)
    run.end("a", after=3600)
    first = run.result
    assert dt.datetime.fromisoformat(first[0]) == dt.datetime.fromtimestamp(BEGAN / 1000, dt.UTC)
    assert dt.datetime.fromisoformat(first[3]) - dt.datetime.fromisoformat(first[0]) == dt.timedelta(hours=1)
    assert first[1] != first[4]
    assert uuid.UUID(first[2]).version == 4
    assert first[2] != first[5]
    again = Driver(makes_things_up, journal=run.journal[:8], now=BEGAN + 10**9, entropy=entropy)
    assert again.result == first
    assert run.keys == ["now", "random", "uuid", "a", "now#2", "random#2", "uuid#2", "output"]


def test_a_value_is_asked_of_chance_only_once():
    asked = []

    async def work() -> float:
        value = flow.random()
        await a()
        return value

    run = Driver(work, entropy=lambda count: asked.append(count) or bytes(count))
    run.crash()
    run.crash()
    run.end("a")
    assert asked == [16]


def test_state_is_sent_when_it_changes_and_not_again_on_a_replay():
    async def work() -> None:
        flow.set("at", "start")
        await a()
        flow.set("at", "end")
        flow.set("seen", [1, 2])
        await b()

    run = Driver(work)
    assert run.run.state == '{"at":"start"}'
    run.end("a")
    assert run.run.state == '{"at":"end","seen":[1,2]}'
    sent = len(run.decisions)
    run.crash()
    assert len(run.decisions) == sent
    run.end("b")
    assert run.decisions[-1].state is None
    assert run.status is RunStatus.COMPLETE


def test_state_that_cannot_be_stored_is_refused_by_name():
    async def work() -> None:
        flow.set("at", object())

    assert "state 'at' cannot be stored" in str(Driver(work).error)


def test_workflow_code_can_ask_who_it_is_and_whether_it_is_replayed():
    async def work() -> list[Any]:
        before = flow.is_replaying()
        await a()
        return [flow.run_id(), before, flow.is_replaying()]

    run = Driver(work)
    run.end("a")
    assert run.result == ["r", False, False]
    assert Driver(work, journal=run.journal[:2]).result == ["r", True, False]


@pytest.mark.parametrize("name", ["", "a/b", "a#2", "a\n", "x" * (NAME_LENGTH + 1), None])
def test_a_name_that_cannot_stand_in_a_key_is_refused(name: Any):
    with pytest.raises(UsageError, match="the thing: "):
        check_name(name, "the thing")


def test_a_run_that_waits_for_nothing_has_no_waits():
    assert decode_waits(None).waits == []
