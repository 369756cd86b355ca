"""What starts workflows beside a call of `start`, and who hears what becomes of them: as an application declares it."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack, get_args
from urllib.parse import SplitResult, urlsplit

from perdure.authoring.expressions import Expression
from perdure.authoring.workflow import Workflow
from perdure.core import schedule as core
from perdure.core.schedule import Overlap, Schedule
from perdure.model.codec import Shape, encode
from perdure.model.cron import time_zone
from perdure.model.duration import Duration, instant, milliseconds, seconds
from perdure.model.errors import DefinitionError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.name import check_name
from perdure.model.retry import Retry

LifecycleEventType = Literal[
    "workflow:started",
    "workflow:completed",
    "workflow:failed",
    "workflow:terminated",
    "workflow:compensating",
    "workflow:compensated",
    "workflow:compensation-failed",
    "workflow:parked",
]
"""What can be told of a run."""

SCHEDULE_NAME_LENGTH = 140
"""Characters in the name of a schedule: the ids of its runs hold it, and the time."""

SECRET_BYTES = range(24, 65)
"""How long a webhook's secret is."""

DELIVERY_RETRY = Retry(attempts=16, delay="5s", max_delay="6h", jitter=0.2)
"""When a delivery is tried again: for about a day, at first soon."""


@dataclass(frozen=True)
class Subscription:
    """A workflow that an event starts.

    Attributes:
        event: the event's type.
        where: a JMESPath expression over the payload, which has to hold; None for every event.
        condition: a function of the payload in its place.
        parameter: the parameter that takes the payload; None for a workflow without any.
        is_whole: the payload is the whole input, as a graph takes it.
        shape: how the payload is read.
    """

    event: str
    where: Expression | None = None
    condition: Callable[[Any], object] | None = None
    parameter: str | None = None
    is_whole: bool = False
    shape: Shape | None = None

    def announced(self) -> dict[str, Any]:
        """Return what other applications have to know, as JSON data."""
        return {
            "event": self.event,
            "where": None if self.where is None else self.where.text,
            "parameter": self.parameter,
            "is_whole": self.is_whole,
            "is_in_code": self.condition is not None,
        }

    def takes(self, payload: str) -> bool:
        """Return whether an event of its type with this payload (JSON text) starts the workflow.

        Raises:
            UsageError: the condition cannot be told. SerializationError: the payload does not fit the parameter.
        """
        if self.where is not None:
            return self.where.holds(_PLAIN.decode(payload))
        return self.condition is None or bool(self.condition((self.shape or _PLAIN).decode(payload)))

    def input(self, payload: str) -> Any:
        """Return the input as plain data: the arguments by name, or the whole."""
        if self.parameter is None:
            return {}
        value = _PLAIN.decode(payload)
        return value if self.is_whole else {self.parameter: value}


_PLAIN = Shape(Any, "the event's payload")


@dataclass(frozen=True)
class Observer:
    """A function that is told what becomes of runs: of `workflow`, or of all."""

    function: Callable[[Any], Any]
    events: frozenset[str]
    workflow: str | None


@dataclass(frozen=True)
class Webhook:
    """A URL that is told what becomes of runs.

    Attributes:
        name: of its deliveries' workflow.
        url: where the deliveries go.
        events: what it is told of.
        secrets: what deliveries are signed with, each with every one.
        workflows: whose runs it is told of; None for all.
        queue: where deliveries wait; None for the first queue that the worker serves.
        timeout: of one attempt, in seconds.
        retry: when a delivery is tried again.
        guard: whether it refuses addresses that are not on the public internet.
        allow: which of those it reaches all the same.
    """

    name: str
    url: str
    events: frozenset[str]
    secrets: tuple[bytes, ...] = field(repr=False)
    workflows: frozenset[str] | None
    queue: str | None
    timeout: float
    retry: Retry
    guard: bool
    allow: tuple[str, ...]


class Triggers:
    """What an application has declared.

    Attributes:
        schedules: by name.
        subscriptions: by the name of the workflow that they start.
        observers: in the order of their registration.
        webhooks: by name.
    """

    def __init__(self) -> None:
        self.schedules: dict[str, Schedule] = {}
        self.subscriptions: dict[str, list[Subscription]] = {}
        self.observers: list[Observer] = []
        self.webhooks: dict[str, Webhook] = {}

    def announced(self, workflow: str) -> dict[str, Any]:
        """Return what workers announce of what starts a workflow, as JSON data."""
        subscriptions = self.subscriptions.get(workflow)
        return {} if subscriptions is None else {"on": [each.announced() for each in subscriptions]}


