"""When a schedule starts its target: a pure function of the schedule, how far it has come, and the present.

A *fire* is a nominal time, in milliseconds since the epoch. It is due a little later where the schedule has jitter: by
as much as its name and time make it, the same for whoever asks. A fire that is found overdue by more than `GRACE` was
missed: nobody was there to see to it. Of those, `catch_up` says which are made up for.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Literal

import msgspec

from perdure.model.cron import Cron
from perdure.model.errors import UsageError

Overlap = Literal["allow", "skip", "queue", "cancel-previous"]
"""What becomes of a fire while the run that the one before it started has not ended."""

GRACE = 60_000
"""By how many milliseconds a fire may be late without counting as missed."""

QUEUED = 100
"""How many fires wait, at most, for the run before them to end; further ones are skipped."""

COUNTED = 1_000
"""How many missed fires are counted one by one; behind that many the rest is stepped over."""

SHORTEST_PERIOD = 1_000
"""The least time between two fires, in milliseconds."""


LAST = 221_845_392_000_000
"""The last moment at which anything fires, in milliseconds since the epoch: the year 9000. Calendars end soon after."""


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is started, and when. All times are milliseconds since the epoch.

    Attributes:
        name: unique in the store.
        workflow: what it starts.
        payload: the input, as the JSON text of an object.
        cron, zone: a cron expression in a time zone (see `perdure.model.cron`), or
        every: the milliseconds from one fire to the next, counted from `start`, or from the epoch, or
        at: the one moment at which it fires.
        jitter: by how many milliseconds a fire is late at most.
        overlap: see `Overlap`.
        catch_up: missed fires up to this age in milliseconds are made up for, in order; None makes up for the last
            one only, whatever its age.
        start, end: it fires from then on, and before then; None for no bound.
    """

    name: str
    workflow: str
    payload: str = "{}"
    cron: str | None = None
    zone: str = "UTC"
    every: int | None = None
    at: int | None = None
    jitter: int = 0
    overlap: Overlap = "allow"
    catch_up: int | None = None
    start: int | None = None
    end: int | None = None

    def fires_like(self, other: Schedule) -> bool:
        """Return whether both have the same fires."""
        return _timing(self) == _timing(other)


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a schedule has come.

    Attributes:
        after: the last fire that was seen to, or the time from which on fires count.
        is_paused: it fires no more until it is resumed.
        last_run: the run that it started last.
        last_at: when that was, in milliseconds since the epoch.
        queued: fires that wait for that run to end.
        started, skipped, missed, failed: how many fires started a run; were left out because one was there already;
            were neither seen to in time nor made up for; could start none.
        error: why the last of those that failed did.
    """

    after: int
    is_paused: bool = False
    last_run: str | None = None
    last_at: int = 0
    queued: tuple[int, ...] = ()
    started: int = 0
    skipped: int = 0
    missed: int = 0
    failed: int = 0
    error: str | None = None


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody asks of a schedule: another declaration, a pause, or to go on."""

    schedule: Schedule | None = None
    is_paused: bool | None = None


class Plan(msgspec.Struct, frozen=True):
    """What is next.

    Attributes:
        fire: to be seen to now; None for none.
        due: when the next one is, in milliseconds since the epoch; None for never again.
        missed: how many were found missed and are not made up for.
        after: the last of those; where there are none, what it was.
    """

    fire: int | None
    due: int | None
    missed: int
    after: int


def plan(schedule: Schedule, after: int, now: int) -> Plan:
    """Return what is next for a schedule whose fires up to `after` have been seen to."""
    fire = next_fire(schedule, after)
    if fire is None:
        return Plan(None, None, 0, after)
    if (due := due_at(schedule, fire)) > now:
        return Plan(None, due, 0, after)
    oldest = now - max(GRACE, schedule.catch_up or 0)
    missed = 0
    while due_at(schedule, fire) < oldest:
        following = next_fire(schedule, fire)
        if following is None or due_at(schedule, following) > now:
            if schedule.catch_up is None:
                break
            return Plan(None, None if following is None else due_at(schedule, following), missed + 1, fire)
        missed += 1
        after, fire = fire, following
        if missed % COUNTED == 0:
            fire = _leap(schedule, fire, oldest, now)
    return Plan(fire, due_at(schedule, fire), missed, after)


