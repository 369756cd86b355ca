"""API keys: made, looked at, given a successor, and taken back, by those who may."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field, StringConstraints
from starlette.responses import Response

from perdure.server.access import Access, Admin
from perdure.server.api.answers import Moment, Told
from perdure.server.api.mistakes import told_of
from perdure.server.api.models import Duration, Name, ReasonBody, Text
from perdure.server.errors import Problem
from perdure.server.principal import ALL
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.security.keys import OVERLAP, ApiKey
from perdure.server.shown import moment

PAGE = 100
"""How many keys a page has where nothing else is asked for."""

PAGE_MOST = 1_000
NAMESPACES_MOST = 100
"""For how many namespaces a key may be."""

router = routes("keys")

RoleName = Literal["metrics", "viewer", "operator", "admin"]
KeyId = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class KeyBody(ReasonBody):
    """A key to make."""

    name: Text = Field(description="Whose it is, or what for.")
    role: RoleName
    namespaces: Annotated[list[Name], Field(min_length=1, max_length=NAMESPACES_MOST)] = Field(
        default=["default"],
        description="Where it may be used; `*`, which only those give who have it, for all there are and will be.",
    )
    expires_in: Duration | None = Field(default=None, description="After how long it ends; never by default.")


class RotateBody(ReasonBody):
    """How one key takes the place of another."""

    overlap: Duration = Field(default=str(OVERLAP), description="For how long the old one can still be used.")


class KeyDocument(Told):
    """A key, without its secret."""

    id: str
    name: str
    role: RoleName
    namespaces: list[str]
    state: Literal["active", "expired", "revoked"]
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    used_at: Moment | None = Field(description="When it was last used, to ten minutes.")
    replaces: str | None = Field(description="The key whose place it took.")


class NewKeyDocument(KeyDocument):
    """A key that was just made."""

    token: str = Field(description="What to send as `Authorization: Bearer …`. It is shown this once.")


class KeysPage(Told):
    """Some keys."""

    items: list[KeyDocument]
    next: str | None = Field(description="The `cursor` of the next page.")


_NO_REASON = ReasonBody()
_ROTATE = RotateBody()


@router.get("/api/v1/keys", operation_id="list_keys", response_model=KeysPage)
async def list_keys(
    access: Admin,
    limit: Annotated[int, Query(ge=1, le=PAGE_MOST)] = PAGE,
    cursor: Annotated[str | None, Query(max_length=100, description="`next` of the page before.")] = None,
) -> Response:
    """List the keys for namespaces that are yours, oldest first, those that have ended too."""
    keys = access.server.authenticator.keys
    found: list[ApiKey] = []
    while len(found) <= limit:
        page = await keys.page(PAGE_MOST, cursor)
        found += [key for key in page if access.principal.has(key.namespaces)]
        if len(page) < PAGE_MOST:
            break
        cursor = page[-1].id
    used = await keys.last_used([key.id for key in found[:limit]])
    items = [_document(access, key, used.get(key.id)) for key in found[:limit]]
    return reply({"items": items, "next": found[limit - 1].id if len(found) > limit else None})


@router.post("/api/v1/keys", operation_id="create_key", status_code=201, response_model=NewKeyDocument)
async def create_key(access: Admin, body: KeyBody) -> Response:
    """Make a key. What it is made of is shown in this answer and never again."""
    if not access.principal.has(body.namespaces) or not {ALL, *access.server.namespaces.names} >= {*body.namespaces}:
        raise Problem(404, "No such namespace", "one of the namespaces is not there, or not yours")
    await access.audit("keys.create", body.name, body.reason, role=body.role, namespaces=body.namespaces)
    with told_of("body"):
        made = await access.server.authenticator.keys.create(body.name, body.role, body.namespaces, body.expires_in)
    return reply({**_document(access, made.key, None), "token": made.token}, 201)


@router.post("/api/v1/keys/{id}/rotate", operation_id="rotate_key", status_code=201, response_model=NewKeyDocument)
async def rotate_key(access: Admin, id: KeyId, body: RotateBody = _ROTATE) -> Response:
    """Make a key that takes another one's place; for a while both can be used."""
    await access.audit("keys.rotate", id, body.reason, overlap=body.overlap)
    await _find(access, id)
    with told_of("body"):
        made = await access.server.authenticator.keys.rotate(id, body.overlap)
    if made is None:
        raise _missing(id)
    return reply({**_document(access, made.key, None), "token": made.token}, 201)


@router.post("/api/v1/keys/{id}/revoke", operation_id="revoke_key", response_model=KeyDocument)
async def revoke_key(access: Admin, id: KeyId, body: ReasonBody = _NO_REASON) -> Response:
    """Have a key end: within two seconds no server takes it, and its streams and sessions end."""
    await access.audit("keys.revoke", id, body.reason)
    await _find(access, id)
    key = await access.server.authenticator.keys.revoke(id)
    if key is None:
        raise _missing(id)
    used = await access.server.authenticator.keys.last_used([id])
    return reply(_document(access, key, used.get(id)))


async def _find(access: Access, id: str) -> ApiKey:
    key = await access.server.authenticator.keys.get(id) if id.isprintable() else None
    if key is None or not access.principal.has(key.namespaces):
        raise _missing(id)
    return key


def _missing(id: str) -> Problem:
    return Problem(404, "Key not found", f"there is no key {id!r}")


def _document(access: Access, key: ApiKey, used_at: int | None) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "namespaces": key.namespaces,
        "state": key.state(access.app.world.now()),
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "used_at": moment(used_at),
        "replaces": key.replaces,
    }
