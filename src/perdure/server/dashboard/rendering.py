"""Pages: templates filled in for whoever asks. Everything that a user controls is text, which the templates escape."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from perdure.dispatch.messages.message import DELIVERY
from perdure.model.duration import in_words
from perdure.model.errors import PerdureError
from perdure.server.access import Access
from perdure.server.dashboard import assets, formats
from perdure.server.errors import Problem, invalid, problem_of
from perdure.server.principal import Role
from perdure.server.routing import StrictRoute

NAVIGATION = (
    ("/", "Overview", Role.VIEWER),
    ("/runs", "Runs", Role.VIEWER),
    ("/failures", "Failures", Role.VIEWER),
    ("/queues", "Queues", Role.VIEWER),
    ("/schedules", "Schedules", Role.VIEWER),
    ("/definitions", "Workflows", Role.VIEWER),
    ("/workers", "Workers", Role.VIEWER),
    ("/endpoints", "Endpoints", Role.OPERATOR),
    ("/undos", "Needs help", Role.VIEWER),
    ("/audit", "Audit log", Role.OPERATOR),
    ("/keys", "API keys", Role.ADMIN),
)
"""The pages, and who may see each."""

COUNTED_WITHIN = 0.15
"""Seconds that a page waits for the first count of everything; without it, it says so and looks again."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "moment": formats.moment,
    "machine_time": formats.machine_time,
    "took": in_words,
    "size": formats.size,
    "number": formats.number,
    "part": formats.plain_part,
}
_templates.globals |= {"static": assets.address, "ago": formats.ago, "delivery": DELIVERY}


def page(request: Request, access: Access, template: str, status: int = 200, **about: Any) -> Response:
    """Return a page.

    Args:
        request: the request that it answers.
        access: of whoever asks.
        template: the name of its template.
        status: of the response.
        about: what the template shows; `live` is the address of the stream whose news have the page look again.
    """
    principal = access.principal
    path = request.scope["path"]
    shown = _templates.get_template(template).render(
        now=access.app.world.now(),
        navigation=[
            (address, name, _is_at(path, address)) for address, name, role in NAVIGATION if principal.role >= role
        ],
        principal=principal,
        namespace=access.namespace,
        csrf=principal.csrf,
        can_operate=principal.role >= Role.OPERATOR,
        is_admin=principal.role >= Role.ADMIN,
        **{"live": None, "every": None, **about},
    )
    return Response(shown, status, media_type="text/html")


def login_page() -> Response:
    """Return the page to log in, which is for nobody in particular."""
    return Response(_templates.get_template("login.html").render(), media_type="text/html")


def routes() -> APIRouter:
    """Return a router for pages: its errors are pages too, and it is no part of the API's description."""
    return APIRouter(route_class=PageRoute, redirect_slashes=False, include_in_schema=False)


class PageRoute(StrictRoute):
    """A route whose errors are told as a page, unless a script asked for a change: as everywhere then."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except (Problem, PerdureError, RequestValidationError) as error:
                problem = _problem(error)
                if request.method != "GET" or problem.status == 500 or "access" not in request.scope.get("state", {}):
                    raise
                access: Access = request.scope["state"]["access"]
                return page(request, access, "problem.html", problem.status, problem=problem)

        return answered


def _problem(error: Problem | PerdureError | RequestValidationError) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, PerdureError):
        return problem_of(error)
    first = error.errors()[0]
    return invalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", ())


def _is_at(path: str, address: str) -> bool:
    return path == address or (address != "/" and path.startswith(f"{address}/"))