def next_fire(schedule: Schedule, after: int) -> int | None:
    """Return the first fire later than a moment, and not before 1970; None for no more."""
    start = schedule.start or 0
    after = max(after, -1, start - 1)
    if after >= LAST:
        return None
    if schedule.at is not None:
        fire = schedule.at
    elif schedule.every is not None:
        fire = start + ((after - start) // schedule.every + 1) * schedule.every
    else:
        fire = _cron(schedule.cron or "", schedule.zone).after(after)
    if not after < fire <= LAST or (schedule.end is not None and fire >= schedule.end):
        return None
    return fire


def due_at(schedule: Schedule, fire: int) -> int:
    """Return when a fire is due, its jitter included, in milliseconds since the epoch."""
    if not schedule.jitter:
        return fire
    digest = hashlib.blake2b(f"{schedule.name}\0{fire}".encode(), digest_size=8).digest()
    return fire + int.from_bytes(digest, "big") % (schedule.jitter + 1)


def changed(schedule: Schedule, progress: Progress, change: Change, now: int) -> tuple[Schedule, Progress]:
    """Return a schedule and how far it has come, once somebody's wish is granted.

    What has become due while it was paused, or under another timing, is not made up for.
    """
    if change.schedule is not None:
        if not schedule.fires_like(change.schedule):
            progress = msgspec.structs.replace(progress, after=max(now, progress.after), queued=())
        schedule = change.schedule
    if change.is_paused is not None and change.is_paused != progress.is_paused:
        after = progress.after if change.is_paused else max(now, progress.after)
        progress = msgspec.structs.replace(progress, is_paused=change.is_paused, after=after)
    return schedule, progress


def check(schedule: Schedule) -> None:
    """Refuse a schedule that cannot be kept.

    Raises:
        UsageError: its timing is given twice or not at all, never fires, or its jitter is longer than its period.
    """
    given = [name for name in ("cron", "every", "at") if getattr(schedule, name) is not None]
    if len(given) != 1:
        what = " and ".join(given) or "none"
        raise UsageError(f"schedule {schedule.name!r}: give one of cron, every and at, not {what}")
    if schedule.overlap not in ("allow", "skip", "queue", "cancel-previous"):
        raise UsageError(f"overlap: {schedule.overlap!r} must be 'allow', 'skip', 'queue' or 'cancel-previous'")
    period: int | None = schedule.every
    if schedule.cron is not None:
        period = _cron(schedule.cron, schedule.zone).shortest_period()
    if period is not None and period < SHORTEST_PERIOD:
        raise UsageError(f"every: {period / 1000:g} s is shorter than {SHORTEST_PERIOD // 1000} s")
    if period is not None and schedule.jitter > period:
        raise UsageError(
            f"jitter: {schedule.jitter / 1000:g} s is longer than the shortest time between two fires, "
            f"{period / 1000:g} s"
        )
    if next_fire(schedule, -1) is None:
        raise UsageError(
            f"schedule {schedule.name!r} never fires between its start and its end, or only after the year 9000"
        )


def _timing(schedule: Schedule) -> tuple[object, ...]:
    return schedule.cron, schedule.zone, schedule.every, schedule.at, schedule.start, schedule.end


def _leap(schedule: Schedule, fire: int, oldest: int, now: int) -> int:
    """Return an overdue fire, this one or later: the first that is not too old, or else the last."""

    def is_overdue_behind(moment: int) -> bool:
        following = next_fire(schedule, moment)
        return following is not None and due_at(schedule, following) <= now

    first = oldest - schedule.jitter - 1
    if schedule.catch_up is None or not is_overdue_behind(first):
        first, end = fire, now
        while end - first > 1:
            middle = (first + end) // 2
            first, end = (middle, end) if is_overdue_behind(middle) else (first, middle)
    return (next_fire(schedule, first) or fire) if first > fire else fire


@functools.lru_cache(maxsize=256)
def _cron(expression: str, zone: str) -> Cron:
    return Cron(expression, zone)
