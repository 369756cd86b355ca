"""What passes between a turn and the store: values that are whole, equal and storable."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from perdure.model import decision, record, run
from perdure.model.decision import (
    Action,
    Claim,
    Committed,
    Control,
    Controlled,
    Decision,
    Extended,
    Lease,
    Message,
    Posted,
    RunFilter,
    RunPage,
    Stats,
)
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import Created, NewRun, Run, RunStatus

RECORD = Record(0, "input", "input", "ok", 5, "{}")
MESSAGE = Message("r", "m", "event", "paid", '{"cents": 5}', 7)
RUN = Run("r", "w", RunStatus.RUNNING, 1, 2)
NEW_RUN = NewRun("r", "w", 1, 1, (RECORD,))
VALUES = [
    RECORD,
    ErrorInfo("builtins:ValueError", "no", ["no"], cause=ErrorInfo("builtins:KeyError", "k")),
    RUN,
    NEW_RUN,
    Created("r", True, "abc"),
    MESSAGE,
    Claim(RUN, [RECORD], [MESSAGE]),
    Decision("r", 1, 1, 9, RunStatus.WAITING, None, (RECORD,), 3, ("m",), (NEW_RUN,), (MESSAGE,), ("c",)),
    Committed("r", arrived=(MESSAGE,)),
    Lease("r", 1, 99),
    Extended("r", is_lost=True),
    Control("r", Action.TERMINATE, "{}"),
    Controlled("r", RunStatus.QUEUED, RunStatus.TERMINATED, ("r", "c")),
    RunFilter(status=(RunStatus.QUEUED,), tags={"a": "b"}),
    RunPage([RUN], None),
    Stats({RunStatus.QUEUED: 1}, []),
]
STRUCTS = [
    kind
    for module in (decision, record, run)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_survives_being_stored(value):
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_a_value_is_frozen(kind):
    assert kind.__struct_config__.frozen


def test_the_words_of_enums_are_their_values():
    assert Action("pause") is Action.PAUSE
    assert [posted.value for posted in Posted] == ["new", "duplicate", "no_run", "finished", "full"]


def test_a_record_is_stored_as_a_row():
    row = msgspec.json.decode(msgspec.json.encode(RECORD))
    assert row[:7] == [0, "input", "input", "ok", 5, "{}", 1]
    assert len(row) == len(Record.__struct_fields__)


@pytest.mark.parametrize(
    ("others", "reaches"),
    [
        ({"records": (RECORD,), "consumed": ("m",)}, False),
        ({"children": (NEW_RUN,)}, True),
        ({"posts": (MESSAGE,)}, True),
        ({"terminate": ("c",)}, True),
        ({"unclaimed": ("c",)}, True),
    ],
)
def test_a_decision_knows_whether_it_changes_other_runs(others, reaches):
    assert Decision("r", 1, 1, 5, RunStatus.RUNNING, None, **others).reaches_others is reaches


def test_a_decision_gives_a_run_back_that_is_to_go_on():
    assert Decision("r", 1, 1, 5, RunStatus.QUEUED, 5).gives_back
    assert not Decision("r", 1, 1, 5, RunStatus.QUEUED, 5, renew=(RECORD,)).gives_back
    assert not Decision("r", 1, 1, 5, RunStatus.WAITING, 5).gives_back