class Timing(TypedDict, total=False):
    """When a schedule fires, other than by `cron`, and what becomes of its fires; see `Schedules.create`."""

    every: Duration | None
    at: dt.datetime | float | None
    tz: str
    jitter: Duration
    overlap: Overlap
    catch_up: Duration | None
    start: dt.datetime | float | None
    end: dt.datetime | float | None


class Retiming(Timing, total=False):
    """When a schedule fires from now on; see `Schedules.update`."""

    cron: str | None


def schedule_of(name: str, workflow: str, payload: str, cron: str | None, **timing: Unpack[Timing]) -> Schedule:
    """Return a schedule from what a user writes.

    Raises:
        UsageError: it cannot be kept.
    """
    if unknown := timing.keys() - Timing.__annotations__.keys():
        known = ", ".join(("cron", *Timing.__annotations__))
        raise UsageError(f"schedule {name!r}: there is no option {min(unknown)!r}; known: {known}")
    every, at, catch_up = timing.get("every"), timing.get("at"), timing.get("catch_up")
    start, end, tz = timing.get("start"), timing.get("end"), timing.get("tz", "UTC")
    check_name(name, "schedule name")
    if len(name) > SCHEDULE_NAME_LENGTH:
        raise UsageError(f"schedule name: {name!r} is longer than {SCHEDULE_NAME_LENGTH} characters")
    time_zone(tz)
    schedule = Schedule(
        name=name,
        workflow=workflow,
        payload=payload,
        cron=cron,
        zone=tz,
        every=None if every is None else milliseconds(every, field="every"),
        at=None if at is None else instant(at, field="at"),
        jitter=milliseconds(timing.get("jitter", 0), field="jitter"),
        overlap=timing.get("overlap", "allow"),
        catch_up=None if catch_up is None else milliseconds(catch_up, field="catch_up"),
        start=None if start is None else instant(start, field="start"),
        end=None if end is None else instant(end, field="end"),
    )
    core.check(schedule)
    return schedule


def retimed(schedule: Schedule, payload: str, **timing: Unpack[Retiming]) -> Schedule:
    """Return a schedule with another input, and with some of its timing changed.

    Raises:
        UsageError: it cannot be kept.
    """
    before: dict[str, Any] = {"cron": schedule.cron, "tz": schedule.zone, "overlap": schedule.overlap}
    for name in ("every", "at", "jitter", "catch_up", "start", "end"):
        value = getattr(schedule, name)
        before[name] = None if value is None else value / 1000
    if any(timing.get(name) is not None for name in _WHEN):
        before.update(dict.fromkeys(_WHEN))
    return schedule_of(schedule.name, schedule.workflow, payload, **{**before, **timing})


_WHEN = ("cron", "every", "at")


def subscription_of(
    workflow: Workflow[..., Any], event: str, where: str | Callable[[Any], object] | None
) -> Subscription:
    """Return the subscription of a workflow to an event.

    Raises:
        DefinitionError: the workflow needs more than the payload. UsageError: the type or the condition is none.
    """
    check_event_type(event)
    signature = workflow.parameters.signature
    first, others = next(iter(signature.parameters.values()), None), list(signature.parameters.values())[1:]
    if needed := [other.name for other in others if other.default is inspect.Parameter.empty]:
        raise DefinitionError(
            f"workflow {workflow.name!r} cannot be started by an event: beside the payload it needs {needed[0]!r}"
        )
    expression = condition = None
    if isinstance(where, str):
        try:
            expression = Expression(where, roots=None)
        except UsageError as error:
            raise UsageError(f"where: {error}") from None
    elif where is not None:
        if not callable(where) or inspect.iscoroutinefunction(where):
            raise DefinitionError(f"where: {where!r} must be a JMESPath expression or a plain function of the payload")
        condition = where
    shape = None if first is None else workflow.parameters.shapes[first.name]
    parameter = None if first is None else first.name
    is_whole = getattr(workflow.parameters, "is_whole", False)
    return Subscription(event, expression, condition, parameter, is_whole, shape)


def announced_subscription(about: Mapping[str, Any]) -> Subscription | None:
    """Return a subscription as some worker announced it; None if its condition is in that one's code."""
    if about.get("is_in_code"):
        return None
    where = about.get("where")
    expression = None if where is None else Expression(where, roots=None)
    return Subscription(about["event"], expression, None, about["parameter"], about["is_whole"])


