"""What of stored values is masked for whoever may not see all of it, wherever the server tells of them."""

from __future__ import annotations

from typing import TypeVar

from msgspec import convert, to_builtins
from msgspec.structs import replace

from perdure.core.undos import UndoInfo
from perdure.model.decision import Message, RunPage
from perdure.model.document import Document
from perdure.model.record import Record
from perdure.model.redaction import Redaction
from perdure.model.run import Run

T = TypeVar("T")


def masked(value: T, redaction: Redaction) -> T:
    """Return a run, a record, a message, a document, an undo, or a page or a list of them, with fields masked.

    Args:
        value: the value; anything else is returned as it is.
        redaction: which fields.
    """
    return _masked(value, redaction) if redaction.fields else value  # type: ignore[return-value]  # it keeps its type


def _masked(value: object, redaction: Redaction) -> object:
    text = redaction.text
    match value:
        case Run():
            return replace(
                value,
                output=text(value.output),
                state=text(value.state),
                progress=text(value.progress),
                wait=text(value.wait),
            )
        case Record():
            return replace(value, payload=text(value.payload), ref=redaction.value(value.ref))
        case Message():
            return replace(value, payload=text(value.payload))
        case Document():
            return replace(value, text=text(value.text))
        case UndoInfo():
            return convert(redaction.value(to_builtins(value)), UndoInfo)
        case RunPage():
            return replace(value, runs=[_masked(run, redaction) for run in value.runs])
        case list():
            return [_masked(each, redaction) for each in value]
        case _:
            return value
