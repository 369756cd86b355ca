"""Starting runs: one, or up to a thousand in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.authoring.enqueuing import Debounce, Dedup
from perdure.engine.client.starting import new_run
from perdure.engine.lifecycle import OURS
from perdure.model.decision import CatalogEntry
from perdure.model.errors import RunExistsError, UsageError
from perdure.model.run import Created, NewRun, Retention
from perdure.server.access import Access, Operator
from perdure.server.api.answers import BatchStarted, Started
from perdure.server.api.mistakes import problem_at
from perdure.server.api.models import BatchBody, StartBody
from perdure.server.errors import Problem, ProblemError
from perdure.server.routing import path_of_run, reply
from perdure.server.routing import router as routes

IDEMPOTENT_FOR = "1 day"
"""For how long an `Idempotency-Key` stands for the run that was started with it."""

_AS_GIVEN = ("id", "queue", "priority", "delay", "expires", "tags", "limit_key", "anyway", "input")

router = routes("runs")

IdempotencyKey = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[!-~]{1,180}$")] | None,
    Header(
        alias="Idempotency-Key",
        description=f"A second start of a workflow with this key within {IDEMPOTENT_FOR} finds the first run. Where "
        "the body has an id, dedup or debounce, that decides instead.",
    ),
]


@router.post(
    "/api/v1/runs",
    operation_id="start_run",
    status_code=201,
    response_model=Started,
    responses={200: {"model": Started, "description": "It was started before; nothing was done."}},
)
async def start_run(access: Operator, body: StartBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Start a run.

    It is durable once this is answered. Where the answer is lost, repeat the request with the same id or key.
    """
    created = await begin(access, body, idempotency_key)
    location = path_of_run(created.id)
    document = {"id": created.id, "workflow": body.workflow, "is_new": created.is_new}
    return reply(document, 201 if created.is_new else 200, {"Location": location})


async def begin(access: Access, body: StartBody, idempotency_key: str | None) -> Created:
    """Start a run, or find the one that was started before.

    Raises:
        Problem: it cannot be started, or was with something else.
    """
    try:
        announced = await _announced(access, body)
        new = _new_run(access, body, announced, idempotency_key)
    except UsageError as error:
        raise problem_at(error, "body") from error
    try:
        _, created = await access.app.client.create(new)
    except RunExistsError as error:
        raise problem_at(error, "body.id") from None
    _check(created, new)
    return created


@router.post("/api/v1/runs/batch", operation_id="start_runs", status_code=200, response_model=BatchStarted)
async def start_runs(access: Operator, body: BatchBody) -> Response:
    """Start up to 1,000 runs in one go.

    Where one of them is wrong in itself, none is started. What became of each stands in its place: a run whose id or
    key belongs to another one is refused alone.
    """
    app = access.app
    news: list[NewRun] = []
    for index, each in enumerate(body.runs):
        try:
            news.append(_new_run(access, each, await _announced(access, each), None))
        except UsageError as error:
            raise problem_at(error, f"body.runs[{index}]") from error
    created = await app.store.create(news)
    if app.worker is not None:
        app.worker.wake()
    return reply({"items": _outcomes(news, created)})


def _outcomes(news: Sequence[NewRun], created: Sequence[Created]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for new, each in zip(news, created, strict=True):
        outcome: dict[str, Any] = {"id": each.id, "is_new": each.is_new, "problem": None}
        if not each.is_new and each.fingerprint != new.fingerprint and not _may_differ(new):
            outcome["problem"] = _conflict(each, new).document()
        found.append(outcome)
    return found


async def _announced(access: Access, body: StartBody) -> CatalogEntry | None:
    """Return what workers have announced of what a body asks for, and take its input.

    Raises:
        UsageError: it is not among what they have announced, or not with this input.
    """
    app, options = access.app, {"anyway": body.anyway}
    found = await app.client.announced.look(body.workflow, options)
    return await app.client.announced.fitting(found, body.input, options, app.settings.limits.payload_bytes)


def _new_run(access: Access, body: StartBody, announced: CatalogEntry | None, idempotency_key: str | None) -> NewRun:
    """Return the run that a body asks for.

    Raises:
        UsageError: it cannot be.
    """
    app = access.app
    if body.workflow.startswith(OURS):
        raise UsageError(f"workflow: {body.workflow!r} begins with {OURS!r}, and is started by Perdure alone")
    given = body.__dict__
    options = {name: value for name in _AS_GIVEN if (value := given[name]) is not None}
    if body.dedup is not None:
        options["dedup"] = Dedup(body.dedup.key, body.dedup.within)
    elif body.debounce is not None:
        about = body.debounce
        options["debounce"] = Debounce(about.wait, about.key, about.max_wait)
    elif idempotency_key is not None and body.id is None:
        options["dedup"] = Dedup(f"{KEYED}{idempotency_key}", IDEMPOTENT_FOR)
    if body.retention is not None:
        options["retention"] = Retention.of(**body.retention.__dict__)
    return new_run(app.registry, app.settings, app.world, body.workflow, (), options, announced)[1]


KEYED = "idempotency-key:"
"""What the dedup key begins with that stands for an `Idempotency-Key`."""


def _may_differ(new: NewRun) -> bool:
    """Return whether another input is no mistake: as with any key but an idempotency key."""
    return new.dedup is not None and f"/{KEYED}" not in new.dedup.key


def _check(created: Created, new: NewRun) -> None:
    if not created.is_new and created.fingerprint != new.fingerprint and not _may_differ(new):
        raise _conflict(created, new)


def _conflict(created: Created, new: NewRun) -> Problem:
    what, path = ("id", "body.id") if new.dedup is None else ("Idempotency-Key", "header.Idempotency-Key")
    detail = f"run {created.id!r} was started by this {what} with another workflow or another input"
    return Problem(409, "Run exists", detail, errors=[ProblemError(path, detail)])
