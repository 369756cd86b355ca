"""What a journal tells of why its run is undone."""

from __future__ import annotations

from perdure.core.undos import failure_of
from perdure.model import failure
from perdure.model.record import Record

OPEN = Record(1, "undo:charge", "undo", "open", 0, None)


def test_what_the_code_failed_with():
    told = failure.encode_error(failure.describe(ValueError("sold out")))
    error = failure_of("r", [OPEN, Record(2, "undo", "undo", "error", 0, told)])
    assert error is not None
    assert error.message == "sold out"


def test_one_that_an_operator_ended_says_so():
    error = failure_of("r", [OPEN, Record(2, "undo", "undo", "ok", 0, None)])
    assert error is not None
    assert error.message == "run 'r' was terminated"


def test_one_that_completed_failed_with_nothing():
    assert failure_of("r", [OPEN]) is None
