"""Child runs: how one begins, how its parent is told of its end, and how that tells its code of a failure."""

from __future__ import annotations

import msgspec

from perdure.core.ask import ChildAsk
from perdure.model import failure
from perdure.model.decision import Message
from perdure.model.errors import ChildFailedError, RunExistsError
from perdure.model.record import Outcome, Record
from perdure.model.run import NewRun, Run


def child_failure(ask: ChildAsk, payload: str | None) -> str:
    """Return the error that a parent's code gets of a child that did not complete, as a payload."""
    cause = failure.decode_error(payload) if payload else None
    message = f"child {ask.run_id!r} of workflow {ask.spec.workflow!r} did not complete"
    if cause is not None:
        message += f": {cause.message}"
    info = failure.describe(ChildFailedError(message))
    return failure.encode_error(msgspec.structs.replace(info, cause=cause))


def child_run(run: Run, ask: ChildAsk, now: int) -> NewRun:
    """Return the run that a child's ask wants to exist."""
    spec = ask.spec
    due_at = now + spec.delay_ms
    expires_at = None if spec.expires_ms is None else due_at + spec.expires_ms
    return NewRun(
        id=ask.run_id,
        workflow=spec.workflow,
        version=spec.version,
        queue=spec.queue,
        created_at=now,
        due_at=due_at,
        priority=spec.priority or run.priority,
        records=(Record(0, "input", "input", "ok", now, spec.payload, due_at=expires_at, ref=spec.overrides),),
        parent_id=run.id,
        parent_key=ask.key,
        is_detached=spec.is_detached,
        depth=run.depth + 1,
        fingerprint=spec.fingerprint,
        tags=dict(spec.tags),
        retention=spec.retention or run.retention,
        limit_key=spec.limit_key,
        refusal=failure.encode_error(failure.describe(RunExistsError(f"a run {ask.run_id!r} exists already"))),
    )


def told_parent(run: Run, outcome: tuple[Outcome, str], at: int) -> tuple[Message, ...]:
    """Return the message that tells the parent of a run, if it has one, what became of it."""
    if run.parent_id is None or run.parent_key is None:
        return ()
    return (Message(run.parent_id, run.id, "child", run.parent_key, outcome[1], at, outcome[0], run.id),)
