"""Runs, moved: paused, resumed, ended, begun anew, forked, sent events; one by one, or many in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace
from starlette.responses import Response

from perdure.engine.client.handle import RunHandle
from perdure.engine.triggers.scheduler import PREFIX
from perdure.model.decision import Action
from perdure.model.errors import PerdureError, StoreError, UsageError
from perdure.model.run import RunStatus
from perdure.server.access import Access, Operator
from perdure.server.api.answers import ActionsDone, EventTaken, Moved, Started
from perdure.server.api.models import ActionsBody, EventBody, ForkBody, ReasonBody, RunId, TerminateBody, UndoBody
from perdure.server.api.runs import filter_of, page
from perdure.server.errors import Problem, problem_of
from perdure.server.routing import reply
from perdure.server.routing import router as routes

MOVED = {
    Action.PAUSE: (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING),
    Action.RESUME: (RunStatus.PAUSED,),
    Action.TERMINATE: (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED),
    Action.RESTART: (RunStatus.ERRORED,),
}
"""Which states a filter without any means, by what is to be done."""

AUDITED = 10_000
"""How many characters of ids one entry of the audit log names: it has room for them however they are written."""

router = routes("runs")

_NO_REASON = ReasonBody()
_TERMINATE = TerminateBody()
_ALL_UNDOS = UndoBody()


@contextmanager
def _as_conflict() -> Iterator[None]:
    """Take a mistake for one about the state that the run is in: the request was checked before."""
    try:
        yield
    except UsageError as error:
        raise Problem(409, "Not possible in its state", str(error)) from None


async def _move(access: Access, id: str, action: Action, reason: str) -> Response:
    await access.audit(f"runs.{action.value}", id, reason)
    return reply({"id": id, "status": await access.app.client.control(id, action)})


@router.post("/api/v1/runs/{id}/pause", operation_id="pause_run", response_model=Moved)
async def pause_run(access: Operator, id: RunId, body: ReasonBody = _NO_REASON) -> Response:
    """Pause a run; steps that run finish first."""
    return await _move(access, id, Action.PAUSE, body.reason)


@router.post("/api/v1/runs/{id}/resume", operation_id="resume_run", response_model=Moved)
async def resume_run(access: Operator, id: RunId, body: ReasonBody = _NO_REASON) -> Response:
    """Let a paused or parked run go on."""
    return await _move(access, id, Action.RESUME, body.reason)


@router.post("/api/v1/runs/{id}/terminate", operation_id="terminate_run", response_model=Moved)
async def terminate_run(access: Operator, id: RunId, body: TerminateBody = _TERMINATE) -> Response:
    """End a run, and its children, for good."""
    if not body.undo:
        return await _move(access, id, Action.TERMINATE, body.reason)
    await access.audit("runs.terminate", id, body.reason, undo=True)
    with _as_conflict():
        status = await access.app.client.turn_back(id)
    return reply({"id": id, "status": status})


@router.post("/api/v1/runs/{id}/restart", operation_id="restart_run", response_model=Moved)
async def restart_run(access: Operator, id: RunId, body: ReasonBody = _NO_REASON) -> Response:
    """Begin a run anew from its input, whatever its state."""
    return await _move(access, id, Action.RESTART, body.reason)


@router.post("/api/v1/runs/{id}/fork", operation_id="fork_run", status_code=201, response_model=Started)
async def fork_run(access: Operator, id: RunId, body: ForkBody) -> Response:
    """Start a new run with all that a run recorded ahead of a step; it goes on from there by itself."""
    await access.audit("runs.fork", id, body.reason, from_step=body.from_step, id=body.id)
    run: RunHandle[Any] = access.app.run(id)
    with _as_conflict():
        forked = await run.fork(from_step=body.from_step, id=body.id)
    document = {"id": forked.id, "workflow": (await run.get()).workflow, "is_new": forked.is_new}
    return reply(document, 201 if forked.is_new else 200)


@router.post("/api/v1/runs/{id}/events", operation_id="send_event", response_model=EventTaken)
async def send_event(access: Operator, id: RunId, body: EventBody) -> Response:
    """Send a run an event; it is kept until the run's code waits for its type."""
    if id.startswith(PREFIX):
        await access.audit("schedules.change", id.removeprefix(PREFIX), type=body.type, change=body.payload)
    is_new = await access.app.client.send_event(id, body.type, body.payload, body.id)
    return reply({"is_new": is_new})


