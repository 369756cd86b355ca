"""What runs and steps failed with, as it was recorded."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from perdure.model import failure
from perdure.model.errors import PerdureError
from perdure.model.record import ErrorInfo

UNREADABLE = ErrorInfo("unreadable", "what it failed with cannot be read")


def error_of(payload: str | None) -> ErrorInfo:
    """Return the error of a record's payload."""
    try:
        return failure.decode_error(payload or "")
    except (msgspec.MsgspecError, PerdureError):
        return UNREADABLE


def chain(error: ErrorInfo) -> Iterator[ErrorInfo]:
    """Yield an error and those that it was raised from, the last cause last."""
    current: ErrorInfo | None = error
    while current is not None:
        yield current
        current = current.cause
