"""A run's states, the moves between them, and how long an ended run is kept."""

from __future__ import annotations

import msgspec
import pytest

from perdure.model.errors import UsageError
from perdure.model.run import FINISHED, MOVES, Retention, Run, RunStatus

QUEUED, RUNNING, WAITING, PAUSED = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED
COMPLETE, ERRORED, TERMINATED = RunStatus.COMPLETE, RunStatus.ERRORED, RunStatus.TERMINATED
COMPENSATING, COMPENSATED = RunStatus.COMPENSATING, RunStatus.COMPENSATED
COMPENSATION_FAILED = RunStatus.COMPENSATION_FAILED

TABLE = {
    QUEUED: {RUNNING, PAUSED, TERMINATED},
    RUNNING: {
        *(QUEUED, WAITING, PAUSED, COMPLETE, ERRORED, TERMINATED),
        *(COMPENSATING, COMPENSATED, COMPENSATION_FAILED),
    },
    WAITING: {RUNNING, QUEUED, PAUSED, TERMINATED},
    PAUSED: {QUEUED, TERMINATED},
    COMPLETE: {QUEUED},
    ERRORED: {QUEUED},
    TERMINATED: {QUEUED},
    COMPENSATING: {
        *(QUEUED, RUNNING, WAITING, PAUSED, COMPLETE, ERRORED, TERMINATED),
        *(COMPENSATED, COMPENSATION_FAILED),
    },
    COMPENSATED: {QUEUED},
    COMPENSATION_FAILED: {COMPENSATING, QUEUED, TERMINATED},
}


def test_every_status_has_its_moves():
    assert set(MOVES) == set(RunStatus)


@pytest.mark.parametrize("before", RunStatus)
@pytest.mark.parametrize("after", RunStatus)
def test_a_move_is_legal_exactly_if_the_table_says_so(before, after):
    assert (after in MOVES[before]) == (after in TABLE[before])


@pytest.mark.parametrize("status", RunStatus)
def test_no_status_moves_to_itself(status):
    assert status not in MOVES[status]


@pytest.mark.parametrize("status", sorted(FINISHED))
def test_a_finished_run_moves_only_by_a_restart(status):
    assert MOVES[status] == {QUEUED}


@pytest.mark.parametrize("status", sorted(frozenset(RunStatus) - FINISHED))
def test_every_unfinished_run_can_be_terminated(status):
    assert TERMINATED in MOVES[status]


def test_only_what_runs_or_undoes_completes_or_errs():
    for outcome in (COMPLETE, ERRORED):
        assert [status for status in RunStatus if outcome in MOVES[status]] == [RUNNING, COMPENSATING]


def test_only_what_runs_or_undoes_is_compensated():
    assert [status for status in RunStatus if COMPENSATED in MOVES[status]] == [RUNNING, COMPENSATING]


def test_every_status_can_be_reached():
    reached, edge = {QUEUED}, {QUEUED}
    while edge:
        edge = set().union(*(MOVES[status] for status in edge)) - reached
        reached |= edge
    assert reached == set(RunStatus)


@pytest.mark.parametrize("status", RunStatus)
def test_a_status_is_its_word(status):
    assert str(status) == status.value == status.name.lower()
    assert f"{status}" == status.value
    assert RunStatus(status.value) is status
    assert status.is_finished == (status in FINISHED)


def test_retention_defaults_are_the_same_both_ways():
    assert Retention.of() == Retention() == Retention(3 * 86_400_000, 90 * 86_400_000, 90 * 86_400_000)


def test_retention_is_given_per_outcome():
    assert Retention.of(complete=None, errored="1 hour", terminated=0.5) == Retention(None, 3_600_000, 500)
    assert Retention.of(None, None, None) == Retention(None, None, None)


def test_a_bad_retention_is_refused_by_name():
    with pytest.raises(UsageError, match="^retention: 'a while'"):
        Retention.of(errored="a while")


def test_what_is_no_retention_is_refused():
    assert Retention.check(Retention(5), "retention") == Retention(5)
    with pytest.raises(UsageError, match=r"^retention: '1 hour' is no Retention; write Retention.of"):
        Retention.check("1 hour", "retention")


def test_a_retention_of_at_least_an_age() -> None:
    assert Retention(5, None, 20).of_at_least(10) == Retention(10, None, 20)


def test_a_run_survives_being_stored():
    run = Run("r", "w", WAITING, 1, 2, tags={"a": "b"}, retention=Retention(None))
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run


def test_runs_share_no_tags():
    assert Run("a", "w", QUEUED, 1, 1).tags is not Run("b", "w", QUEUED, 1, 1).tags
