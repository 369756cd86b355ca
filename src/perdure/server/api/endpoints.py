"""Endpoints: who serves workflows over HTTP, and the keys that requests to them are signed with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.responses import Response

from perdure.dispatch.asking import PushFailedError
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.endpoints import URL_LENGTH, Endpoint, key_of
from perdure.server.access import Access, Admin, Operator
from perdure.server.api.answers import Moment, Told
from perdure.server.api.mistakes import told_of
from perdure.server.api.models import ReasonBody
from perdure.server.errors import Problem
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

router = routes("endpoints")

EndpointId = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class EndpointBody(ReasonBody):
    """An endpoint to push runs to."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=URL_LENGTH)] = Field(
        description="Where it is; it is asked at once what it serves.",
        json_schema_extra={"format": "perdure-endpoint"},
    )


class ServedDocument(Told):
    """A workflow that an endpoint serves."""

    name: str
    version: str
    queue: str


class EndpointDocument(Told):
    """Who serves workflows over HTTP."""

    id: str
    url: str
    added_at: Moment = Field(description="When it was last asked what it serves.")
    workflows: list[ServedDocument]
    failures: int | None = Field(
        description="How many pushes from this server failed in a row; null if it pushes none."
    )
    error: str = Field(description="What it failed with, or refused the last run with; empty where it took that.")


class EndpointsDocument(Told):
    """The endpoints."""

    items: list[EndpointDocument]


class SigningKeysDocument(Told):
    """The keys that endpoints check signatures with."""

    current: str = Field(description="What requests are signed with: PERDURE_SIGNING_KEY of an endpoint.")
    next: str = Field(description="What takes its place with the next rotation: PERDURE_NEXT_SIGNING_KEY.")


_NO_REASON = ReasonBody()


@router.get("/api/v1/endpoints", operation_id="list_endpoints", response_model=EndpointsDocument)
async def list_endpoints(access: Operator) -> Response:
    """List the endpoints, with what each serves."""
    dispatcher = _dispatcher(access)
    return reply({"items": [_document(dispatcher, each) for each in await dispatcher.endpoints.all()]})


@router.post("/api/v1/endpoints", operation_id="add_endpoint", status_code=201, response_model=EndpointDocument)
async def add_endpoint(access: Admin, body: EndpointBody) -> Response:
    """Ask an endpoint what it serves, and push the runs of those workflows to it from now on.

    One that is there already is asked anew. Every server of the namespace knows of it within ten seconds.
    """
    dispatcher = _dispatcher(access)
    await access.audit("endpoints.add", key_of(body.url), body.reason)
    try:
        with told_of("body"):
            endpoint = await dispatcher.add(body.url)
    except PushFailedError as error:
        raise Problem(409, "No answer from the endpoint", f"body.url: {error}") from None
    return reply(_document(dispatcher, endpoint), 201)


@router.delete("/api/v1/endpoints/{id}", operation_id="remove_endpoint", status_code=204)
async def remove_endpoint(access: Admin, id: EndpointId) -> Response:
    """Push nothing more to an endpoint; what it works on, it may finish."""
    await access.audit("endpoints.remove", id)
    if not await _dispatcher(access).remove(id):
        raise Problem(404, "Endpoint not found", f"there is no endpoint {id!r}")
    return Response(status_code=204)


@router.get("/api/v1/signing-keys", operation_id="get_signing_keys", response_model=SigningKeysDocument)
async def get_signing_keys(access: Admin) -> Response:
    """Return the keys that endpoints check signatures with."""
    keys = (await _dispatcher(access).kept_keys()).signing
    return reply({"current": keys.current, "next": keys.next})


@router.post("/api/v1/signing-keys/rotate", operation_id="rotate_signing_keys", response_model=SigningKeysDocument)
async def rotate_signing_keys(access: Admin, body: ReasonBody = _NO_REASON) -> Response:
    """Have the next key take the place of the current one, and make another next one.

    Endpoints that know both go on; give them the new next one before the next rotation.
    """
    await access.audit("signing-keys.rotate", "", body.reason)
    keys = (await _dispatcher(access).rotate_keys()).signing
    return reply({"current": keys.current, "next": keys.next})


def _dispatcher(access: Access) -> Dispatcher:
    return access.server.dispatchers[access.namespace]


def _document(dispatcher: Dispatcher, endpoint: Endpoint) -> dict[str, Any]:
    served = [{"name": each.name, "version": each.version, "queue": each.queue} for each in endpoint.workflows]
    breaker = dispatcher.breaker_of(endpoint.url)
    return {
        "id": key_of(endpoint.url),
        "url": endpoint.url,
        "added_at": moment(endpoint.added_at),
        "workflows": served,
        "failures": None if breaker is None else breaker.failures,
        "error": "" if breaker is None else breaker.error,
    }
