"""Runs, records and undos as the API tells of them: times in RFC 3339, JSON as JSON, an error apart from an output."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from perdure.core.undos import UndoInfo
from perdure.core.wait import decode_waits
from perdure.model import failure
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import Run, RunStatus

FAILED = (RunStatus.ERRORED, RunStatus.COMPENSATED)
"""How runs end whose output is an error."""

_TIMES = ("created_at", "updated_at", "started_at", "finished_at", "due_at", "expires_at")
_PLAIN = (
    *("id", "workflow", "version", "queue", "priority", "incarnation", "journal_length", "worker", "is_pausing"),
    *("parent_id", "is_detached", "depth", "tags", "limit_key"),
)


def moment(at: int | None) -> str | None:
    """Return a time in milliseconds since the epoch as RFC 3339 text in UTC."""
    if at is None:
        return None
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def listed_run(run: Run) -> dict[str, Any]:
    """Return what the API tells of a run among others: nothing that may be large."""
    document: dict[str, Any] = {name: getattr(run, name) for name in _PLAIN}
    document["status"] = run.status.value
    for name in _TIMES:
        document[name] = moment(getattr(run, name))
    document["waits"] = [
        {
            "kind": wait.kind,
            "key": wait.key,
            "due_at": moment(wait.due_at),
            "detail": wait.detail,
            "attempt": wait.attempt,
        }
        for wait in decode_waits(run.wait).waits
    ]
    is_failed = run.status in FAILED and run.output is not None
    document["error"] = error_document(failure.decode_error(run.output or "{}")) if is_failed else None
    return document


def run_document(run: Run) -> dict[str, Any]:
    """Return all that the API tells of a run."""
    document = listed_run(run)
    document["state"] = _raw(run.state)
    document["progress"] = progress_of(run)
    document["output"] = _raw(run.output) if run.status is RunStatus.COMPLETE else None
    return document


def progress_of(run: Run) -> Any:
    """Return the last progress of each running step of a run, to be put into a document; None for nothing."""
    return _raw(run.progress)


def error_document(error: ErrorInfo) -> dict[str, Any]:
    """Return what the API tells of an error: not where in the code it came from."""
    return {
        "type": error.type.rpartition(":")[2],
        "message": error.message,
        "step": error.step or None,
        "attempts": error.attempts,
        "cause": None if error.cause is None else error_document(error.cause),
    }


def record_document(record: Record) -> dict[str, Any]:
    """Return what the API tells of a record."""
    is_error = record.state == "error" or (record.state == "open" and record.kind == "step" and record.payload)
    error = failure.decode_error(record.payload) if is_error and record.payload else None
    return {
        "position": record.position,
        "key": record.key,
        "kind": record.kind,
        "state": record.state,
        "at": moment(record.at),
        "started_at": moment(record.started_at),
        "due_at": moment(record.due_at),
        "attempt": record.attempt,
        "ref": record.ref,
        "before": record.before,
        "payload": None if error is not None else _raw(record.payload),
        "error": None if error is None else error_document(error),
    }


def undo_document(info: UndoInfo) -> dict[str, Any]:
    """Return what the API tells of an undo."""
    error = None if info.error is None else error_document(info.error)
    return {"key": info.key, "state": info.state, "error": error}


def _raw(text: str | None) -> Any:
    """Return JSON text to be put into a document as it is."""
    return None if text is None else msgspec.Raw(text.encode())
