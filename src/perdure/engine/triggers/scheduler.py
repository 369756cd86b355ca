"""Schedules: each is a run of a workflow that is part of Perdure, and starts its target at the times it is due.

A target's run has an id made of the schedule's name and the time of the fire. So it does not matter how many workers,
crashes and attempts there are: a second start of one fire finds the run of the first. Whoever has the schedule's run
leased is its scheduler; there is no other.

What is asked of a schedule (a pause, another declaration) is an event to its run, so it waits there if nobody works it.
"""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core.schedule import QUEUED, Change, Overlap, Progress, Schedule, changed, check, plan
from perdure.engine.triggers.events import client_of_step, start_by_name
from perdure.model import codec
from perdure.model.decision import Action
from perdure.model.errors import EventTimeoutError, PerdureError, RunError, StoreError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.retry import Retry

WORKFLOW = "perdure.schedule"
"""The workflow that schedules are runs of."""

PREFIX = "schedule:"
"""What the id of a schedule's run begins with, and those of the runs that it starts."""

CHANGE = "schedule.change"
"""The type of the events that ask something of a schedule."""

STATE = "schedule"
"""The name under which its run makes known how it stands."""

RENEW_AFTER = 100
"""After how many rounds a schedule's run begins anew, so that its journal stays short."""

PATIENCE = Retry(attempts=1_000_000, delay="1s", max_delay="1m")
"""A store that does not answer is asked again, for as long as it takes."""

LONGEST_WAIT = 366 * 86_400_000
"""After how many milliseconds a schedule looks at the time, however far away its next fire is."""

LOOKS = range(1_000, 60_000)
"""How far apart, in milliseconds, the looks at a run are whose end other fires wait for: a tenth of its age."""


class Standing(msgspec.Struct, frozen=True):
    """A schedule, and how far it has come."""

    schedule: Schedule
    progress: Progress


class Fire(msgspec.Struct, frozen=True):
    """One fire to see to: the target's run and input, and the run that may be in its way."""

    workflow: str
    payload: str
    run_id: str
    schedule: str
    time: str
    overlap: Overlap
    last_run: str | None


class Answer(msgspec.Struct, frozen=True):
    """What came of a fire: a run was started, or the one before is still there, or it could not be started."""

    is_busy: bool = False
    error: str | None = None


def fire_id(schedule: str, fire: int) -> str:
    """Return the id of the run that a fire starts."""
    return f"{PREFIX}{schedule}@{fire_time(fire)}"


def fire_time(fire: int) -> str:
    """Return the time of a fire as text, in UTC."""
    moment = dt.datetime.fromtimestamp(fire / 1000, dt.UTC)
    return moment.isoformat(timespec="milliseconds" if fire % 1000 else "seconds").replace("+00:00", "Z")


def timing(schedule: Schedule) -> str:
    """Return when a schedule fires, in words."""
    if schedule.at is not None:
        return f"at {fire_time(schedule.at)}"
    if schedule.every is not None:
        return f"every {schedule.every / 1000:g} s"
    return f"{schedule.cron} ({schedule.zone})"


