"""`app.schedules`: making schedules, looking at them and moving them."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack
from zoneinfo import ZoneInfo

import msgspec

from perdure.authoring.enqueuing import HIGHEST_PRIORITY
from perdure.authoring.triggers import Retiming, Timing, retimed, schedule_of
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.core.schedule import Change, Progress, Schedule, changed, next_fire
from perdure.engine.client.client import Client
from perdure.engine.client.handle import RunHandle
from perdure.engine.client.starting import by_name
from perdure.engine.settings import queue_of_schedules, whose_workers
from perdure.engine.triggers.events import start_by_name
from perdure.engine.triggers.schedule_summary import ScheduleSummary, summary_of
from perdure.engine.triggers.scheduler import (
    CHANGE,
    PREFIX,
    SCHEDULE,
    STATE,
    WORKFLOW,
    Standing,
    change_of,
    fire_id,
    fire_time,
)
from perdure.model import codec
from perdure.model.decision import Action, Control, RunFilter
from perdure.model.duration import instant
from perdure.model.errors import BatchTooLargeError, RunFinishedError, RunNotFoundError, ScheduleExistsError, UsageError
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus

BACKFILL = 1_000
"""How many fires one backfill makes up for."""

SHOWN_NEXT = 1_000
"""How many of the next fires are told at once."""

UNFINISHED = tuple(status for status in RunStatus if not status.is_finished)
PAGE = PRUNED = 500
PRUNINGS = 20

_STATE: msgspec.json.Decoder[dict[str, Standing]] = msgspec.json.Decoder(dict[str, Standing])
_log = logging.getLogger("perdure.engine")


class Schedules:
    """The schedules of a store, as `app.schedules`."""

    def __init__(self, client: Callable[[], Client]) -> None:
        self._open = client

    @property
    def _client(self) -> Client:
        return self._open()

    # Making.

    async def create(
        self,
        name: str,
        workflow: Workflow[..., Any] | str,
        *args: Any,
        input: Mapping[str, Any] | None = None,
        cron: str | None = None,
        paused: bool = False,
        replace: bool = False,
        **timing: Unpack[Timing],
    ) -> ScheduleSummary:
        """Make a schedule, which starts runs of a workflow from then on, whoever works it.

        Args:
            name: unique in the store.
            workflow: a registered workflow or task, followed by its arguments, or the name of one that some worker
                serves.
            input: the arguments by name.
            cron: when, as a cron expression of five fields, or of six with seconds first.
            every: in its place, the time (a duration) from one fire to the next, counted from `start`, or from the
                beginning of 1970 in UTC.
            at: in its place, the one moment: an aware `datetime`, or seconds since the epoch.
            tz: the time zone of `cron`, as in `Europe/Paris`; UTC by default.
            jitter: how late each fire is at most (a duration); not at all by default.
            overlap: while the run before has not ended, `"allow"`, the default, starts the next all the same, `"skip"`
                leaves it out, `"queue"` starts it afterwards, `"cancel-previous"` terminates that run.
            catch_up: how old (a duration) fires that nobody was there for may be to be made up for, in order; by
                default only the last of them is, whatever its age.
            start, end: it fires from then on, and before then.
            paused: it fires only once it is resumed.
            replace: put it in the place of the schedule of that name; a pause stays as it is.

        Raises:
            ScheduleExistsError: another schedule has that name.
            UsageError: an argument is wrong, or it would never fire.
            UnknownWorkflowError: workers have announced other names than this one.
        """
        target, payload, queue = await self._target(workflow, args, input or {})
        schedule = schedule_of(name, target, payload, cron, **timing)
        if next_fire(schedule, self._client.env.now()) is None:
            raise UsageError(f"schedule {name!r} never fires: its time has passed")
        if not await self.declare(schedule, queue, paused=paused, replace=replace):
            raise ScheduleExistsError(f"there is another schedule {name!r}; give it another name, or replace=True")
        return await self.get(name)

    async def declare(self, schedule: Schedule, queue: str, *, paused: bool = False, replace: bool = False) -> bool:
        """Have the store's schedule of a name be this one; return whether it is.

        Args:
            schedule: what is to be.
            queue: where its target's runs go.
            paused: how a new one begins.
            replace: whether it takes the place of another one.
        """
        client, now = self._client, self._client.env.now()
        progress = Progress(now, is_paused=paused)
        run = (await client.store.get([_id(schedule.name)]))[0]
        if run is not None:
            standing, is_over = await self._standing(run), run.status.is_finished
            if run.status is RunStatus.COMPLETE and standing.schedule == schedule:
                return True
            if not is_over and replace and run.queue != queue_of_schedules(queue):  # which nobody may serve
                progress, is_over = changed(standing.schedule, standing.progress, Change(schedule), now)[1], True
            if is_over:
                await self._remove(run.id, now)
                run = None
        if run is None:
            if next_fire(schedule, progress.after) is None:
                return True
            new = self._run(schedule, progress, queue)
            (created,) = await client.store.create([new])
            if client.worker is not None:
                client.worker.wake()
            if created.is_new or created.fingerprint == new.fingerprint:
                return True
            run = await client.get(new.id)  # somebody else was faster
        if (await self._standing(run)).schedule == schedule:
            return True
        if replace:
            await self._ask(schedule.name, Change(schedule=schedule))
        return replace

    async def update(
        self, name: str, *, input: Mapping[str, Any] | None = None, **timing: Unpack[Retiming]
    ) -> ScheduleSummary:
        """Change some of a schedule, and leave the rest, a pause too.

        Args:
            name: which schedule.
            input: the arguments by name, in the place of all that there were.
            timing: what changes, as for `create`; one of `cron`, `every` and `at` takes the place of the others.

        Raises:
            RunNotFoundError: there is none of that name. RunFinishedError: it has nothing more to fire.
            UsageError: an argument is wrong, or it would never fire again.
        """
        run = await self._get(name)
        if run.status.is_finished:
            raise RunFinishedError(f"schedule {name!r} has ended; make another one in its place")
        before = (await self._standing(run)).schedule
        payload = before.payload if input is None else (await self._target(before.workflow, (), input))[1]
        schedule = retimed(before, payload, **timing)
        if next_fire(schedule, self._client.env.now()) is None:
            raise UsageError(f"schedule {name!r} never fires: its time has passed")
        await self._ask(name, Change(schedule=schedule))
        return await self.get(name)

    # Looking.

    async def list(self) -> list[ScheduleSummary]:
        """Return the schedules that have not ended, by name."""
        found: list[ScheduleSummary] = []
        cursor: str | None = None
        while True:
            part, cursor = await self.page(PAGE, cursor)
            found += part
            if cursor is None:
                return sorted(found, key=lambda summary: summary.name)

    async def page(self, limit: int, cursor: str | None = None) -> tuple[Sequence[ScheduleSummary], str | None]:
        """Return up to `limit` of these, made last first, and the cursor of the next page; None where there is none."""
        page = await self._client.find(RunFilter(UNFINISHED, WORKFLOW), limit, cursor)
        found = [summary_of(run, await self._standing(run), self._client.env.now()) for run in page.runs]
        return found, page.cursor

    async def get(self, name: str) -> ScheduleSummary:
        """Return a schedule.

        Raises:
            RunNotFoundError: there is none of that name.
        """
        run = await self._get(name)
        return summary_of(run, await self._standing(run), self._client.env.now())

    async def next(self, name: str, n: int = 10) -> Sequence[dt.datetime]:
        """Return the next `n` times of a schedule, without jitter, in its own time zone; a pause makes no difference.

        Raises:
            RunNotFoundError: there is none of that name. UsageError: `n` is below 1 or above 1,000.
        """
        if not 1 <= n <= SHOWN_NEXT:
            raise UsageError(f"n: {n!r} must be from 1 to {SHOWN_NEXT:,}")
        schedule = (await self._standing(await self._get(name))).schedule
        fire: int | None = self._client.env.now()
        zone = ZoneInfo(schedule.zone)
        found: list[dt.datetime] = []
        while fire is not None and len(found) < n and (fire := next_fire(schedule, fire)) is not None:
            found.append(dt.datetime.fromtimestamp(fire / 1000, zone))
        return found

    # Moving.

    async def pause(self, name: str) -> None:
        """Have a schedule fire no more; what becomes due meanwhile is not made up for.

        Raises:
            RunNotFoundError: there is none of that name. RunFinishedError: it has nothing more to fire.
        """
        await self._ask(name, Change(is_paused=True))

    async def resume(self, name: str) -> None:
        """Have a paused schedule go on from now.

        Raises:
            As for `pause`.
        """
        await self._ask(name, Change(is_paused=False))

    async def delete(self, name: str) -> None:
        """Remove a schedule; runs that it started go on.

        Raises:
            RunNotFoundError: there is none of that name.
        """
        if not await self._remove((await self._get(name)).id, self._client.env.now()):
            _log.warning("schedule %r has ended, and goes once much else has that is older", name)

    async def trigger(self, name: str) -> RunHandle[Any]:
        """Start a schedule's target now, beside its fires, whatever it does about overlap, and even if it is paused.

        Raises:
            RunNotFoundError: there is none of that name.
        """
        run = await self._get(name)
        schedule = (await self._standing(run)).schedule
        return await self._start(run, schedule, f"{PREFIX}{name}!{self._client.new_id()}", self._client.env.now())

    async def backfill(
        self, name: str, start: dt.datetime | float, end: dt.datetime | float
    ) -> Sequence[RunHandle[Any]]:
        """Start the runs of all fires from `start` on and before `end`, at once, whatever it does about overlap.

        A fire that has started a run is not doubled: its handle is that run's.

        Args:
            name: which schedule.
            start, end: aware `datetime`s, or seconds since the epoch.

        Raises:
            RunNotFoundError: there is none of that name. BatchTooLargeError: there are more than 1,000.
        """
        run = await self._get(name)
        schedule = (await self._standing(run)).schedule
        fire, until = instant(start, field="start") - 1, instant(end, field="end")
        fires: list[int] = []
        while (following := next_fire(schedule, fire)) is not None and following < until:
            if len(fires) == BACKFILL:
                raise BatchTooLargeError(f"backfill: there are more than {BACKFILL:,} fires; take a shorter time")
            fires.append(following)
            fire = following
        return await asyncio.gather(*(self._start(run, schedule, fire_id(name, fire), fire) for fire in fires))

    # Inside.

    async def _target(
        self, workflow: Workflow[..., Any] | str, args: tuple[Any, ...], given: Mapping[str, Any]
    ) -> tuple[str, str, str]:
        """Return the name, the input payload and the queue of what is to be started."""
        client, limit = self._client, self._client.settings.limits.payload_bytes
        name = workflow if isinstance(workflow, str) else workflow.name
        known = client.registry.workflows.get(name)
        if isinstance(workflow, str):
            if args:
                raise UsageError(f"workflow {name!r} is given by name, so give its arguments as input={{...}}")
        elif workflow.registered is not known:
            raise UsageError(f"{workflow!r} is no workflow of this application; decorate it with @app.workflow")
        if known is not None:
            try:
                return name, known.parameters.encode(args, given, limit), known.queue
            except TypeError as error:
                if isinstance(workflow, str):
                    raise UsageError(f"schedule input does not fit: {error}") from None
                raise
        entry = await client.announced.fitting(await client.announced.entry(name), given, {}, limit)
        by_name(client.registry, name, given, entry, limit)  # which asks the schema of a definition
        payload = codec.encode(given, f"the input of workflow {name!r}", limit)
        return name, payload, "default" if entry is None else entry.queue

    async def _remove(self, run_id: str, now: int) -> bool:
        """End a schedule's run, if it has not, and have it forgotten; return whether it is."""
        client = self._client
        try:
            await client.control(run_id, Action.TERMINATE)
        except (RunFinishedError, RunNotFoundError):
            pass
        await client.store.control([Control(run_id, Action.DISCARD)], now)
        for _ in range(PRUNINGS):
            await client.store.prune(now, PRUNED)
            if (await client.store.get([run_id]))[0] is None:
                return True
        return False

    def _run(self, schedule: Schedule, progress: Progress, queue: str) -> NewRun:
        client = self._client
        now = client.env.now()
        payload = SCHEDULE.parameters.encode((schedule, progress), {}, client.settings.limits.payload_bytes)
        return NewRun(
            id=_id(schedule.name),
            workflow=WORKFLOW,
            created_at=now,
            due_at=now,
            records=(Record(0, "input", "input", "ok", now, payload),),
            queue=queue_of_schedules(queue),
            priority=HIGHEST_PRIORITY,
            fingerprint=fingerprint(WORKFLOW, msgspec.json.encode(schedule).decode()),
            tags={"schedule": schedule.name},
            retention=client.settings.retention,
        )

    async def _get(self, name: str) -> Run:
        run = (await self._client.store.get([_id(name)]))[0]
        if run is None:
            raise RunNotFoundError(f"no schedule {name!r}: it was never made, or was deleted")
        return run

    async def _standing(self, run: Run) -> Standing:
        """Return how a schedule stands once what was asked of it is granted."""
        store = self._client.store
        if run.state is None:
            (first,) = await store.journal(run.id, limit=1)
            args, given = SCHEDULE.parameters.decode(first.payload or "{}")
            schedule, progress = [*args, *given.values()]
        else:
            standing = _STATE.decode(run.state)[STATE]
            schedule, progress = standing.schedule, standing.progress
        for message in await store.inbox(run.id):
            wish = change_of(codec.decode_any(message.payload or "null")) if message.type == CHANGE else None
            if wish is not None:
                schedule, progress = changed(schedule, progress, wish, message.at)
        return Standing(schedule, progress)

    async def _ask(self, name: str, change: Change) -> None:
        await self._get(name)
        await self._client.send_event(_id(name), CHANGE, change, None)

    async def _start(self, run: Run, schedule: Schedule, run_id: str, fire: int) -> RunHandle[Any]:
        tags = {"schedule": schedule.name, "fire": fire_time(fire)}
        client, given = self._client, codec.decode_any(schedule.payload)
        found, ending = await start_by_name(client, schedule.workflow, given, run_id, tags, whose_workers(run.queue))
        return RunHandle(client, run_id, None if found is None else found.result, ending)


def _id(name: str) -> str:
    return f"{PREFIX}{name}"
