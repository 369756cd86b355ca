"""Workflows by the paths that users of queue-and-worker services know: posted as steps, executed by their names."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from perdure.model.run import RunStatus
from perdure.server.access import Access, Operator
from perdure.server.api.answers import Told
from perdure.server.api.definitions import DefinitionBody
from perdure.server.api.mistakes import of_definition
from perdure.server.api.models import Json, Name, StartBody, Strict, Text
from perdure.server.api.starts import IdempotencyKey, begin
from perdure.server.errors import Problem
from perdure.server.routing import path_of_run, reply
from perdure.server.routing import router as routes

SAMPLES = "examples/sample_flows.py"
"""Whose worker has the sample flows."""

router = routes("executions")


class PostedWorkflow(Told):
    """A workflow that is there now."""

    name: str
    version: str
    definition: dict[str, Any]


class ExecutionBody(Strict):
    """What a workflow is executed with, where it takes anything."""

    input: Json = Field(default=None, description="Of the workflow; none by default.")
    id: Text | None = Field(default=None, description="Of the execution; a new one by default.")


class Execution(Told):
    """An execution of a workflow: a run by another name."""

    executionId: str = Field(description="The run's id.")  # noqa: N815  # the caller's own word
    status: Literal["IN_PROGRESS", "COMPLETED", "FAILED"]


_SAMPLE: dict[int | str, dict[str, Any]] = {404: {"$ref": "#/components/responses/Problem404"}}
_ALREADY: dict[int | str, dict[str, Any]] = {200: {"model": Execution, "description": "It was there already."}}


@router.post("/workflows", operation_id="create_workflow", status_code=201, response_model=PostedWorkflow)
async def create_workflow(access: Operator, body: DefinitionBody) -> Response:
    """Create a workflow of steps, or put another one in its place: executions that are under way keep theirs."""
    with of_definition(body):
        checked = await access.app.validate(body)
        await access.audit("definitions.publish", f"{checked.name} {checked.version}")
        published = await access.app.publish(body)
    definition = published.data["definition"]
    return reply({"name": published.name, "version": published.version, "definition": definition}, 201)


@router.post(
    "/workflows/{name}/execute",
    operation_id="execute_workflow",
    status_code=201,
    response_model=Execution,
    responses=_ALREADY,
)
async def execute_workflow(
    access: Operator, name: Name, body: ExecutionBody | None = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Start an execution of a workflow."""
    given = body or ExecutionBody()
    return await _execute(access, StartBody(workflow=name, input=given.input, id=given.id), idempotency_key)


@router.get(
    "/tasks/sample-flow", operation_id="run_sample_flow", status_code=201, response_model=Execution, responses=_SAMPLE
)
async def run_sample_flow(access: Operator, request: Request) -> Response:
    """Start a flow of two steps that succeed."""
    return await _sample(access, request, "sample_flow")


@router.get(
    "/tasks/sample-failing-flow",
    operation_id="run_sample_failing_flow",
    status_code=201,
    response_model=Execution,
    responses=_SAMPLE,
)
async def run_sample_failing_flow(access: Operator, request: Request) -> Response:
    """Start a flow with a step that is tried again, and one that fails for good."""
    return await _sample(access, request, "sample_failing_flow")


async def _sample(access: Access, request: Request, name: str) -> Response:
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(403, "Cross-site request refused", "a page of another origin may not start this")
    if name not in {each.name for each in await access.app.workflows()}:
        detail = f"no worker has announced {name}; one that has it is started by `perdure dev {SAMPLES}`"
        raise Problem(404, "Sample flow not found", detail)
    return await _execute(access, StartBody(workflow=name), None)


async def _execute(access: Access, body: StartBody, idempotency_key: str | None) -> Response:
    begun = await begin(access, body, idempotency_key)
    status = RunStatus.QUEUED if begun.is_new else (await access.app.client.get(begun.id)).status
    document = {"executionId": begun.id, "status": _STATUS.get(status, "IN_PROGRESS")}
    location = path_of_run(begun.id)
    return reply(document, 201 if begun.is_new else 200, {"Location": location})


_STATUS = {
    RunStatus.COMPLETE: "COMPLETED",
    RunStatus.ERRORED: "FAILED",
    RunStatus.TERMINATED: "FAILED",
    RunStatus.COMPENSATED: "FAILED",
    RunStatus.COMPENSATION_FAILED: "FAILED",
}
"""What states are called here; all others are in progress."""