async def _keep(schedule: Schedule, progress: Progress) -> None:
    """See to the fires of a schedule, until there are none any more."""
    for _ in range(RENEW_AFTER):
        now = _now()
        wake: int | None = None
        if progress.is_paused:
            flow.set(STATE, Standing(schedule, progress))
        else:
            step = plan(schedule, progress.after, now)
            progress = msgspec.structs.replace(progress, after=step.after, missed=progress.missed + step.missed)
            flow.set(STATE, Standing(schedule, progress))
            if step.fire is not None:
                progress = await _see_to(schedule, progress, step.fire)
                continue
            if progress.queued:
                progress, is_busy = await _next_queued(schedule, progress)
                if not is_busy:
                    continue
                wake = now + min(max((now - progress.last_at) // 10, LOOKS.start), LOOKS.stop)
            elif step.due is None:
                return
            wake = min(time for time in (wake, step.due) if time is not None)
        change = await _wait(wake, now)
        if change is not None:
            schedule, progress = changed(schedule, progress, change, _now())
    await flow.continue_as_new(schedule, progress)


SCHEDULE = Workflow(_keep, name=WORKFLOW)


def _now() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


async def _wait(wake: int | None, now: int) -> Change | None:
    """Wait for a change, until a moment."""
    timeout = None if wake is None else min(max(0, wake - now), LONGEST_WAIT) / 1000
    try:
        return change_of(await flow.wait_for_event("change", type=CHANGE, timeout=timeout))
    except EventTimeoutError:
        return None


def change_of(payload: object) -> Change | None:
    """Return what an event to a schedule asks; None where that is nothing: anybody can send one."""
    try:
        change = msgspec.convert(payload, Change)
        if change.schedule is not None:
            check(change.schedule)
    except (msgspec.ValidationError, UsageError):
        return None
    return change


async def _see_to(schedule: Schedule, progress: Progress, fire: int) -> Progress:
    """Start the target, or leave it, or have it wait."""
    progress = msgspec.structs.replace(progress, after=fire)
    if schedule.overlap == "queue" and progress.queued:
        return _queue(progress, fire)
    answer = await _start(schedule, progress, fire)
    if not answer.is_busy:
        return _counted(schedule, progress, fire, answer)
    if schedule.overlap == "queue":
        return _queue(progress, fire)
    return msgspec.structs.replace(progress, skipped=progress.skipped + 1)


async def _next_queued(schedule: Schedule, progress: Progress) -> tuple[Progress, bool]:
    """Start the first of those that wait, unless the run before it is still there; say whether it is."""
    fire, *others = progress.queued
    answer = await _start(schedule, progress, fire)
    if answer.is_busy:
        return progress, True
    progress = msgspec.structs.replace(progress, queued=tuple(others))
    return _counted(schedule, progress, fire, answer), False


def _queue(progress: Progress, fire: int) -> Progress:
    if len(progress.queued) >= QUEUED:
        return msgspec.structs.replace(progress, skipped=progress.skipped + 1)
    return msgspec.structs.replace(progress, queued=(*progress.queued, fire))


def _counted(schedule: Schedule, progress: Progress, fire: int, answer: Answer) -> Progress:
    if answer.error is not None:
        return msgspec.structs.replace(progress, failed=progress.failed + 1, error=answer.error)
    return msgspec.structs.replace(
        progress, started=progress.started + 1, last_run=fire_id(schedule.name, fire), last_at=_now()
    )


async def _start(schedule: Schedule, progress: Progress, fire: int) -> Answer:
    asked = Fire(
        schedule.workflow,
        schedule.payload,
        fire_id(schedule.name, fire),
        schedule.name,
        fire_time(fire),
        schedule.overlap,
        progress.last_run,
    )
    return await flow.do("start", _started, asked, retry=PATIENCE)


async def _started(fire: Fire) -> Answer:
    """Start the target's run, if the one before is not in its way."""
    client = client_of_step()
    if fire.overlap != "allow" and fire.last_run is not None:
        (last,) = await client.store.get([fire.last_run])
        if last is not None and not last.status.is_finished:
            if fire.overlap != "cancel-previous":
                return Answer(is_busy=True)
            try:
                await client.control(fire.last_run, Action.TERMINATE)
            except RunError:  # it has ended, or was removed, this very moment
                pass
    try:
        tags = {"schedule": fire.schedule, "fire": fire.time}
        await start_by_name(client, fire.workflow, codec.decode_any(fire.payload), fire.run_id, tags)
    except StoreError:
        raise
    except (PerdureError, TypeError) as error:  # what no attempt mends: the next fire may be luckier
        return Answer(error=f"{type(error).__name__}: {error}"[: 2 * NAME_LENGTH])
    return Answer()
