"""Stored values as the pages show them: as indented text, masked for who may not see all of it, and not without end."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from perdure.model import failure
from perdure.model.errors import PerdureError
from perdure.model.record import ErrorInfo, Record
from perdure.model.redaction import Redaction

SHOWN = 64_000
"""How many characters of a value stand on a page; the whole of it can be downloaded."""

LINE = 160
"""How many characters of it stand in a table."""

_INDENTED = 2


@dataclass(frozen=True, slots=True)
class Shown:
    """A value on a page.

    Attributes:
        text: as it is shown.
        size: of the whole value, in bytes.
        is_cut: there is more of it.
    """

    text: str
    size: int
    is_cut: bool


def shown(payload: str | None, redaction: Redaction) -> Shown | None:
    """Return a value as a page shows it; None for no value.

    Args:
        payload: JSON text.
        redaction: what is masked in it.
    """
    if payload is None:
        return None
    masked = redaction.text(payload) or ""
    text = masked if len(masked) > SHOWN else _pretty(masked)
    return Shown(text[:SHOWN], len(payload.encode()), len(text) > SHOWN)


def line(payload: str | None, redaction: Redaction) -> str:
    """Return the beginning of a value on one line."""
    if payload is None:
        return ""
    masked = redaction.text(payload) or ""
    return masked if len(masked) <= LINE else f"{masked[: LINE - 1]}…"


def error_of(payload: str | None) -> ErrorInfo | None:
    """Return the error of a payload; None where it is none that can be read."""
    if payload is None:
        return None
    try:
        return failure.decode_error(payload)
    except (msgspec.DecodeError, PerdureError):
        return None


def is_error(record: Record) -> bool:
    """Return whether a record's payload is an error."""
    return record.state == "error" or (record.state == "open" and record.kind == "step" and record.payload is not None)


def record_line(record: Record, redaction: Redaction) -> str:
    """Return the beginning of a record's value, or its error, on one line."""
    if is_error(record) and (error := error_of(redaction.text(record.payload))) is not None:
        return error.told if len(error.told) <= LINE else f"{error.told[: LINE - 1]}…"
    return line(record.payload, redaction)


def _pretty(text: str) -> str:
    try:
        indented = msgspec.json.format(text, indent=_INDENTED)
    except (msgspec.DecodeError, RecursionError):
        return text
    if len(indented) <= 80:
        return msgspec.json.format(text, indent=0)
    return indented
