"""The workflows, tasks and graphs that there are: what they take, what they give, and who works them."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.responses import Response

from perdure.engine.client.listing import WorkflowSummary
from perdure.server.access import Viewer
from perdure.server.api.answers import Moment, Told
from perdure.server.api.listing import PAGE, Cursor, Limit, part
from perdure.server.api.models import Name
from perdure.server.errors import Problem
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

router = routes("workflows")


class WorkflowDocument(Told):
    """A workflow, as workers announced it."""

    name: str
    kind: str = Field(description="workflow, task, dag or definition.")
    versions: list[str] = Field(description="Those that were announced, the latest first.")
    queue: str = Field(description="Where its runs go.")
    input: dict[str, Any] = Field(description="JSON Schema of its input; empty where nothing is known of it.")
    output: dict[str, Any] | None = Field(description="JSON Schema of its result; null where nothing is known of it.")
    doc: str
    workers: list[str] = Field(description="Of each version the one that announced it last, in the last 90 seconds.")
    seen_at: Moment | None = Field(description="When it was announced last.")


class WorkflowsPage(Told):
    """Workflows, and where to go on."""

    items: list[WorkflowDocument]
    next: str | None = Field(description="The `cursor` of the next page; null where there is none.")


@router.get("/api/v1/workflows", operation_id="list_workflows", response_model=WorkflowsPage)
async def list_workflows(access: Viewer, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """List the workflows, tasks, graphs and definitions that can be started, by name."""
    found, following = part(await access.app.workflows(), lambda each: each.name, limit, cursor)
    return reply({"items": [_document(each) for each in found], "next": following})


@router.get("/api/v1/workflows/{name}", operation_id="get_workflow", response_model=WorkflowDocument)
async def get_workflow(access: Viewer, name: Name) -> Response:
    """Return one of them."""
    found = next((each for each in await access.app.workflows() if each.name == name), None)
    if found is None:
        raise Problem(404, "Workflow not found", f"no worker has announced workflow {name!r}")
    return reply(_document(found))


def _document(each: WorkflowSummary) -> dict[str, Any]:
    return {
        "name": each.name,
        "kind": each.kind,
        "versions": each.versions,
        "queue": each.queue,
        "input": each.input,
        "output": each.output,
        "doc": each.doc,
        "workers": each.workers,
        "seen_at": moment(each.seen_at),
    }
