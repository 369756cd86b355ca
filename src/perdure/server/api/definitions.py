"""Workflows that are written as data: published, checked, looked at."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Query
from pydantic import Field, WithJsonSchema
from starlette.responses import Response

from perdure.engine.definitions import PublishedDefinition
from perdure.model.errors import DefinitionError
from perdure.server.access import Access, Operator, Viewer
from perdure.server.api.answers import Moment, Told
from perdure.server.api.listing import PAGE, Cursor, Limit, part
from perdure.server.api.mistakes import of_definition
from perdure.server.api.models import Name, Reason, Text
from perdure.server.errors import Problem
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

router = routes("definitions")

DefinitionBody = Annotated[
    dict[str, Any],
    Body(
        description="A definition: `name`, `version`, `description`, and `definition` with its `steps`, `queue`, "
        "`output` and `input`. A version is never changed; by default it is a hash of the content.",
        examples=[{"name": "hello", "definition": {"steps": [{"taskName": "greet", "data": {"name": "ada"}}]}}],
    ),
    WithJsonSchema(
        {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "format": "perdure-name"},
                "version": {"type": ["string", "integer", "null"]},
                "description": {"type": "string"},
                "definition": {"type": ["object", "array"]},
            },
        }
    ),
]

Anyway = Annotated[bool, Query(description="Publish it even if it calls what no worker has announced.")]


class DefinitionSummary(Told):
    """A version of a definition."""

    name: str
    version: str
    created_at: Moment
    steps: int = Field(description="How many steps it has.")
    damage: str | None = Field(description="What is wrong with it as it lies in the store; null where nothing is.")


class DefinitionDocument(DefinitionSummary):
    """A version of a definition, whole."""

    data: dict[str, Any] = Field(description="The definition, with what each step is called with written out.")
    mermaid: str = Field(description="Its graph, as a Mermaid flowchart; empty where it is damaged.")


class DefinitionsPage(Told):
    """Definitions, and where to go on."""

    items: list[DefinitionSummary]
    next: str | None = Field(description="The `cursor` of the next page; null where there is none.")


@router.get("/api/v1/definitions", operation_id="list_definitions", response_model=DefinitionsPage)
async def list_definitions(access: Viewer, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """List the newest version of each definition, by name."""
    newest = {each.name: each for each in await access.app.definitions()}
    every = [newest[name] for name in sorted(newest)]
    found, following = part(every, lambda each: each.name, limit, cursor)
    return reply({"items": [_summary(each) for each in found], "next": following})


@router.post(
    "/api/v1/definitions",
    operation_id="publish_definition",
    status_code=201,
    response_model=DefinitionDocument,
)
async def publish_definition(
    access: Operator, body: DefinitionBody, anyway: Anyway = False, reason: Reason = ""
) -> Response:
    """Publish a definition, so that it can be started by its name; new runs take the newest.

    It is checked whole against what workers have announced, and `errors` lists everything that is wrong. The same
    content again is nothing.
    """
    with of_definition(body):
        checked = None if anyway else await access.app.validate(body)
        target = str(body.get("name", "")) if checked is None else f"{checked.name} {checked.version}"
        await access.audit("definitions.publish", target, reason, anyway=anyway)
        published = await access.app.publish(body, anyway=anyway)
    return reply(_document(published), 201)


@router.post("/api/v1/definitions/validate", operation_id="validate_definition", response_model=DefinitionDocument)
async def validate_definition(access: Viewer, body: DefinitionBody) -> Response:
    """Check a definition as publishing it would, and keep nothing; the answer is what would be kept."""
    with of_definition(body):
        checked = await access.app.validate(body)
    return reply(_document(checked))


@router.get("/api/v1/definitions/{name}/versions", operation_id="list_versions", response_model=DefinitionsPage)
async def list_versions(access: Viewer, name: Name, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """List the versions of a definition, the newest first."""
    every = await _versions(access, name)
    first = next(
        (at + 1 for at, each in enumerate(every) if each.version == cursor), 0 if cursor is None else len(every)
    )
    found = every[first : first + limit]
    following = found[-1].version if first + limit < len(every) else None
    return reply({"items": [_summary(each) for each in found], "next": following})


@router.get(
    "/api/v1/definitions/{name}/versions/{version}", operation_id="get_definition", response_model=DefinitionDocument
)
async def get_definition(access: Viewer, name: Name, version: Text) -> Response:
    """Return a version of a definition."""
    every = await _versions(access, name)
    found = next((each for each in every if each.version == version), None)
    if found is None:
        raise Problem(404, "Definition not found", f"definition {name!r} has no version {version!r}")
    return reply(_document(found))


async def _versions(access: Access, name: str) -> list[PublishedDefinition]:
    found = [each for each in await access.app.definitions() if each.name == name]
    if not found:
        raise Problem(404, "Definition not found", f"there is no definition {name!r}")
    return found[::-1]


def _summary(each: PublishedDefinition) -> dict[str, Any]:
    return {
        "name": each.name,
        "version": each.version,
        "created_at": moment(each.created_at),
        "steps": len(each.data["definition"]["steps"]),
        "damage": each.damage,
    }


def _document(each: PublishedDefinition) -> dict[str, Any]:
    damage, mermaid = each.damage, ""
    try:
        mermaid = each.to_mermaid()
    except DefinitionError as error:  # of its fields each may be right, and the whole no graph
        damage = str(error)
    return {**_summary(each), "damage": damage, "data": each.data, "mermaid": mermaid}
