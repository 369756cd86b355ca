"""The URLs of stores: what may be shown of them, and what stands behind their `?`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perdure.model.errors import UsageError


def redacted(url: str) -> str:
    """Return a URL without its password and without what stands behind its `?`."""
    head, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    whole, rest = rest, rest.partition("?")[0].partition("#")[0]
    if separator and "@" in whole[len(rest) :] and not rest.startswith("/"):  # then that ? may be in a password
        return f"{head}{separator}…"
    if separator and rest.startswith("/"):  # a file, whose name may hold anything
        return f"{head}{separator}{rest}"
    user, at, place = rest.rpartition("@")
    name = user.partition(":")[0]
    return f"{head}{separator}{name}{at if name else ''}{place}"


def require_known(store: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse options that a store does not have.

    Raises:
        UsageError: one is unknown.
    """
    names = sorted(known)
    if unknown := sorted(set(options) - set(names)):
        has = f"{', '.join(names[:-1])} and {names[-1]}"
        raise UsageError(f"store: {store} has no option {', '.join(unknown)}; it has {has}")


def count(option: str, value: object, most: int) -> int:
    """Return an option that is a whole number from 1 on.

    Raises:
        UsageError: it is none, or above `most`.
    """
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= most:
        raise UsageError(f"store: {option}={value!r} must be a whole number from 1 to {most}")
    return int(text)
