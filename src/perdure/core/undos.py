"""What the journal of a run tells of its undos."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.core.saga import DECISION, LEFT_BEHIND, terminated
from perdure.model import codec, failure
from perdure.model.record import ErrorInfo, Record

UndoState = Literal["registered", "completed", "undone", "failed"]

_TRIED = re.compile(r"undo(?:#\d+)?:(.*)")


class UndoInfo(msgspec.Struct, frozen=True):
    """An undo of a run, as its journal tells of it.

    Attributes:
        key: the record key of the step or child that it undoes.
        state: `registered` before that completed, `completed` when it could be undone, `undone` (by its undo, or as
            an operator said), or `failed`: an operator is asked for.
        error: what the undo failed with, at last; None unless it did.
    """

    key: str
    state: UndoState
    error: ErrorInfo | None = None


def failure_of(run_id: str, journal: Sequence[Record]) -> ErrorInfo | None:
    """Return why a run is being undone: what its code failed with, or that it was ended; None where it completed."""
    why = next((record for record in journal if record.kind == "undo" and record.state != "open"), None)
    if why is None:
        return None
    return failure.describe(terminated(run_id)) if why.payload is None else failure.decode_error(why.payload)


def undos_of(journal: Sequence[Record]) -> list[UndoInfo]:
    """Return the undos that a journal tells of, in the order in which they were registered."""
    found: dict[str, UndoInfo] = {}
    for record in journal:
        key = record.key
        if record.kind == "undo" and record.state == "open":
            key = key.removeprefix("undo:")
            found[key] = UndoInfo(key, "registered")
        elif record.state == "open":
            continue
        elif key in found and record.kind in ("step", "child"):
            if record.state == "ok":
                found[key] = UndoInfo(key, "completed")
            else:
                del found[key]
        elif (tried := _TRIED.fullmatch(key)) and (undone := tried[1]) in found:
            if record.state == "ok":
                found[undone] = UndoInfo(undone, "undone")
            else:
                found[undone] = UndoInfo(undone, "failed", failure.decode_error(record.payload or "{}"))
        elif record.kind == "event" and key.partition("#")[0] in (DECISION, LEFT_BEHIND):
            decision = codec.decode_any(record.payload)
            for info in list(found.values()):
                if decision["verb"] == "done" and info.state == "failed" and decision["key"] in (None, info.key):
                    found[info.key] = UndoInfo(info.key, "undone")
    return list(found.values())
