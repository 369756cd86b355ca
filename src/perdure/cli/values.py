"""JSON in and out of the command line: payloads that are typed, and runs and records as documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from perdure.core.wait import decode_waits
from perdure.model import codec, failure
from perdure.model.errors import UsageError
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus


def typed_json(text: str, option: str) -> Any:
    """Return the value that an option gives: JSON, `@file` with JSON in it, or `-` for JSON on standard input.

    Raises:
        UsageError: it is no JSON, an object in it has a name twice, or the file cannot be read.
    """
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{option}: {text[1:]} cannot be read: {error}") from error
    try:
        return codec.read_json(text)
    except ValueError as error:
        raise UsageError(
            f"{option} is no JSON ({error}); text needs its quotes, as in '\"yes\"', and @file reads a file"
        ) from None


def run_document(run: Run) -> dict[str, Any]:
    """Return a run's fields, with what it holds as JSON text read, and an error apart from an output."""
    fields: dict[str, Any] = msgspec.to_builtins(run)
    retention = run.retention
    fields["retention"] = {"complete": retention.complete, "errored": retention.errored}
    fields["retention"]["terminated"] = retention.terminated
    fields["wait"] = None if run.wait is None else msgspec.to_builtins(decode_waits(run.wait))
    for name in ("state", "progress", "output"):
        fields[name] = codec.decode_any(fields[name])
    fields["error"] = fields["output"] if run.status in (RunStatus.ERRORED, RunStatus.COMPENSATED) else None
    if run.status is not RunStatus.COMPLETE:
        fields["output"] = None
    return fields


def record_document(record: Record) -> dict[str, Any]:
    """Return a record's fields by name, with its payload read."""
    fields = {name: getattr(record, name) for name in Record.__struct_fields__}
    fields["payload"] = codec.decode_any(record.payload)
    return fields


def error_line(payload: str | None) -> str:
    """Return the type and the message of a stored error."""
    return failure.decode_error(payload or "{}").told
