"""Errors as problem documents (RFC 9457): what is wrong, where, and what to do about it; never a trace."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.model import errors
from perdure.model.errors import PerdureError, StoreError

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER = "2"
"""Seconds after which what failed for now may be asked for again."""

ERRORS_TOLD = 50
"""How many things that are wrong with one request are told at once."""

_log = logging.getLogger("perdure.server")

_STATUS: tuple[tuple[type[PerdureError], int], ...] = (
    (errors.PayloadTooLargeError, 413),
    (errors.BatchTooLargeError, 413),
    (errors.DocumentTooLargeError, 413),
    (errors.InboxFullError, 429),
    (errors.RunNotFoundError, 404),
    (errors.RunExistsError, 409),
    (errors.RunFinishedError, 409),
    (errors.RunError, 409),
    (errors.WebhookVerificationError, 401),
    (errors.UnknownWorkflowError, 404),
    (errors.UsageError, 422),
    (errors.StoreUnavailableError, 503),
    (errors.StoreConflictError, 503),
    (errors.StoreReadOnlyError, 503),
    (errors.StoreFullError, 507),
)
"""The status of each error, the first that it is one of; 500 for the rest."""

_SAID: tuple[tuple[type[PerdureError], str], ...] = (
    (errors.StoreUnavailableError, "the store does not answer; what was asked may or may not have happened"),
    (errors.StoreConflictError, "something else was in the way; nothing was done, so ask again"),
    (errors.StoreReadOnlyError, "the store takes no writes; nothing was done"),
    (errors.StoreFullError, "the store is full; nothing was done"),
    (StoreError, "the store cannot do it; the server's log says why"),
)
"""What is said of a store's trouble: where it is, who asks it and what it answers is for the log alone."""

_FIELD = re.compile(r"([a-z_]+(?:\[\d+\]|\.\w+)*): ")


class ProblemError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request.

    Attributes:
        path: where, as in `body.runs[3].workflow` or `query.limit`; empty for the request as a whole.
        message: what, and what to do about it.
    """

    path: str
    message: str


class Problem(HTTPException):
    """What a request is answered with where it cannot be done.

    Args:
        status: of the response.
        title: what kind of problem it is, the same for all of its kind.
        detail: what it is this time.
        name: of the kind, in words with dashes; made of the title by default.
        errors: what is wrong, and where.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        name: str = "",
        errors: Sequence[ProblemError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.status = status
        self.title = title
        self.name = name or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        self.errors = tuple(errors)

    def document(self) -> dict[str, Any]:
        """Return it as the fields of a problem document."""
        return {
            "type": f"urn:perdure:error:{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "errors": self.errors,
        }


def problem_of(error: PerdureError) -> Problem:
    """Return the problem that an error of the engine is to whoever asked."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    words = re.findall(r"[A-Z][a-z]*", type(error).__name__.removesuffix("Error"))
    field = _FIELD.match(str(error))
    found = [ProblemError(field.group(1), str(error)[field.end() :])] if field and status == 422 else []
    if isinstance(error, errors.SerializationError) and error.found:
        told = (each.partition(": ") for each in error.found[:ERRORS_TOLD])
        found = [ProblemError(path, message) for path, _, message in told]
    headers = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    if words == ["Usage"]:
        return invalid(str(error), found)
    title = " ".join(words).capitalize()
    detail = next((said for kind, said in _SAID if isinstance(error, kind)), str(error))
    return Problem(status, title, detail, name="-".join(words).lower(), errors=found, headers=headers)


def invalid(detail: str, found: Sequence[ProblemError]) -> Problem:
    """Return the problem with a request that is wrong in itself."""
    return Problem(422, "The request is not valid", detail, name="invalid-request", errors=found)


def respond(problem: Problem) -> Response:
    """Return the response for a problem."""
    return Response(
        msgspec.json.encode(problem.document()), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Have an application answer errors as problem documents."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(PerdureError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(error)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PerdureError)
    problem = problem_of(error)
    if problem.status == 500:
        raise error
    note(request.scope, error)
    return respond(problem)


def route_of(scope: Scope) -> str:
    """Return the pattern of a request's route, which logs name: the address as it was sent may hold anything."""
    return getattr(scope.get("route"), "path", "-")


def note(scope: Scope, error: PerdureError) -> None:
    """Log the trouble of a store, which whoever asks is told little of."""
    if isinstance(error, StoreError):
        number = scope["state"]["request_id"]
        _log.warning("request %s: %s %s failed: %s", number, scope["method"], route_of(scope), error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase.capitalize()
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "there is nothing at this path; /api/docs says what there is"
    elif error.status_code == 405:
        detail = f"{request.method} cannot be asked of this path, but {', '.join(sorted(_allowed(request)))}"
        return respond(Problem(405, title, detail, headers={"Allow": ", ".join(sorted(_allowed(request)))}))
    return respond(Problem(error.status_code, title, detail, headers=error.headers))


def _allowed(request: Request) -> set[str]:
    """Return every method that the path can be asked by: several routes may have it."""
    found: set[str] = set()
    for route in request.app.router.routes:
        pattern, methods = getattr(route, "path_regex", None), getattr(route, "methods", None)
        if pattern is not None and methods and pattern.match(request.scope["path"]):
            found |= methods
    return found


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [ProblemError(_path(each["loc"]), _message(each)) for each in error.errors()[:ERRORS_TOLD]]
    first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    detail = f"{first.path}: {first.message}{more}"
    return respond(invalid(detail, found))


def _path(location: Sequence[int | str]) -> str:
    """Return a place as `body.runs[3].workflow`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _message(found: Mapping[str, Any]) -> str:
    if found["type"] == "extra_forbidden":
        return "there is no such field here; take it out"
    if found["type"] == "missing":
        return "it is needed, and not there"
    message = str(found["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


class Failures:
    """Answers what nobody has caught with the request's id, which the log says more about (ASGI middleware)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            number = scope["state"]["request_id"]
            _log.exception("request %s: %s %s failed", number, scope["method"], route_of(scope))
            if has_begun:
                raise  # half an answer is out: only the end of the connection tells that it is no whole one
            detail = f"something went wrong here; the server's log says more about {number}"
            await respond(Problem(500, "Internal error", detail))(scope, receive, send)
