"""Says, in sentences, why a run is not moving: a pure function of what the store holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec

from perdure.core.wait import Wait, decode_waits
from perdure.engine.lifecycle import OURS
from perdure.engine.settings import whose_workers
from perdure.model import failure
from perdure.model.decision import CatalogEntry, Message
from perdure.model.duration import in_words
from perdure.model.run import FINISHED, Run, RunStatus

WORKER_GONE_AFTER = 90_000
"""Milliseconds since its last announcement after which no worker is taken to serve a workflow."""


_WAITED = frozenset(RunStatus) - FINISHED - {RunStatus.RUNNING}


class Explanation(msgspec.Struct, frozen=True):
    """Why a run is where it is.

    Attributes:
        run_id, status: which run, and its state.
        reasons: sentences, the most important first.
    """

    run_id: str
    status: RunStatus
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"run {self.run_id} is {self.status}: " + "; ".join(self.reasons)


def explain(
    run: Run, inbox: Sequence[Message], catalog: Sequence[CatalogEntry], now: int, held: Sequence[str] = ()
) -> Explanation:
    """Return why a run is where it is.

    Args:
        run: the run.
        inbox: its unread messages.
        catalog: what workers have announced.
        now: the present, in milliseconds since the epoch.
        held: why its queue keeps it back (see `perdure.engine.client.holding`).
    """
    waits = decode_waits(run.wait)
    reasons = list(_by_status(run, catalog, now, held))
    if run.status in _WAITED:
        reasons += [_wait(wait, now) for wait in waits.waits]
    if waits.more:
        reasons.append(f"and {waits.more} more")
    awaited = {wait.detail for wait in waits.waits if wait.kind == "event"}
    unread = sorted({message.type for message in inbox if message.kind == "event"} - awaited)
    if unread and not run.status.is_finished:
        reasons.append("unread events that its code has not asked for yet: " + ", ".join(unread))
    return Explanation(run.id, run.status, tuple(reasons))


def _by_status(run: Run, catalog: Sequence[CatalogEntry], now: int, held: Sequence[str]) -> list[str]:
    status = run.status
    if status is RunStatus.COMPENSATING:
        reason = "its code is over, and what it did is being undone"
        return [reason, *_leased(run, now)] if run.worker is not None else [reason]
    if status is RunStatus.COMPENSATION_FAILED:
        return ["its code is over, and not all that it did could be undone: an operator decides, with perdure undos"]
    if status is RunStatus.RUNNING:
        return _leased(run, now)
    if status is RunStatus.QUEUED:
        if run.due_at is not None and run.due_at > now:
            return [f"it starts {_when(run.due_at, now)}"]
        since = f"it has been due in queue {run.queue!r} since {_when(run.due_at, now)}"
        return [since, *(held or _nobody(run, catalog, now))]
    if status is RunStatus.WAITING:
        overdue = run.due_at is not None and run.due_at <= now
        return list(held or _nobody(run, catalog, now)) if overdue else []
    if status is RunStatus.PAUSED:
        parked = any(wait.kind == "parked" for wait in decode_waits(run.wait).waits)
        return [] if parked else ["an operator paused it; resume it to go on"]
    if status in (RunStatus.ERRORED, RunStatus.COMPENSATED) and run.output is not None:
        undone = " and what it did was undone" if status is RunStatus.COMPENSATED else ""
        error = failure.decode_error(run.output)
        where = f" in step {error.step!r}" if error.step else ""
        return [f"it failed{undone}{where} {_when(run.finished_at, now)}: {error.message}"]
    return [f"it ended {_when(run.finished_at, now)}"]


def _leased(run: Run, now: int) -> list[str]:
    ends = _when(run.due_at, now)
    if run.due_at is not None and run.due_at <= now:
        return [f"worker {run.worker} held it and its lease ended {ends}: the next worker that looks will take it"]
    pausing = ["it pauses as soon as the steps that run have ended"] if run.is_pausing else []
    return [f"worker {run.worker} has it, with a lease that ends {ends}", *pausing]


def _nobody(run: Run, catalog: Sequence[CatalogEntry], now: int) -> list[str]:
    """Return whether anybody serves a run's workflow, and its queue as far as that was announced."""
    is_ours = run.workflow.startswith(OURS)  # which is in every worker
    known = [entry for entry in catalog if is_ours or entry.workflow == run.workflow]
    what = "anything" if is_ours else f"workflow {run.workflow!r}"
    if not known:
        return [f"no worker has ever announced {what}: start one" + ("" if is_ours else " that registers it")]
    last = max(known, key=lambda entry: entry.seen_at)
    if now - last.seen_at > WORKER_GONE_AFTER:
        return [f"no worker has announced {what} since {_when(last.seen_at, now)}: start one"]
    queue = whose_workers(run.queue)
    if queue not in {entry.queue for entry in catalog if now - entry.seen_at <= WORKER_GONE_AFTER}:
        usual = "" if is_ours else f", and runs of {run.workflow!r} usually go to {last.queue!r}"
        return [f"no worker has announced queue {queue!r}{usual}: start a worker that serves this one"]
    who = "workers" if is_ours else f"workers that know {run.workflow!r}"
    return [f"{who} are there, and busy, unless none of them serves queue {queue!r}"]


def _wait(wait: Wait, now: int) -> str:
    due = "" if wait.due_at is None else f" {_when(wait.due_at, now)}"
    until = due and f" until{due}"
    match wait.kind:
        case "timer":
            return f"{wait.key!r} sleeps{until}"
        case "event":
            return f"{wait.key!r} waits for an event of type {wait.detail!r}{until}"
        case "child":
            return f"{wait.key!r} waits for child run {wait.detail!r}"
        case "retry":
            return f"step {wait.key!r} failed {wait.attempt} times ({wait.detail}) and is tried again{due}"
        case "push":
            often = f" {wait.attempt} times in a row" if wait.attempt > 1 else ""
            return f"it could not be handed to whoever serves it{often} ({wait.detail}), and is pushed again{due}"
        case "undo":
            begun = f"{wait.attempt} times" if wait.attempt > 1 else "once"
            return f"the undo of {wait.key!r} was tried {begun} and failed ({wait.detail})"
        case "parked":
            return f"it is parked: {wait.detail}; deploy code that fits and resume it, or restart or terminate it"


def _when(moment: int | None, now: int) -> str:
    if moment is None:
        return "never"
    at = dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    if abs(moment - now) < 1_000:
        return f"{at} UTC ({'just now' if moment <= now else 'now'})"
    apart = in_words(abs(moment - now) // 1000 * 1000)
    return f"{at} UTC (in {apart})" if moment > now else f"{at} UTC ({apart} ago)"
