"""What a journal tells of why its run is undone."""

from __future__ import annotations

from perdure.core.undos import failure_of
from perdure.model import failure
from perdure.model.record import Record

OPEN = Record(1, "undo:charge", "undo", "open", 0, None)


def test_what_the_code_failed_with():
    told = failure.encode_error(failure.describe(ValueError("sold out")))
    error = failure_of([OPEN, Record(2, "undo", "undo", "error", 0, told)])
    assert error is not None
    assert error.message == "sold out"


def test_an_operator_needs_no_error():
    assert failure_of([OPEN, Record(2, "undo", "undo", "ok", 0, None)]) is None
    assert failure_of([]) is None
