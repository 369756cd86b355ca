"""The URLs of stores: what may be shown of them, and what stands behind their `?`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from perdure.model.errors import UsageError


def redacted(url: str) -> str:
    """Return a URL without its password and without what stands behind its `?`."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    name, _, _ = user.partition(":")
    shown = f"{quote(unquote(name))}{at}" if name else ""
    return parts._replace(netloc=f"{shown}{place}", query="", fragment="").geturl()


def require_known(store: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse options that a store does not have.

    Raises:
        UsageError: one is unknown.
    """
    names = sorted(known)
    if unknown := sorted(set(options) - set(names)):
        has = f"{', '.join(names[:-1])} and {names[-1]}"
        raise UsageError(f"store: {store} has no option {', '.join(unknown)}; it has {has}")