def check_event_type(event: str) -> str:
    """Return the type of an event.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(event, str) or not 0 < len(event) <= NAME_LENGTH or not event.isprintable():
        raise UsageError(f"event type {event!r} must be printable text of 1 to {NAME_LENGTH} characters")
    return event


def lifecycle_events(events: Sequence[str]) -> frozenset[str]:
    """Return what is to be told.

    Raises:
        UsageError: something cannot be told of a run.
    """
    known = get_args(LifecycleEventType)
    if isinstance(events, str) or not events:
        raise UsageError(f"events: {events!r} must be a list of some of {', '.join(known)}")
    for event in events:
        if event not in known:
            raise UsageError(f"events: {event!r} is none of {', '.join(known)}")
    return frozenset(events)


class WebhookOptions(TypedDict, total=False):
    """Whose runs a webhook is told of, and how it is delivered to; see `Perdure.webhook`."""

    workflows: Sequence[str] | None
    name: str | None
    queue: str | None
    timeout: Duration
    retry: Retry | None
    guard: bool
    allow: Sequence[str]


def webhook_of(
    url: str, events: Sequence[str], secret: str | Sequence[str], **options: Unpack[WebhookOptions]
) -> Webhook:
    """Return a webhook from what a user writes; see `Perdure.webhook`.

    Raises:
        UsageError: an argument cannot be used.
    """
    if unknown := options.keys() - WebhookOptions.__annotations__.keys():
        known = ", ".join(WebhookOptions.__annotations__)
        raise UsageError(f"webhook: there is no option {min(unknown)!r}; known: {known}")
    parts, workflows, queue = _parts(url), options.get("workflows"), options.get("queue")
    if isinstance(workflows, str):
        raise UsageError(f"workflows: {workflows!r} must be a list of names")
    guard, allow = options.get("guard", True), options.get("allow", ())
    if isinstance(allow, str):
        raise UsageError(f"allow: {allow!r} is one text; give a list of names, addresses and networks")
    if allow and not guard:
        raise UsageError("allow=[...] is what a guard lets pass; take it away, or guard=False")
    return Webhook(
        name=check_name(options.get("name") or _webhook_name(parts), "webhook name"),
        url=url,
        events=lifecycle_events(events),
        secrets=secrets_of(secret),
        workflows=None if workflows is None else frozenset(workflows),
        queue=None if queue is None else check_name(queue, "queue"),
        timeout=seconds(options.get("timeout", 15.0), field="timeout"),
        retry=options.get("retry") or DELIVERY_RETRY,
        guard=guard,
        allow=tuple(allow),
    )


def _parts(url: str) -> SplitResult:
    """Return what a URL is made of.

    Raises:
        UsageError: nothing can be delivered there.
    """
    wrong = f"url: {url!r} must begin with https:// or http://, and name a host"
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise UsageError(f"{wrong}, without spaces")
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise UsageError(f"{wrong}: {error}") from None
    if not is_sound:
        raise UsageError(wrong)
    if "@" in parts.netloc:
        raise UsageError("url: it holds a user or a password; receivers know deliveries by their signature")
    return parts


def _webhook_name(parts: SplitResult) -> str:
    place = f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
    return f"{place}{parts.path}".replace("/", "-").rstrip("-")[:100]


def secrets_of(secret: str | Sequence[str]) -> tuple[bytes, ...]:
    """Return the keys of one secret or several, as the Standard Webhooks specification writes them.

    Raises:
        UsageError: one is not `whsec_` and 24 to 64 bytes in base64.
    """
    found = []
    for each in (secret,) if isinstance(secret, str) else secret:
        try:
            key = base64.b64decode(each.removeprefix("whsec_"), validate=True)
        except (AttributeError, binascii.Error, ValueError):
            key = b""
        if len(key) not in SECRET_BYTES:
            raise UsageError(
                "secret: it must be 'whsec_' and 24 to 64 random bytes in base64; "
                "`openssl rand -base64 32` makes such bytes"
            )
        found.append(key)
    if not found:
        raise UsageError("secret: give at least one")
    return tuple(found)


def payload_of(payload: object, limit: int) -> str:
    """Return an event's payload as JSON text.

    Raises:
        SerializationError, PayloadTooLargeError: it cannot be stored.
    """
    return encode(payload, "the payload of the event", limit)
