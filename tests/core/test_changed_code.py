"""Newer code over an older journal: what fits goes on, what does not is told, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.authoring.step import Step
from perdure.authoring.workflow import Workflow
from perdure.core.drift import Drift
from perdure.model.run import RunStatus
from tests.core.driver import Driver, event, replayed, step, steps

a, b, c, d = steps("a", "b", "c", "d")


def chain(*asked: Step[..., Any], end: str = "end") -> Any:
    """A workflow that takes these steps one after the other."""

    async def work() -> str:
        for each in asked:
            await each(each.name)
        return end

    return work


def journal_of(*done: Step[..., Any], asked: Any = None) -> Driver:
    """A run that has taken these steps and not ended; its worker is gone."""
    run = Driver(asked or chain(*done, step("last")))
    for each in done:
        run.end(each.name, each.name)
    return run


def befores(run: Driver) -> dict[str, int | None]:
    return {record.key: record.before for record in run.journal[1:]}


def test_a_name_used_again_gets_a_number():
    async def work() -> list[str]:
        return [await a("x"), await a("y"), *await asyncio.gather(a("z"), b("w"))]

    run = Driver(work).finish()
    assert run.result == ["x", "y", "z", "w"]
    assert run.keys == ["a", "a#2", "a#3", "b", "output"]


@pytest.mark.parametrize(
    ("now", "keys", "before"),
    [
        ([d, a, b, c], ["a", "b", "d", "c", "output"], 1),
        ([a, d, b, c], ["a", "b", "d", "c", "output"], 2),
        ([a, b, d, c], ["a", "b", "d", "c", "output"], None),
    ],
    ids=["before", "between", "after"],
)
def test_a_step_added_to_a_running_run_is_taken_and_stands_where_the_code_has_it(now, keys, before):
    run = journal_of(a, b, asked=chain(a, b, c))
    run.crash(chain(*now))
    assert list(run.running) == ["d"]
    run.finish()
    assert run.result == "end"
    assert run.keys == keys
    assert befores(run)["d"] == before
    assert [record.before for record in run.journal if record.key in "abc"] == [None] * 3
    for keep in range(3, len(run.journal)):
        assert replayed(run.journal, chain(*now), keep=keep).journal == run.journal


def test_held_records_are_not_run_again_while_an_added_step_runs():
    async def old() -> None:
        await asyncio.gather(chain(a, c)(), b("b"))

    async def new() -> None:
        await asyncio.gather(chain(d, a, c)(), b("b"))

    run = Driver(old)
    run.end("a", "a")
    run.end("b", "b")
    run.crash(new)
    assert list(run.running) == ["d"]
    run.end("d")
    assert list(run.running) == ["c"]
    run.end("c")
    assert run.keys == ["a", "b", "d", "c", "output"]
    assert run.status is RunStatus.COMPLETE


def test_held_timers_and_events_are_not_taken_again_either():
    def work(*first: Step[..., Any]) -> Any:
        async def run() -> str:
            paid = flow.wait_for_event("go", type="go")
            _, got, _ = await asyncio.gather(chain(*first)(), paid, asyncio.sleep(5))
            return got

        return run

    run = Driver(work(a, c))
    run.end("a", "a")
    run.send("go", "first")
    run.wait(5)
    run.crash(work(d, a, c))
    run.send("go", "second")
    run.wait(5)
    run.end("d")
    run.end("c")
    assert run.result == "first"
    assert run.keys == ["a", "go", "sleep", "d", "c", "output"]
    assert [message.payload for message in run.inbox] == ['"second"']


def test_successive_additions_nest():
    first, second, third = steps("first", "second", "third")
    run = journal_of(a, b, asked=chain(a, b, c))
    for asked in (chain(a, first, b, c), chain(a, second, first, b, c), chain(a, second, third, first, b, c)):
        run.crash(asked)
        ((key, _),) = run.running.items()
        run.end(key, key)
        assert list(run.running) == ["c"]
    run.finish()
    assert run.keys == ["a", "b", "first", "second", "third", "c", "output"]
    assert befores(run) == {"a": None, "b": None, "first": 2, "second": 3, "third": 3, "c": None, "output": None}
    again = Driver(chain(a, second, third, first, b, c), journal=run.journal[:6])
    assert list(again.running) == ["c"]


def test_two_steps_added_at_one_place_keep_their_order():
    run = journal_of(a, b, asked=chain(a, b))
    run = Driver(chain(a, b, c), journal=run.journal[:2])
    run.crash(chain(c, d, a, b))
    run.end("c")
    run.end("d")
    assert [befores(run)[key] for key in "cd"] == [1, 1]
    run.crash()
    assert list(run.running) == ["b"]


def test_a_value_asked_for_by_newer_code_stands_before_the_records_that_follow_it():
    async def new() -> int:
        moment = flow.now()
        await a()
        await b()
        return moment.year

    run = journal_of(a, b, asked=chain(a, b, c))
    run.crash(chain(a, b, c))
    run.crash(new)
    assert run.result == 2023
    assert befores(run) == {"a": None, "b": None, "now": 1, "output": None}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([b, c], "record 1 is step 'a', but the code asked for step 'b'"),
        ([b, a, c], "record 1 is step 'a', but the code asked for step 'b'"),
        ([a], "record 2 is step 'b', but the code came to its end without asking for it"),
    ],
    ids=["removed", "reordered", "removed at the end"],
)
def test_what_does_not_fit_parks_the_run_with_a_report(now, told):
    run = journal_of(a, b)
    before = list(run.journal)
    run.crash(chain(*now))
    assert run.parked == f"its code and its journal differ: {told}"
    assert run.journal == before
    assert run.running == {}


def test_an_error_that_came_before_the_records_is_told_with_the_difference():
    async def new() -> None:
        raise TypeError("no such argument")

    run = journal_of(a, b)
    run.crash(new)
    assert run.parked.endswith("came to its end without asking for it, with TypeError: no such argument")


def test_a_renamed_step_is_taken_and_then_the_difference_is_told():
    run = journal_of(a, b)
    run.crash(chain(d, b, end="early"))
    run.end("d")
    assert run.parked.endswith("record 1 is step 'a', but the code asked for step 'b'")
    run.crash(chain(a, b))
    assert "record 3 is step 'd', but the code asked for step 'a'" in run.parked


def test_a_changed_kind_is_told_at_once():
    async def new() -> None:
        await flow.sleep(5, name="a")

    run = journal_of(a)
    run.crash(new)
    assert run.parked.endswith("record 1 is step 'a', but the code asked for timer 'a'")


def test_a_step_that_became_a_child_while_it_was_retried_is_told():
    child = Workflow(chain(b), name="a")

    async def new() -> None:
        await child()

    run = Driver(chain(a))
    run.fail("a", ValueError("no"), retry_in=60)
    run.crash(new)
    assert run.parked.endswith("record 1 is step 'a', but the code asked for child 'a'")
    assert run.children == {}


def test_code_that_asks_for_nothing_is_told():
    async def new() -> None:
        await asyncio.Event().wait()

    run = journal_of(a)
    run.crash(new)
    assert run.parked.endswith("record 1 is step 'a', but the code asked for nothing")


def test_a_deadline_alone_does_not_count_as_newer_code():
    async def new() -> None:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

    run = journal_of(a)
    run.crash(new)
    assert run.parked.endswith("the code asked for timer 'timeout'")


def test_a_value_no_longer_asked_for_is_told():
    async def old() -> None:
        flow.random()
        await a()

    run = Driver(old)
    run.end("a")
    del run.journal[3:]
    run = Driver(chain(a), journal=run.journal)
    assert run.parked.endswith("record 1 is value 'random', but the code asked for step 'a'")


@dataclass
class Receipt:
    cents: int


def test_a_result_that_no_longer_fits_its_type_is_told_and_never_raised():
    async def new() -> str:
        try:
            await step("a", Receipt)()
        except Exception:
            return "caught"
        return "fits"

    run = Driver(chain(a, b))
    run.end("a", {"euros": 5})
    run.crash(new)
    assert "record 1, step 'a', cannot be read any more: the result of step 'a' does not fit Receipt" in run.parked
    run.crash(chain(a, b))
    assert list(run.running) == ["b"]


def test_arguments_that_no_longer_fit_park_a_run_that_has_done_something():
    async def old(cents: int) -> None:
        await a()
        await b()

    async def new(euros: float) -> None:
        await a()

    run = Driver(old, 5)
    run.end("a")
    run.crash(new)
    assert "record 0, input 'input', cannot be read any more" in run.parked
    assert run.keys == ["a"]


def test_drift_is_never_raised_into_workflow_code():
    async def new() -> None:
        while True:
            try:
                await b()
            except BaseException:
                raise AssertionError("told") from None

    run = journal_of(a, b)
    run.crash(new)
    assert "asked for step 'b'" in run.parked


def test_a_parked_run_keeps_the_state_it_showed():
    async def old() -> None:
        flow.set("at", 1)
        await a()
        flow.set("at", 2)
        await b()
        await c()

    async def new() -> None:
        flow.set("at", 1)
        await b()

    run = Driver(old)
    run.end("a")
    run.end("b")
    assert run.run.state == '{"at":2}'
    run.crash(new)
    assert run.status is RunStatus.PAUSED
    assert run.run.state == '{"at":2}'


def test_what_drifting_code_made_up_is_not_kept():
    async def new() -> None:
        flow.uuid()

    run = journal_of(a)
    run.crash(new)
    assert run.status is RunStatus.PAUSED
    assert run.keys == ["a"]
    run.crash(chain(a, b))
    assert list(run.running) == ["b"]


def test_beginning_anew_before_what_is_recorded_is_drift():
    async def new() -> None:
        await flow.continue_as_new()

    run = journal_of(a)
    run.crash(new)
    assert run.parked.endswith("record 1 is step 'a', but the code asked for nothing")
    assert run.keys == ["a"]


def test_a_long_list_of_asks_is_cut_in_the_report():
    records = journal_of(a).journal
    asks = [Driver(chain(step(f"s{n}"))).running[f"s{n}"].ask for n in range(12)]
    told = str(Drift.between(records[1], asks, has_ended=False))
    assert "'s9'" in told
    assert "'s10'" not in told


# flow.patched, in its four situations.


async def patched() -> list[Any]:
    await a()
    new = flow.patched("p")
    await (b if new else c)()
    assert flow.patched("p") is new
    return [new, flow.patched("p")]


async def unpatched() -> None:
    await a()
    await c()
    await d()


def test_a_new_run_takes_the_new_side_and_remembers_it():
    run = Driver(patched).finish()
    assert run.result == [True, True]
    assert run.keys == ["a", "patch:p", "b", "output"]
    for keep in range(1, 4):
        assert replayed(run.journal, patched, keep=keep).journal == run.journal


def test_a_run_that_came_by_before_the_change_takes_the_old_side():
    run = Driver(unpatched)
    run.end("a")
    run.end("c")
    run.crash(patched)
    assert run.result == [False, False]
    assert run.keys == ["a", "c", "output"]


def test_an_old_run_that_has_not_come_by_takes_the_new_side():
    run = Driver(unpatched)
    run.crash(patched)
    assert list(run.running) == ["a"]
    assert run.finish().result == [True, True]
    assert run.keys == ["a", "patch:p", "b", "output"]


def test_a_run_at_the_very_place_takes_the_new_side():
    run = Driver(unpatched)
    run.end("a")
    run.crash(patched)
    assert list(run.running) == ["b"]


def test_a_run_whose_step_behind_the_change_is_being_retried_takes_the_old_side():
    run = Driver(unpatched)
    run.end("a")
    run.fail("c", ValueError("no"), retry_in=60)
    run.crash(patched)
    assert [wait.key for wait in run.waits] == ["c"]
    run.wait(60)
    assert run.finish().result == [False, False]


def test_a_run_whose_child_behind_the_change_is_running_takes_the_old_side():
    child = Workflow(chain(b), name="child")

    async def old() -> None:
        await child()

    async def new() -> bool:
        if not flow.patched("p"):
            await child()
            return False
        return True

    run = Driver(old)
    run.crash(new)
    assert [wait.kind for wait in run.waits] == ["child"]
    run.child_ends("child", "x")
    assert run.result is False


def test_a_run_whose_step_recorded_steps_inside_it_takes_the_old_side():
    run = Driver(unpatched)
    run.end("a")
    assert run.turn is not None
    run.turn.nested_ended("c/inner", "ok", "1", run.now, attempt=1, started_at=run.now)
    run.go()
    run.crash(patched)
    assert list(run.running) == ["c"]


def test_a_removed_patch_is_told():
    run = Driver(patched)
    run.end("a")
    run.end("b")
    del run.journal[4:]
    run = Driver(chain(a, b, c), journal=run.journal)
    assert "record 2 is patch 'patch:p'" in run.parked


def test_an_event_recorded_for_older_code_is_given_to_newer_code():
    async def old() -> str:
        return await flow.wait_for_event("paid", type="paid")

    async def new() -> str:
        got = await flow.wait_for_event("paid", type="paid")
        return got + await d("!")

    run = Driver(old, journal=None)
    run.post(event("paid", "yes"))
    del run.journal[2:]
    again = Driver(new, journal=run.journal).finish()
    assert again.result == "yes!"
