"""What a server refuses, as the errors that it was there; and which failures pass by themselves."""

from __future__ import annotations

import re
from typing import Any

import httpx
import msgspec

from perdure.model import errors
from perdure.model.errors import (
    PerdureError,
    StoreConflictError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)

PASSING = (429, 502, 503, 504)
"""Statuses of what may be asked for again."""

_KIND = "urn:perdure:error:"
_CAME_TO_NOTHING = (httpx.ConnectError, httpx.ConnectTimeout)


class Problem(msgspec.Struct, frozen=True):
    """What a server says is wrong (RFC 9457)."""

    type: str = ""
    title: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """What kind of problem it is; empty where no Perdure server says so."""
        return self.type.removeprefix(_KIND) if self.type.startswith(_KIND) else ""


class RequestTooLargeError(errors.PayloadTooLargeError):
    """A request holds more than the server takes in one."""


class RefusedError(Exception):
    """A response that brings no answer.

    Attributes:
        status: the response's.
        problem: what it says.
        after: for how many seconds it is not to be asked again.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.status = response.status_code
        self.problem = _problem_of(response.content)
        after = response.headers.get("Retry-After", "")
        self.after = float(after) if after.isdecimal() and len(after) < 6 else 0.0


def is_passing(error: httpx.TransportError | RefusedError) -> bool:
    """Return whether it may be asked for again, and the answer may be another one."""
    if isinstance(error, httpx.TransportError):
        return not isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError) and not _is_about_tls(error)
    kind = _KINDS.get(error.problem.name)
    if kind is not None:
        return issubclass(kind, StoreUnavailableError | StoreConflictError)
    return error.status in PASSING


def has_done_nothing(error: httpx.TransportError | RefusedError) -> bool:
    """Return whether what was asked for certainly did not happen."""
    return isinstance(error, _CAME_TO_NOTHING) or (isinstance(error, RefusedError) and error.status == 429)


def translated(error: httpx.TransportError | RefusedError, server: str) -> PerdureError:
    """Return an error as Perdure names it.

    Args:
        error: what came instead of an answer.
        server: which one was asked, as it may be shown.
    """
    if isinstance(error, httpx.TransportError):
        reason = str(error) or type(error).__name__
        if _is_about_tls(error):
            said = f"no secure connection ({reason}): check the server's certificate, and ca"
        elif isinstance(error, _CAME_TO_NOTHING):
            said = f"it cannot be reached ({reason}): see that the server runs, and that host and port are right"
        else:
            said = f"it did not answer ({reason}); what was asked may or may not have happened"
        return StoreUnavailableError(f"{server}: {said}")
    problem, detail = error.problem, error.problem.detail
    kind = _KINDS.get(problem.name)
    if kind is not None:
        return kind(detail)
    told = f"{server}: {detail or f'it answers with status {error.status}'}"
    if error.status == 404 and problem.name != "no-such-namespace":
        return StoreCorruptError(f"{server}: there is no Perdure server, or an older one that cannot do this")
    by_status: dict[int, tuple[type[PerdureError], str]] = {
        401: (StoreUnavailableError, "; set PERDURE_API_KEY, or give api_key"),
        403: (StoreReadOnlyError, ""),
        404: (StoreUnavailableError, "; check the option namespace"),
        413: (RequestTooLargeError, "; send less at once, or raise the server's bound"),
        421: (StoreUnavailableError, ""),
        422: (UsageError, ""),
        **dict.fromkeys(PASSING, (StoreUnavailableError, "")),
    }
    found, advice = by_status.get(error.status, (StoreError, ""))
    return found(detail if error.status == 422 and detail else f"{told}{advice}")


def unreadable(server: str, error: Exception) -> StoreCorruptError:
    """Return the error of an answer that is none."""
    return StoreCorruptError(
        f"{server}: what it answers is nothing that a Perdure server of this version says: {error}"
    )


def _problem_of(content: bytes) -> Problem:
    try:
        return msgspec.json.decode(content, type=Problem)
    except (msgspec.MsgspecError, UnicodeError):
        return Problem()


def _is_about_tls(error: httpx.TransportError) -> bool:
    return "SSL" in str(error) or "certificate" in str(error).lower()


def _name(kind: type) -> str:
    """Return what a class of errors is called in a problem document."""
    return "-".join(re.findall(r"[A-Z][a-z]*", kind.__name__.removesuffix("Error"))).lower()


_ALL: list[Any] = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PerdureError)]
_KINDS: dict[str, type[PerdureError]] = {_name(each): each for each in _ALL}
"""Every error of Perdure's, by what it is called in a problem document."""
