"""Routes of QStash's API: what a request says in its path, query and headers, and who has the messages it is about.

Clients put a destination into the path as it is: everything behind the prefix belongs to it, the query too. Other
queries are read without refusing what is unknown, as newer clients send what older servers do not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs, unquote

from fastapi import APIRouter, Request
from starlette.responses import Response

from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.messages.flow_control import UnknownKeyError
from perdure.dispatch.messages.groups import UnknownGroupError
from perdure.dispatch.messages.lines import UnknownQueueError
from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.messages.plans import UnknownPlanError
from perdure.model.errors import UsageError
from perdure.server.access import Access
from perdure.server.errors import Problem
from perdure.server.routing import StrictRoute, reply

QUERY_FIELDS = 1_200
"""How many parameters a query may have: a thousand ids among them."""

_ENCODED = re.compile(r"https?%3a", re.IGNORECASE)
_MERGED = re.compile(r"(https?):/(?=[^/])", re.IGNORECASE)


class QstashRoute(StrictRoute):
    """A route that leaves a destination as it is, and lets unknown parameters pass."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except (UnknownGroupError, UnknownKeyError, UnknownPlanError, UnknownQueueError) as error:
                raise not_found(str(error)) from None

        return told

    def decoded(self, name: str, text: str) -> str:
        """Return a part of the path; a destination is as it was sent."""
        return text if name == "destination" else super().decoded(name, text)

    def check_query(self, query: bytes, known: frozenset[str]) -> None:
        """Take any."""


def router() -> APIRouter:
    """Return a router for one part of the API; none is part of the description of ours."""
    return APIRouter(route_class=QstashRoute, redirect_slashes=False, include_in_schema=False)


def dispatcher_of(access: Access) -> Dispatcher:
    """Return the dispatcher of the namespace that a request is about."""
    return access.server.dispatchers[access.namespace]


def messaging_of(access: Access) -> Messaging:
    """Return the messages of the namespace that a request is about."""
    return dispatcher_of(access).messages


def headers_of(request: Request) -> list[tuple[str, str]]:
    """Return a request's headers, byte by byte."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]


def caller_of(access: Access, request: Request) -> str:
    """Return the address of who asks."""
    return access.server.authenticator.address_of(request.scope)


def destination_of(request: Request) -> str:
    """Return the destination that stands in a request's path: a URL, or the name of a URL group.

    Raises:
        Problem: it is one that is not supported.
        UsageError: there is none.
    """
    query = request.scope["query_string"].decode("latin-1")
    text = request.scope["path_params"]["destination"] + (f"?{query}" if query else "")
    return destination_meant(text)


def destination_meant(text: str) -> str:
    """Return the destination that a text means: percent-encoded, or with a `/` that a proxy took away, it is mended.

    Raises:
        Problem: it is one that is not supported.
        UsageError: there is none.
    """
    if _ENCODED.match(text):
        text = unquote(text)
    text = _MERGED.sub(r"\1://", text, count=1) if _MERGED.match(text) else text
    if not text:
        raise UsageError("invalid destination url: there is none")
    if text.startswith("api/"):
        raise unsupported(f"publishing to {text[:40]}: there is no model here; give its provider, which has a URL")
    return text if "://" in text else unquote(text)


def query_of(request: Request) -> dict[str, list[str]]:
    """Return a request's query; every parameter has one value at least, which may be empty.

    Raises:
        UsageError: it has too many.
    """
    try:
        text = request.scope["query_string"].decode("latin-1")
        return parse_qs(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
    except ValueError:
        raise UsageError(f"query: it has more than {QUERY_FIELDS:,} parameters") from None


async def json_of(request: Request) -> dict[str, Any]:
    """Return a request's body, which must be a JSON object; nothing is an empty one.

    Raises:
        Problem: it is no JSON, or passes a bound.
        UsageError: it is no object.
    """
    if not await request.body():
        return {}
    found = await request.json()
    if not isinstance(found, dict):
        raise UsageError("body: it must be a JSON object")
    return found


def done(status: int = 200) -> Response:
    """Return the answer where nothing is to be told: clients may parse it, so it is not empty."""
    return reply({}, status)


def not_found(detail: str) -> Problem:
    """Return the problem that something is not there."""
    return Problem(404, "Not found", detail)


def unsupported(what: str) -> Problem:
    """Return the problem that a call is not supported here."""
    return Problem(501, "Not supported", f"not supported by Perdure: {what}")
