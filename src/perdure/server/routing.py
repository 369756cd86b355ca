"""Routes that read what they are sent strictly: bodies within bounds, no unknown query parameters, ids with any sign.

Who may not ask is refused before the body is read.

An id in a path may hold `/` and `%` if it is percent-encoded: routes are matched by the path as it was sent, and each
part is decoded afterwards, once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import msgspec
from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.server.access import require_role, role_of
from perdure.server.bodies import parse_json, read_body
from perdure.server.errors import Problem, ProblemError, invalid
from perdure.server.server import Server

_encode = msgspec.json.Encoder().encode


STRANGERS_BYTES = 8_192
"""The size of a body of somebody who has not proved who they are yet."""

_UNPRINTABLE = "it must be printable text, without control characters"


_WORDS = ("batch", "actions")


class RunConvertor(StringConvertor):
    """The id of a run where other words may stand too: a run called `batch` is asked for as `%62%61%74%63%68`."""

    regex = f"(?!(?:{'|'.join(_WORDS)})$)[^/]+"


register_url_convertor("run", RunConvertor())


def path_of_run(run_id: str) -> str:
    """Return the path of a run, whatever its id is: also of one that would be taken for a word, or for a step up."""
    if run_id in (*_WORDS, ".", ".."):
        return "/api/v1/runs/" + "".join(f"%{ord(sign):02X}" for sign in run_id)
    return f"/api/v1/runs/{quote(run_id, safe='')}"


def router(tag: str) -> APIRouter:
    """Return a router for one part of the API; its routes give their whole path.

    Args:
        tag: under what heading its operations stand in the documentation.
    """
    return APIRouter(route_class=StrictRoute, tags=[tag], redirect_slashes=False)


def reply(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a document that needs no further look; anything that msgspec encodes."""
    return Response(_encode(document), status, headers, "application/json")


class StrictRequest(Request):
    """A request whose body is read by `perdure.server.bodies`."""

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            Problem: it is too large.
        """
        if not hasattr(self, "_body"):
            most = self._server.settings.body_bytes
            is_known = "access" in self.scope.get("state", {})
            self._body = await read_body(self, most if is_known else min(most, STRANGERS_BYTES))
        return self._body

    async def json(self) -> Any:
        """Return the body's value.

        Raises:
            Problem: it is no JSON, or passes a bound.
        """
        return parse_json(await self.body(), self._server.settings)

    @property
    def _server(self) -> Server:
        server: Server = self.scope["app"].state.server
        return server


class StrictRoute(APIRoute):
    """See the module."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()
        known = _query_names(self.dependant)
        has_body = self.body_field is not None
        role = role_of(self)

        async def strictly(request: Request) -> Response:
            scope = request.scope
            if scope["path_params"]:
                scope["path_params"] = {name: self.decoded(name, text) for name, text in scope["path_params"].items()}
            if role is not None:
                require_role(scope, role)
            if scope["query_string"]:
                self.check_query(scope["query_string"], known)
            strict = StrictRequest(scope, request.receive)
            if has_body:
                await _check_type(strict)
            return await handle(strict)

        return strictly

    def decoded(self, name: str, text: str) -> str:
        """Return a part of the path, as it was meant.

        Raises:
            Problem: it is none that is taken.
        """
        return _decoded(name, text)

    def check_query(self, query: bytes, known: frozenset[str]) -> None:
        """Refuse a query with a parameter that is not among those that are known.

        Raises:
            Problem: it has one, or is none that is taken.
        """
        _check_query(query, known)


class RawPaths:
    """Has routes be matched by the path as it was sent (ASGI middleware, ahead of whatever looks at paths)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            raw = scope.get("raw_path")
            scope["path"] = raw.partition(b"?")[0].decode("latin-1") if raw else quote(scope["path"])
        await self._app(scope, receive, send)


def _decoded(name: str, text: str) -> str:
    try:
        value = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _invalid([ProblemError(f"path.{name}", "it is no percent-encoded UTF-8")]) from None
    if not value.isprintable():
        raise _invalid([ProblemError(f"path.{name}", _UNPRINTABLE)])
    return value


def _query_names(dependant: Dependant) -> frozenset[str]:
    names: set[str] = set()
    for inner in dependant.dependencies:
        names |= _query_names(inner)
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= {each.alias or name for name, each in kind.model_fields.items()}
        else:
            names.add(field.alias)
    return frozenset(names)


def _check_query(query: bytes, known: frozenset[str]) -> None:
    try:
        given = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise _invalid([ProblemError("query", "it is no percent-encoded UTF-8, or too long")]) from None
    has = f"it has {', '.join(sorted(known))}" if known else "it has none"
    unknown = [name for name, _ in given if name not in known]
    if unknown:
        raise _invalid([ProblemError(f"query.{name[:100]}", f"there is no such parameter; {has}") for name in unknown])
    if unprintable := [name for name, value in given if not value.isprintable()]:
        raise _invalid([ProblemError(f"query.{name}", _UNPRINTABLE) for name in unprintable])


def _invalid(found: list[ProblemError]) -> Problem:
    return invalid(f"{found[0].path}: {found[0].message}", found)


async def _check_type(request: StrictRequest) -> None:
    """Refuse a body that is no JSON by its own account."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = given == "application/json" or (given.startswith("application/") and given.endswith("+json"))
    if not is_json and (given or await request.body()):
        raise Problem(415, "Not JSON", f"the body is {given or 'of no type'}; send JSON as application/json")
