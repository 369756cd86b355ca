"""Masks what named fields hold, wherever they stand, before somebody sees it who is not meant to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perdure.model.errors import UsageError

MASK = "***"
"""What is shown in the place of a value."""

_MASKED = json.dumps(MASK)

_TOLD = (
    r"""((?<![a-z0-9])(?:NAMES)\\*["']?\s*[:=]\s*)"""
    r"""(?:(\\+["']).*?\2|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|["'\\].*|[^\s,;&)}\]]+)"""
)
"""A name and what it stands for: a text in quotes, which may be escaped themselves, or not end; or one word."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """Fields whose values are not shown.

    A name stands for all ways to write it: `card_number` is also `Card-Number` and `cardNumber`.

    Args:
        fields: their names, as in `("card_number", "password")`.
        in_prose: whether texts that are no JSON, such as messages of errors, are gone through too: what stands behind a
            name with `:` or `=` is masked there.

    Raises:
        UsageError: a name is empty.
    """

    fields: tuple[str, ...] = ()
    in_prose: bool = False
    _told: re.Pattern[str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.fields, str) or not all(map(_plain, self.fields)):
            raise UsageError(f"redaction.fields: {self.fields!r} must be names of fields, as in ('password',)")
        object.__setattr__(self, "fields", tuple(dict.fromkeys(map(_plain, self.fields))))
        if self.in_prose and self.fields:
            names = "|".join("[_-]?".join(map(re.escape, name)) for name in self.fields)
            object.__setattr__(self, "_told", re.compile(_TOLD.replace("NAMES", names), re.IGNORECASE | re.DOTALL))

    def value(self, value: Any) -> Any:
        """Return a value with the fields masked, at any depth, in texts that are JSON too; it stays as it is itself."""
        if isinstance(value, Mapping):
            return {name: MASK if _plain(name) in self.fields else self.value(held) for name, held in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(held) for held in value]
        if not isinstance(value, str):
            return value
        return self.text(value) if value[:1] in ("{", "[") else self._prose(value)

    def text(self, text: str | None) -> str | None:
        """Return a JSON text with the fields masked, and numbers letter by letter as they were.

        One without any of them is returned as it is; one that cannot be read, as a mask.
        """
        if text is None or not self._may_hold(text):
            return text
        try:
            read = json.loads(text, parse_int=_letters, parse_float=_letters, parse_constant=_letters)
            return msgspec.json.encode(self.value(read)).decode()
        except (ValueError, RecursionError):
            return _MASKED

    def _prose(self, text: str) -> str:
        return text if self._told is None or not self._may_hold(text) else self._told.sub(rf"\1{MASK}", text)

    def _may_hold(self, text: str) -> bool:
        plain = _plain(text)
        return bool(self.fields) and ("\\u" in text or any(field in plain for field in self.fields))


def _plain(name: object) -> str:
    return str(name).replace("_", "").replace("-", "").casefold()


def _letters(number: str) -> msgspec.Raw:
    return msgspec.Raw(number.encode())
