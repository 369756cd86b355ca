"""Who asks; logging in to the dashboard and out of it, and which namespace its pages are about."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import Field, StringConstraints
from starlette.responses import Response
from starlette.types import Scope

from perdure.server.access import Access, Viewer
from perdure.server.api.answers import Told
from perdure.server.api.models import Name, Strict
from perdure.server.errors import Problem
from perdure.server.principal import Principal, Role
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.security.authentication import cookie_name, cookie_of, is_plain_here
from perdure.server.security.sent import sent
from perdure.server.security.sessions import LONGEST
from perdure.server.server import Server
from perdure.server.settings import DEFAULT

router = routes("sessions")

_NOBODY = Principal("", Role.VIEWER, "session", ())


class LoginBody(Strict):
    """What to log in with."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


class NamespaceBody(Strict):
    """Which namespace pages are to be about."""

    namespace: Name


class Who(Told):
    """Who asks, and about what."""

    name: str
    kind: str = Field(description="How they proved it: key, token, session, or local.")
    role: str = Field(description="metrics, viewer, operator or admin.")
    namespaces: list[str] = Field(description="Where they may ask.")
    namespace: str = Field(description="The one that this request is about.")


@router.post("/login", include_in_schema=False)
async def log_in(request: Request, body: LoginBody) -> Response:
    """Begin a session of the dashboard with an API key."""
    server: Server = request.app.state.server
    done = await server.authenticator.log_in(request.scope, body.key)
    if done is None:
        details = {"address": server.authenticator.address_of(request.scope)}
        await server.auditor.refuse(_NOBODY, DEFAULT, "sessions.begin", "", "refused (401)", details)
        raise Problem(401, "Not authenticated", "this is no API key, or one that has ended, or is for metrics alone")
    principal, token = done
    await server.auditor.record(principal, DEFAULT, "sessions.begin", principal.id, "", {})
    return reply({"name": principal.name}, headers={"Set-Cookie": _cookie(request.scope, token, LONGEST // 1000)})


@router.post("/logout", include_in_schema=False)
async def log_out(access: Viewer, request: Request) -> Response:
    """End the session that asks."""
    token = cookie_of(request.scope, sent(request.scope))
    if access.principal.kind == "session" and token is not None:
        await access.server.authenticator.sessions.end(token)
    return reply({}, headers={"Set-Cookie": _cookie(request.scope, "", 0)})


@router.get("/api/v1/session", operation_id="get_session", response_model=Who)
async def get_session(access: Viewer) -> Response:
    """Say who asks, and what they may do."""
    return reply(_who(access))


@router.put("/api/v1/session", operation_id="choose_namespace", response_model=Who)
async def choose_namespace(access: Viewer, request: Request, body: NamespaceBody) -> Response:
    """Have the pages of a session be about a namespace; who asks with a key says it with each request (409)."""
    token = cookie_of(request.scope, sent(request.scope))
    if access.principal.kind != "session" or token is None:
        raise Problem(409, "No session", "only a session of the dashboard keeps a namespace; send Perdure-Namespace")
    if body.namespace not in access.principal.namespaces or access.server.namespaces.engine(body.namespace) is None:
        raise Problem(404, "No such namespace", f"there is no namespace {body.namespace!r}")
    await access.server.authenticator.sessions.choose(token, body.namespace)
    return reply({**_who(access), "namespace": body.namespace})


def _who(access: Access) -> dict[str, object]:
    principal = access.principal
    return {
        "name": principal.name,
        "kind": principal.kind,
        "role": str(principal.role),
        "namespaces": principal.namespaces,
        "namespace": access.namespace,
    }


def _cookie(scope: Scope, token: str, seconds: int) -> str:
    secure = "" if is_plain_here(scope) else "; Secure"
    return f"{cookie_name(scope)}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
