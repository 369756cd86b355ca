"""How a schedule stands, as it is told."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from perdure.core.schedule import Overlap, plan
from perdure.engine.triggers.scheduler import Standing, timing
from perdure.model import codec
from perdure.model.run import Run, RunStatus


class ScheduleSummary(msgspec.Struct, frozen=True):
    """A schedule, as it stands once everything that was asked of it is granted.

    Attributes:
        name, workflow, input: what it is called, and what it starts, with which arguments.
        timing: when, in words.
        overlap: what becomes of a fire while the run before it has not ended.
        status: of the schedule's own run: it has ended once nothing more will fire.
        is_paused: it fires no more until it is resumed.
        next_at: when it fires next, its jitter included; None while it is paused, and for never.
        last_run: the id of the run that it started last.
        queued: how many fires wait for that run to end.
        started, skipped, missed, failed: how many fires started a run, were left out because one was there already,
            were neither seen to in time nor made up for, and could start none.
        error: why the last of those that failed did.
    """

    name: str
    workflow: str
    input: Any
    timing: str
    overlap: Overlap
    status: RunStatus
    is_paused: bool
    next_at: dt.datetime | None
    last_run: str | None
    queued: int
    started: int
    skipped: int
    missed: int
    failed: int
    error: str | None


def summary_of(run: Run, standing: Standing, now: int) -> ScheduleSummary:
    """Return how a schedule stands.

    Args:
        run: its own.
        standing: it, and how far it has come.
        now: the time, in milliseconds since the epoch.
    """
    schedule, progress = standing.schedule, standing.progress
    next_at: int | None = None
    if not (progress.is_paused or run.status.is_finished):
        step = plan(schedule, progress.after, now)
        next_at = now if step.fire is not None else step.due
    return ScheduleSummary(
        schedule.name,
        schedule.workflow,
        codec.decode_any(schedule.payload),
        timing(schedule),
        schedule.overlap,
        run.status,
        progress.is_paused,
        None if next_at is None else dt.datetime.fromtimestamp(next_at / 1000, ZoneInfo(schedule.zone)),
        progress.last_run,
        len(progress.queued),
        progress.started,
        progress.skipped,
        progress.missed,
        progress.failed,
        progress.error,
    )
