"""Schedules of messages: each is a schedule of ours, whose runs publish what it says.

Its runs are of a workflow of their own, rather than messages themselves, because what is published depends on the
moment: the endpoints of a URL group, the delay, the bounds of the flow-control key.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.authoring import flow
from perdure.authoring.triggers import schedule_of
from perdure.authoring.workflow import Workflow
from perdure.core.schedule import next_fire
from perdure.dispatch.messages.message import QUEUE, message_id_of, run_id_of
from perdure.dispatch.messages.options import Options, destination, name
from perdure.dispatch.messages.outbox import Publication
from perdure.engine.app import Perdure
from perdure.engine.env import new_id
from perdure.engine.triggers.schedule_summary import ScheduleSummary
from perdure.engine.triggers.scheduler import PATIENCE
from perdure.model.cron import Cron
from perdure.model.errors import RunNotFoundError, UsageError
from perdure.model.run import RunStatus

PUBLISHING = "perdure.publishing"
"""The workflow whose runs publish what a schedule says."""

PREFIX = "messages."
"""What the names of schedules begin with that publish messages, in front of their ids."""

PLAN_LENGTH = 100
"""How many characters the id of a schedule may have."""

_ZONED = re.compile(r"CRON_TZ=(\S+)\s+(.*)", re.DOTALL)
_FIELDS = 5
_ENDED = {RunStatus.COMPLETE: "SUCCESS", RunStatus.ERRORED: "FAIL", RunStatus.TERMINATED: "FAIL"}


class UnknownPlanError(UsageError):
    """There is no schedule of this id."""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a schedule publishes.

    Attributes:
        id: of the schedule.
        destination: a URL, or the name of a URL group.
        options: what its headers say, and its message's body.
        cron: when, as it was given.
        made_at: when that was, in milliseconds since the epoch.
        caller_ip: the address of who made it.
    """

    id: str
    destination: str
    options: Options
    cron: str
    made_at: int
    caller_ip: str = ""


class PlanStanding(msgspec.Struct, frozen=True):
    """How a schedule of messages stands.

    Attributes:
        plan: what it publishes.
        is_paused: it does not, for now.
        next_at, last_at: when it does next, and when it last did, in milliseconds since the epoch; None for never.
        last_states: what became of the messages that it published last, by their ids; only where one is asked for.
        error: why the last fire that could publish nothing did not; None for none.
    """

    plan: Plan
    is_paused: bool
    next_at: int | None
    last_at: int | None
    last_states: dict[str, str]
    error: str | None


Publish = Callable[[Publication, str, str], Awaitable[Any]]
"""Publishes what a schedule says: given it, the caller's address and the schedule's id."""


def publishing_workflow(publish: Publish) -> Workflow[..., Any]:
    """Return the workflow whose runs publish what schedules say."""

    async def once(plan: Plan, fire: str) -> list[str]:
        options = plan.options
        if not options.deduplication_id and not options.is_deduplicated_by_content:
            # An attempt whose answer was lost publishes nothing twice.
            options = replace(options, deduplication_id=fire)
        publication = Publication(plan.destination, options, options.message.content)
        answer = await publish(publication, plan.caller_ip, plan.id)
        return [each["messageId"] for each in (answer if isinstance(answer, list) else [answer])]

    async def publishing(plan: Plan) -> list[str]:
        return await flow.do("publish", once, plan, flow.run_id(), retry=PATIENCE)

    return Workflow(publishing, name=PUBLISHING, queue=QUEUE, local_names={"Plan": Plan})