@router.post("/api/v1/runs/{id}/undos/retry", operation_id="retry_undos", response_model=Moved)
async def retry_undos(access: Operator, id: RunId, body: UndoBody = _ALL_UNDOS) -> Response:
    """Have failed undos tried again, in a run whose compensation failed."""
    await access.audit("undos.retry", id, body.reason, key=body.key)
    with _as_conflict():
        await access.app.run(id).retry_undo(body.key)
    return reply({"id": id, "status": (await access.app.client.get(id)).status})


@router.post("/api/v1/runs/{id}/undos/done", operation_id="mark_undos_done", response_model=Moved)
async def mark_undos_done(access: Operator, id: RunId, body: UndoBody = _ALL_UNDOS) -> Response:
    """Have failed undos count as done, because they were seen to by hand; the journal keeps the reason."""
    await access.audit("undos.done", id, body.reason, key=body.key)
    with _as_conflict():
        await access.app.run(id).mark_undone(body.key, reason=body.reason or None)
    return reply({"id": id, "status": (await access.app.client.get(id)).status})


@router.post("/api/v1/runs/actions", operation_id="act_on_runs", response_model=ActionsDone)
async def act_on_runs(access: Operator, body: ActionsBody) -> Response:
    """Do one thing to many runs: those with these ids, or the latest that a filter finds, up to `limit`.

    With a filter, `next` says where to go on; without a state in it, those are meant of which the action makes sense:
    for a restart the errored ones. What has become impossible meanwhile is told with its reason.
    """
    action = Action(body.action)
    following: str | None = None
    if body.ids:
        ids = list(dict.fromkeys(body.ids))
    else:
        where = filter_of(access, body.filter)
        if not where.status:
            where = replace(where, status=MOVED[action])
        runs, following = await page(access, where, body.limit, body.cursor, "body.cursor")
        ids = [run.id for run in runs]
    document: dict[str, Any] = {"action": action, "dry_run": body.dry_run, "matched": len(ids), "next": following}
    if body.dry_run:
        return reply({**document, "ids": ids, "done": 0, "failed": []})
    chosen = None if body.ids else body.filter.model_dump(mode="json")
    for part in _audited(ids):
        await access.audit(f"runs.{action.value}", "", body.reason, filter=chosen, ids=part, undo=body.undo)
    failed = await _act(access, action, ids, undo=body.undo)
    for part in _audited([each["id"] for each in failed]):
        await access.audit_failure(f"runs.{action.value}", "", ids=part)
    return reply({**document, "ids": ids, "done": len(ids) - len(failed), "failed": failed})


def _audited(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield ids in parts that one entry of the audit log has room for."""
    part: list[str] = []
    size = 0
    for run_id in ids:
        if part and size + len(run_id) > AUDITED:
            yield part
            part, size = [], 0
        part.append(run_id)
        size += len(run_id)
    if part:
        yield part


async def _act(access: Access, action: Action, ids: list[str], *, undo: bool) -> list[dict[str, Any]]:
    """Do an action to each run, and return what it could not be done to."""
    client = access.app.client
    answers = await asyncio.gather(
        *(client.turn_back(run_id) if undo else client.control(run_id, action) for run_id in ids),
        return_exceptions=True,
    )
    failed: list[dict[str, Any]] = []
    for run_id, answer in zip(ids, answers, strict=True):
        if isinstance(answer, PerdureError) and not isinstance(answer, StoreError):
            failed.append({"id": run_id, "problem": problem_of(answer).document()})
        elif isinstance(answer, BaseException):
            raise answer
    return failed
