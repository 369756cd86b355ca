"""Who may ask what.

Nothing is served to nobody, but for a list of paths. Each route says by the type of its first parameter what role it
takes: `access: Metrics`, `Viewer`, `Operator` or `Admin`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.engine.app import Perdure
from perdure.model.errors import StoreError
from perdure.model.redaction import Redaction
from perdure.server.errors import Problem, note, problem_of, respond
from perdure.server.principal import Principal, Role
from perdure.server.server import Server
from perdure.server.settings import DEFAULT

__all__ = [
    "Access",
    "Admin",
    "Authentication",
    "Metrics",
    "Operator",
    "Principal",
    "Role",
    "Viewer",
    "require_role",
    "role_of",
]

PUBLIC: set[str] = {"/livez", "/readyz", "/login"}
"""What is served to anybody: these very paths and no others."""

NAMESPACE = b"perdure-namespace"
"""The header that says which of several namespaces a request is about."""

CHOSEN = "perdure-namespace"
"""The cookie in which the dashboard of the local admin says so: of what is looked at, and not of who looks."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who sends a request, and what it is about.

    Attributes:
        principal: who.
        namespace: in which namespace.
        app: that namespace's engine.
        server: the parts of the server.
        recorded: the actions that were written down for this request, and what each was to be done to.
    """

    principal: Principal
    namespace: str
    app: Perdure
    server: Server
    recorded: list[tuple[str, str]] = field(default_factory=list)

    @property
    def redaction(self) -> Redaction:
        """What is masked for whoever asks: for viewers, the fields that the settings name."""
        return self.server.redaction if self.principal.role < Role.OPERATOR else Redaction()

    async def require_held(self, scope: Scope) -> None:
        """Refuse a request that was let in a while ago, if its credentials do not hold any longer.

        Raises:
            Problem: its key was revoked, its session or its token has ended.
            StoreError: that cannot be found out.
        """
        principal = await self.server.authenticator.authenticate(scope)
        if principal is None or self.namespace not in principal.namespaces:
            raise _nobody()

    async def audit(self, action: str, target: str, reason: str = "", **details: Any) -> None:
        """Write down what is about to be done; where this raises, it must not be done.

        Args:
            action: as in `runs.terminate`.
            target: what it is done to, such as a run's id.
            reason: why, in the operator's words.
            details: what else matters of it, as plain data.
        """
        await self.server.auditor.record(self.principal, self.namespace, action, target, reason, details)
        self.recorded.append((action, target))

    async def audit_failure(self, action: str, target: str, **details: Any) -> None:
        """Write down that what was written down ahead of it could not be done, although the request could.

        Args:
            action, target, details: as for `audit`.
        """
        await self.server.auditor.record(
            self.principal, self.namespace, action, target, "", details, outcome="failed (409)"
        )


class Authentication:
    """Finds out who sends each request, ahead of everything that could act on it (ASGI middleware)."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its `Access`, or refuse it."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in PUBLIC):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError("this server speaks HTTP alone")
        try:
            scope.setdefault("state", {})["access"] = await self._admitted(scope)
        except Problem as problem:
            await respond(problem)(scope, receive, send)
            return
        except StoreError as error:
            note(scope, error)
            await respond(problem_of(error))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope) -> Access:
        principal = await self._server.authenticator.authenticate(scope)
        if principal is None:
            if _wants_page(scope):
                raise Problem(303, "Log in", "log in first", headers={"Location": "/login"})
            raise _nobody()
        name = _namespace(scope, principal, self._server.namespaces.names)
        app = self._server.namespaces.engine(name) if name in principal.namespaces else None
        if app is None:
            raise Problem(404, "No such namespace", f"there is no namespace {name!r}")
        return Access(principal, name, app, self._server)


def _nobody() -> Problem:
    return Problem(
        401,
        "Not authenticated",
        "give an API key, as in `Authorization: Bearer pdk_…`",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _namespace(scope: Scope, principal: Principal, known: tuple[str, ...]) -> str:
    for name, value in scope["headers"]:
        if name == NAMESPACE:
            return str(value, "latin-1")
    if principal.chosen is not None:
        return principal.chosen
    if principal.kind == "local" and (chosen := _chosen_here(scope)) in principal.namespaces:
        return chosen
    if principal.role is Role.METRICS:  # which are of all namespaces that are theirs
        return next((name for name in known if name in principal.namespaces), DEFAULT)
    return principal.namespaces[0] if len(principal.namespaces) == 1 else DEFAULT


def _chosen_here(scope: Scope) -> str:
    """Return what the dashboard of somebody without a session is about; empty for nothing in particular."""
    found = [cookie_parser(str(value, "latin-1")) for name, value in scope["headers"] if name == b"cookie"]
    return next((cookies[CHOSEN] for cookies in found if CHOSEN in cookies), "")


def _wants_page(scope: Scope) -> bool:
    """Return whether a browser asks for a page."""
    if scope["method"] != "GET" or scope["path"].startswith("/api/"):
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def require_role(scope: Scope, role: Role) -> Access:
    """Return the access of a request.

    Raises:
        Problem: whoever sends it does not have the role (403).
    """
    access: Access = scope["state"]["access"]
    if access.principal.role < role:
        raise Problem(403, "Not allowed", f"this takes the role {role}, and {access.principal.role} is what you have")
    return access


def _asks(role: Role) -> Callable[[Request], Awaitable[Access]]:
    async def asks(request: Request) -> Access:
        return require_role(request.scope, role)

    return asks


_ROLES = {_asks(role): role for role in Role}
_metrics, _viewer, _operator, _admin = _ROLES

Metrics = Annotated[Access, Depends(_metrics)]
"""The type of a route's first parameter where those may ask who see how much there is of everything, and no more."""

Viewer = Annotated[Access, Depends(_viewer)]
"""The same, where everybody who may look may ask."""

Operator = Annotated[Access, Depends(_operator)]
"""The same, where something is changed."""

Admin = Annotated[Access, Depends(_admin)]
"""The same, where it is about who may do what."""


def role_of(route: APIRoute) -> Role | None:
    """Return the role that a route takes; None for one that does not say."""
    asked = [_ROLES[each.call] for each in route.dependant.dependencies if each.call in _ROLES]
    return max(asked, default=None)
