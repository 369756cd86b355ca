"""Workflows: those in code as workers announce them, and those that are written as data; and the form to start one."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.authoring.graphs.definition import TEXT_BYTES, data_of
from perdure.engine.definitions import PublishedDefinition
from perdure.model.codec import encode
from perdure.model.decision import RunFilter
from perdure.model.redaction import Redaction
from perdure.server.access import Operator, Viewer
from perdure.server.api.models import Name, Strict
from perdure.server.dashboard.definitions import definitions_of
from perdure.server.dashboard.forms import form
from perdure.server.dashboard.graphs import draw, steps_of_definition, steps_of_details
from perdure.server.dashboard.payloads import Shown, shown
from perdure.server.dashboard.rendering import page, routes
from perdure.server.errors import Problem
from perdure.server.routing import reply

LATEST = 10
_ANY_SIZE = 1 << 40

ANNOUNCED_EVERY = 10
"""Seconds between two looks at what workers announce: no stream tells of it."""

router = routes()


class DefinitionText(Strict):
    """A workflow as data, as somebody wrote it."""

    text: Annotated[str, StringConstraints(max_length=TEXT_BYTES)]


@router.get("/definitions")
async def list_definitions(access: Viewer, request: Request) -> Response:
    """Show the workflows."""
    workflows = await access.app.workflows()
    return page(request, access, "definitions.html", live="/api/v1/watch", every=ANNOUNCED_EVERY, workflows=workflows)


@router.post("/definitions/data")
async def read_definition(access: Operator, body: DefinitionText) -> Response:
    """Return what a text says, JSON or YAML, as the REST API takes it."""
    data = encode(await asyncio.to_thread(data_of, body.text), "the definition", _ANY_SIZE)
    return reply({"data": msgspec.Raw(data.encode())})


@router.get("/definitions/{name}")
async def show_definition(
    access: Viewer,
    request: Request,
    name: Name,
    version: Annotated[str, StringConstraints(max_length=200)] = "",
) -> Response:
    """Show a workflow, with the form to start it."""
    app = access.app
    about = next((each for each in await app.workflows() if each.name == name), None)
    if about is None:
        raise Problem(404, "No such workflow", f"no worker has announced {name!r}, and no definition is called so")
    versions = await definitions_of(app, name)
    chosen = next((each for each in versions if each.version == version or not version), None)
    if version and chosen is None:
        raise Problem(404, "No such version", f"definition {name!r} has no version {version!r}")
    entry = next((each for each in await app.client.announced.entries() if each.workflow == name), None)
    details = {} if entry is None else msgspec.json.decode(entry.details)
    steps = steps_of_definition(chosen.data) if chosen is not None else steps_of_details(details)
    return page(
        request,
        access,
        "definition.html",
        live="/api/v1/watch",
        every=ANNOUNCED_EVERY,
        name=name,
        about=about,
        graph=draw(steps),
        steps=details.get("steps", ()),
        form=form(about.input),
        latest=(await app.client.find(RunFilter(workflow=name), LATEST, None)).runs,
        versions=versions,
        version=None if chosen is None else chosen.version,
        damage=None if chosen is None else chosen.damage,
        source=_source(chosen),
        schema=_text(about.input),
        output=None if about.output is None else _text(about.output),
    )


def _source(published: PublishedDefinition | None) -> Shown | None:
    return None if published is None else _text(published.data)


def _text(value: object) -> Shown | None:
    return shown(encode(value, "a schema", _ANY_SIZE), Redaction())
