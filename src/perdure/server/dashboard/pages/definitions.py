"""Workflows: those in code as workers announce them, and those that are written as data; and the form to start one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.engine.definitions import PublishedDefinition
from perdure.model.codec import encode
from perdure.model.decision import RunFilter
from perdure.model.redaction import Redaction
from perdure.server.access import Viewer
from perdure.server.api.models import Name
from perdure.server.dashboard.definitions import definitions_of
from perdure.server.dashboard.forms import form
from perdure.server.dashboard.graphs import draw, steps_of_definition, steps_of_details
from perdure.server.dashboard.payloads import Shown, shown
from perdure.server.dashboard.rendering import page, routes
from perdure.server.errors import Problem

LATEST = 10
_ANY_SIZE = 1 << 40

router = routes()


@router.get("/definitions")
async def list_definitions(access: Viewer, request: Request) -> Response:
    """Show the workflows."""
    return page(request, access, "definitions.html", live="/api/v1/watch", workflows=await access.app.workflows())


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
        name=name,
        about=about,
        graph=draw(steps),
        steps=details.get("steps", ()),
        form=form(about.input),
        latest=(await app.client.find(RunFilter(workflow=name), LATEST, None)).runs,
        versions=versions,
        version=None if chosen is None else chosen.version,
        source=_source(chosen),
        schema=_text(about.input),
        output=None if about.output is None else _text(about.output),
    )


def _source(published: PublishedDefinition | None) -> Shown | None:
    return None if published is None else _text(published.data)


def _text(value: object) -> Shown | None:
    return shown(encode(value, "a schema", _ANY_SIZE), Redaction())