class Plans:
    """The schedules of messages of one namespace.

    Args:
        app: the namespace's engine.
        workflow: whose runs publish.
    """

    def __init__(self, app: Perdure, workflow: Workflow[..., Any]) -> None:
        self._app = app
        self._workflow = workflow

    async def put(self, target: str, options: Options, *, caller_ip: str = "") -> str:
        """Make a schedule, or put it in the place of the one of that id; return its id.

        Args:
            target: a URL, or the name of a URL group, which need not be there yet.
            options: what its headers say, and its message's body.
            caller_ip: the address of who asks.

        Raises:
            UsageError: it cannot be kept, or never fires.
        """
        if "://" in target:
            destination(target)
        else:
            name(target, "URL group")
        if options.not_before is not None:
            raise UsageError("Upstash-Not-Before: a schedule says when; give Upstash-Delay")
        app = self._app
        now = app.world.now()
        id_ = options.schedule_id or f"scd_{new_id(app.world)}"
        if len(id_) > PLAN_LENGTH:
            raise UsageError(f"Upstash-Schedule-Id: it is longer than {PLAN_LENGTH} characters")
        cron, zone = _timed(options.cron)
        plan = Plan(id_, target, options, options.cron, now, caller_ip)
        payload = self._workflow.parameters.encode((plan,), {}, app.settings.limits.payload_bytes)
        schedule = schedule_of(PREFIX + id_, PUBLISHING, payload, cron, tz=zone)
        if next_fire(schedule, now) is None:
            raise UsageError(f"Upstash-Cron: {options.cron[:80]!r} never fires")
        await app.schedules.declare(schedule, QUEUE, replace=True)
        return id_

    async def get(self, id_: str) -> PlanStanding:
        """Return a schedule, and what became of the messages that it published last.

        Raises:
            UnknownPlanError: there is none of this id.
        """
        summary = await self._summary(id_)
        return _standing(summary, await self._last_states(summary))

    async def all(self) -> list[PlanStanding]:
        """Return every schedule, by its id."""
        return [_standing(each, {}) for each in await self._app.schedules.list() if each.workflow == PUBLISHING]

    async def set_paused(self, id_: str, paused: bool) -> None:
        """Have a schedule publish no more, or go on.

        Raises:
            UnknownPlanError: there is none of this id.
        """
        summary = await self._summary(id_)
        schedules = self._app.schedules
        await (schedules.pause if paused else schedules.resume)(summary.name)

    async def delete(self, id_: str) -> None:
        """Remove a schedule; what it published is delivered.

        Raises:
            UnknownPlanError: there is none of this id.
        """
        await self._app.schedules.delete((await self._summary(id_)).name)

    async def _summary(self, id_: str) -> ScheduleSummary:
        try:
            found = await self._app.schedules.get(PREFIX + name(id_, "scheduleId"))
        except RunNotFoundError:
            found = None
        if found is None or found.workflow != PUBLISHING:
            raise UnknownPlanError(f"schedule {id_!r} is unknown")
        return found

    async def _last_states(self, summary: ScheduleSummary) -> dict[str, str]:
        """Return what became of the last messages, as far as they are kept."""
        store = self._app.store
        (run,) = await store.get([summary.last_run]) if summary.last_run else (None,)
        if run is None or run.status is not RunStatus.COMPLETE or run.output is None:
            return {}
        ids = msgspec.json.decode(run.output, type=list[str])
        found = await store.get([run_id_of(each) for each in ids])
        return {message_id_of(each.id): _ENDED.get(each.status, "IN_PROGRESS") for each in found if each is not None}


def _timed(text: str) -> tuple[str, str]:
    """Return the expression and the time zone of a cron header.

    Raises:
        UsageError: it is none.
    """
    if not text:
        raise UsageError("Upstash-Cron: give when the schedule fires, as in */5 * * * *")
    zoned = _ZONED.fullmatch(text)
    zone, cron = (zoned[1], zoned[2].strip()) if zoned else ("UTC", text)
    if len(cron.split()) != _FIELDS:
        raise UsageError(f"Upstash-Cron: {cron[:80]!r} must have five fields, as in */5 * * * *")
    Cron(cron, zone, field="Upstash-Cron")
    return cron, zone


def _standing(summary: ScheduleSummary, last_states: dict[str, str]) -> PlanStanding:
    fired = (summary.last_run or "").rpartition("@")[2]
    return PlanStanding(
        msgspec.convert(summary.input["plan"], Plan),
        summary.is_paused,
        None if summary.next_at is None else round(summary.next_at.timestamp() * 1000),
        round(dt.datetime.fromisoformat(fired).timestamp() * 1000) if fired else None,
        last_states,
        summary.error,
    )
