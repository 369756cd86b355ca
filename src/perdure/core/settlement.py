"""What the end of something asked for means to workflow code."""

from __future__ import annotations

from typing import Any

from perdure.core.ask import Ask, ChildAsk, EventAsk, StepAsk
from perdure.model import failure
from perdure.model.errors import EventTimeoutError, SerializationError
from perdure.model.record import State


def read(ask: Ask, state: State, payload: str | None) -> tuple[Any, Exception | None]:
    """Return the value or the error that workflow code gets for an ask that ended."""
    if state == "error":
        if payload is None:
            return None, EventTimeoutError(f"no event came for {ask.key!r} in time")
        return None, failure.rebuild(failure.decode_error(payload))
    if payload is None or not isinstance(ask, (StepAsk, EventAsk, ChildAsk)):
        return None, None
    shape = ask.shape if isinstance(ask, EventAsk) else ask.spec.result
    try:
        return shape.decode(payload), None
    except SerializationError as unfit:
        return None, unfit
