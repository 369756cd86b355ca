"""URL groups, which older clients call topics."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.groups import Group, GroupEndpoint
from perdure.model.errors import UsageError
from perdure.server.access import Operator, Viewer
from perdure.server.qstash.routes import done, json_of, messaging_of
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


@router.get("/v2/topics", operation_id="qstash_list_groups")
async def list_groups(access: Viewer) -> Response:
    """List the URL groups."""
    return reply([_document(each) for each in await messaging_of(access).outbox.groups.all()])


@router.get("/v2/topics/{name}", operation_id="qstash_get_group")
async def get_group(access: Viewer, name: str) -> Response:
    """Return a URL group."""
    return reply(_document(await messaging_of(access).outbox.groups.get(name)))


@router.post("/v2/topics/{name}/endpoints", operation_id="qstash_add_endpoints")
async def add_endpoints(access: Operator, name: str, request: Request) -> Response:
    """Add endpoints to a URL group, which is made if it is not there."""
    given = _endpoints(await json_of(request))
    outbox = messaging_of(access).outbox
    for each in given:
        outbox.require_permitted(each.url)
    await access.audit("groups.add", name)
    await outbox.groups.add(name, given)
    return done()


@router.delete("/v2/topics/{name}/endpoints", operation_id="qstash_remove_endpoints")
async def remove_endpoints(access: Operator, name: str, request: Request) -> Response:
    """Remove endpoints from a URL group, which goes with the last one."""
    given = _endpoints(await json_of(request))
    await access.audit("groups.remove", name)
    await messaging_of(access).outbox.groups.remove(name, given)
    return done()


@router.delete("/v2/topics/{name}", operation_id="qstash_delete_group")
async def delete_group(access: Operator, name: str) -> Response:
    """Remove a URL group; one that is not there is none."""
    await access.audit("groups.delete", name)
    await messaging_of(access).outbox.groups.delete(name)
    return done()


def _endpoints(body: dict[str, Any]) -> list[GroupEndpoint]:
    given = body.get("endpoints")
    plain = [_given(each) for each in given] if isinstance(given, list) else given
    try:
        return msgspec.convert(plain, list[GroupEndpoint])
    except msgspec.ValidationError as error:
        raise UsageError(f"endpoints: it must be a list of objects with `url` and `name` ({error})") from None


def _given(endpoint: Any) -> Any:
    """Return an endpoint without what clients say is not there."""
    return (
        {name: value for name, value in endpoint.items() if value is not None}
        if isinstance(endpoint, dict)
        else endpoint
    )


def _document(group: Group) -> dict[str, Any]:
    endpoints = [{"name": each.name, "url": each.url} if each.name else {"url": each.url} for each in group.endpoints]
    return {
        "name": group.name,
        "createdAt": group.created_at,
        "updatedAt": group.updated_at,
        "endpoints": endpoints,
    }
