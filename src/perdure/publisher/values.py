"""Single values as they can stand in requests, checked: whatever cannot is told with the argument's name."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import httpx

from perdure.model.duration import Duration, seconds
from perdure.model.errors import UsageError


def destination(url: str | None, field: str = "url") -> str:
    """Return a URL as it can stand in a path: in ASCII, with its dots resolved, without a fragment.

    Raises:
        UsageError: it is none that a message could go to.
    """
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        group = "; a URL group is published to by groups.publish, or given as group=" if field == "url" else ""
        raise UsageError(f"{field}: {url!r:.200} must begin with http:// or https://{group}")
    try:
        found = httpx.URL(url).copy_with(fragment=None)
        parts = urlsplit(str(found))
        port = parts.port
    except (httpx.InvalidURL, ValueError, UnicodeError) as error:
        raise UsageError(f"{field}: {url[:200]!r} is no URL: {error}") from None
    if not parts.hostname or "%" in parts.hostname or port == 0:
        raise UsageError(f"{field}: {url[:200]!r} names no host or port that can be")
    if "@" in parts.netloc:
        raise UsageError(f"{field}: it holds a user or a password; forward an Authorization header instead")
    return str(found)


def text_of(value: object, field: str, *, is_empty_ok: bool = False) -> str:
    """Return a text as it can stand in a header.

    Raises:
        UsageError: it cannot.
    """
    if not isinstance(value, str) or not (value or is_empty_ok):
        raise UsageError(f"{field}: {value!r:.80} must be text")
    if any(sign < " " and sign != "\t" for sign in value) or "\x7f" in value:
        raise UsageError(f"{field}: {value!r:.80} holds a line break or another control character")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError(f"{field}: {value!r:.80} holds signs that no header can carry") from None
    return value


def segment(value: object, field: str) -> str:
    """Return a text as one part of a path.

    Raises:
        UsageError: it is none.
    """
    found = quote(text_of(value, field), safe="")
    return found if found.strip(".") else found.replace(".", "%2E")


def whole(value: object, field: str, least: int = 0) -> int:
    """Return a whole number.

    Raises:
        UsageError: it is none, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{field}: {value!r:.80} must be a whole number, at least {least}")
    return value


def period_of(value: Duration, field: str) -> int:
    """Return a duration of whole seconds.

    Raises:
        UsageError: it is none, or shorter than a second.
    """
    found = seconds(value, field=field)
    if found < 1 or found != int(found):
        raise UsageError(f"{field}: {value!r} must be whole seconds, at least one")
    return int(found)
