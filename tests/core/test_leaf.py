"""A task's turn: one step, and nothing replayed for it."""

from __future__ import annotations

import msgspec
import pytest

from perdure.authoring.task import Task
from perdure.core.ask import ChildAsk
from perdure.core.child import child_run
from perdure.core.overrides import Overrides
from perdure.model import failure
from perdure.model.record import Record
from perdure.model.run import Retention, Run, RunStatus
from tests.core.driver import BEGAN, Driver


async def double(n: int) -> int:
    return 2 * n


def task(**options) -> Task:
    return Task.of(double, name="double", **options)


def journal(*records: Record, due_at: int | None = None, payload: str = '{"n":2}') -> list[Record]:
    return [Record(0, "input", "input", "ok", BEGAN, payload, due_at=due_at), *records]


def kinds(run: Driver) -> list[tuple[str, str, str]]:
    return [(record.key, record.kind, record.state) for record in run.journal[1:]]


def test_its_result_is_the_output():
    run = Driver(task(), 2)
    assert run.running["double"].ask.kwargs == {"n": 2}
    run.end("double", 4)
    assert kinds(run) == [("output", "output", "ok")]
    assert run.run.status is RunStatus.COMPLETE
    assert run.journal[-1].payload == "4"
    assert run.journal[-1].started_at is not None


def test_a_transactional_one_is_recorded_beside_its_output():
    run = Driver(task(tx=True), 2)
    run.end("double", 4)
    assert kinds(run) == [("double", "step", "ok"), ("output", "output", "ok")]


def test_what_its_transaction_left_recorded_is_its_end():
    error = failure.encode_error(failure.describe(ValueError("taken")))
    run = Driver(task(tx=True), 2, journal=journal(Record(1, "double", "step", "error", BEGAN, error, attempt=3)))
    assert kinds(run) == [("double", "step", "error"), ("output", "output", "error")]
    assert run.journal[-1].attempt == 3
    assert not run.running


def test_a_result_that_does_not_fit_is_its_failure():
    run = Driver(task(), 2)
    run.end("double", "four")
    assert run.run.status is RunStatus.ERRORED
    assert "does not fit int" in failure.decode_error(run.journal[-1].payload).message


def test_a_failed_attempt_is_made_again_and_the_last_failure_is_the_runs():
    run = Driver(task(), 2)
    run.fail("double", ConnectionError("no route"), retry_in=60)
    run.crash()
    run.wait(60)
    assert run.running["double"].attempt == 2
    run.end("double", error=ConnectionError("still none"))
    assert kinds(run) == [("double", "step", "open"), ("output", "output", "error")]
    assert str(run.error) == "still none"


def test_its_parent_may_want_another_timeout():
    text = Overrides(timeout=5.0).encode()
    run = Driver(task(timeout=60), 2, journal=[msgspec.structs.replace(journal()[0], ref=text)])
    assert run.running["double"].ask.spec.timeout == 5.0


def test_an_input_that_does_not_fit_is_its_failure():
    run = Driver(task(), 2, journal=journal(payload='{"n":"two"}'))
    assert run.run.status is RunStatus.ERRORED
    assert "does not fit its parameters" in failure.decode_error(run.journal[-1].payload).message


def test_a_journal_of_something_else_is_drift():
    run = Driver(task(), 2, journal=journal(Record(1, "other", "step", "ok", BEGAN, "1")))
    assert run.run.status is RunStatus.PAUSED
    assert "record 1 is step 'other', but the code asked for nothing" in run.run.wait


def test_an_end_that_nobody_waits_for_is_passed_over():
    run = Driver(task(), 2)
    replay = run.turn.replay
    replay.settle("other", "ok", "1", BEGAN)
    assert replay.outcome is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"started_at": BEGAN + 6}, RunStatus.ERRORED),
        ({"started_at": BEGAN + 5}, RunStatus.RUNNING),
        ({"started_at": BEGAN + 6, "incarnation": 1}, RunStatus.RUNNING),
    ],
)
def test_what_was_first_claimed_too_late_fails(fields, status):
    run = Driver(task(), 2, journal=journal(due_at=BEGAN + 5), **fields)
    assert run.run.status is status
    assert bool(run.running) != status.is_finished
    if status.is_finished:
        assert failure.decode_error(run.journal[-1].payload).type.endswith(":TaskExpiredError")


def parent() -> Run:
    return Run("p", "flow", RunStatus.RUNNING, BEGAN, BEGAN, retention=Retention(complete=7))


def test_as_a_child_it_is_due_when_its_parent_says_and_expires_after_that():
    spec = task(expires=9, limit_key=lambda n: f"k{n}").options(delay=2, priority=3).child((2,), {}, 1_000)
    new = child_run(parent(), ChildAsk("double", None, spec, "p/double"), BEGAN)
    assert (new.due_at, new.records[0].due_at) == (BEGAN + 2_000, BEGAN + 11_000)
    assert (new.priority, new.limit_key, new.retention) == (3, "k2", Retention(complete=7))


def test_as_a_child_it_is_due_at_once_and_kept_as_it_says():
    spec = task(retention=Retention(complete=5)).options(limit_key="", expires=1).child((2,), {}, 1_000)
    new = child_run(parent(), ChildAsk("double", None, spec, "p/double"), BEGAN)
    assert (new.due_at, new.records[0].due_at, new.retention) == (BEGAN, BEGAN + 1_000, Retention(complete=5))


def test_as_a_child_it_has_its_own_priority_even_if_that_is_none_and_else_its_parents():
    above = msgspec.structs.replace(parent(), priority=7)
    for called, priority in (
        (task(), 7),
        (task(priority=0), 0),
        (task(priority=3).options(priority=0), 0),
        (task(priority=3), 3),
    ):
        spec = called.child((2,), {}, 1_000)
        assert child_run(above, ChildAsk("double", None, spec, "p/double"), BEGAN).priority == priority
    assert task(priority=3).child((2,), {}, 1_000, priority=0, tags={}).priority == 0
