"""What endpoints and clients of the workflow protocol tell a run: the trigger it begins with, and what comes then.

An endpoint's answer carries no result. It hands in a step by a request of its own; that is an event of the run, whose
id follows from the run and the step, so that the store itself drops what is handed in twice.
"""

from __future__ import annotations

import base64

import msgspec

from perdure.dispatch.messages.message import Headers, Message, digest
from perdure.model.errors import UsageError
from perdure.model.run import Run

WORKFLOW = "perdure.upstash"
"""The workflow whose runs are runs of the protocol."""

ATTEMPT = "perdure.upstash.attempt"
"""The workflow whose runs are attempts under a flow-control key, so that each counts by itself."""

EVENT = "upstash"
"""The type of the events that carry submissions."""

FINISHED = "finish"
"""The id of the event that ends a run."""

CONFIG_OF_TRIGGER = "WF_TriggerOnConfig"
"""The feature of clients that say retries, flow control and the failure callback once, when they trigger a run."""

DETECTION = "WF_DetectTrigger"
"""The feature of clients whose runs fail if the first answer comes from no endpoint of the protocol."""


class Entry(msgspec.Struct, frozen=True, rename={"message_id": "messageId", "call_type": "callType"}):
    """One of the entries that a delivery consists of, as it is sent.

    Attributes:
        message_id: of the message that it came with.
        body: what it says, as base64.
        call_type: `step`: the only type that endpoints read.
    """

    message_id: str
    body: str
    call_type: str = "step"

    @property
    def content(self) -> bytes:
        """What it says."""
        return base64.b64decode(self.body)


class Invoker(msgspec.Struct, frozen=True, omit_defaults=True):
    """The run that invoked another one."""

    run_id: str
    url: str = ""
    created_at: int = 0


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run begins with.

    Attributes:
        url: of the endpoint.
        message_id: of the message that triggered it.
        message: that message; its body is the initial one, and its retries, flow control and failure callback hold for
            every delivery if the client has `CONFIG_OF_TRIGGER`.
        features: what the client can do.
        invoker: the run that invoked it; None for none.
        is_unknown: nobody knows yet which client it is for: the endpoint triggers it once more.
        entries: what an earlier run had come to, which this one takes up; empty to begin at the beginning.
    """

    url: str
    message_id: str
    message: Message
    features: tuple[str, ...] = ()
    invoker: Invoker | None = None
    is_unknown: bool = False
    entries: list[Entry] = []

    @property
    def is_of_all(self) -> bool:
        """Whether its configuration is that of every delivery, and its client can fetch what it is not sent."""
        return CONFIG_OF_TRIGGER in self.features


class Step(msgspec.Struct, frozen=True, omit_defaults=True, tag="step"):
    """A step that has ended, sleeps, or is planned.

    Attributes:
        message_id: of the message.
        message: its body is the step.
        due_at: when it is to be delivered, in milliseconds since the epoch.
    """

    message_id: str
    message: Message
    due_at: int = 0


class Call(msgspec.Struct, frozen=True, omit_defaults=True, tag="call"):
    """A request to a third party, whose answer becomes a step.

    Attributes:
        message_id: of the message.
        step_id, name: of the step.
        message: the request; its callback says how the endpoint is told of the answer.
    """

    message_id: str
    step_id: int
    name: str
    message: Message


class Wait(msgspec.Struct, frozen=True, omit_defaults=True, tag="wait"):
    """A wait for a notification.

    Attributes:
        message_id: of the message that will carry its end.
        step_id: of the step.
        step: the step, as JSON text.
        event_id: what is waited for.
        timeout: how long, as it was given.
        deadline: until when, in milliseconds since the epoch.
        message: what carries its end if somebody notifies it, without its body.
        late: what carries its end if nobody does.
    """

    message_id: str
    step_id: int
    step: str
    event_id: str
    timeout: str
    deadline: int
    message: Message
    late: Message


class Notice(msgspec.Struct, frozen=True, omit_defaults=True, tag="notice"):
    """A notification.

    Attributes:
        event_id: of what.
        body: what it says, as base64.
        step_id: the wait that it is for; None for whichever waits for the event.
        is_kept: if nothing waits for it, the next wait for the event takes it.
    """

    event_id: str
    body: str
    step_id: int | None = None
    is_kept: bool = False


class Invoke(msgspec.Struct, frozen=True, omit_defaults=True, tag="invoke"):
    """Another run that is to be begun, and whose end becomes a step.

    Attributes:
        message_id: of the message that will carry its end.
        step_id: of the step.
        step: the step, as JSON text.
        run_id: the other run's.
        trigger: what it begins with.
        message: what carries its end, without its body.
    """

    message_id: str
    step_id: int
    step: str
    run_id: str
    trigger: Trigger
    message: Message


class Finish(msgspec.Struct, frozen=True, omit_defaults=True, tag="finish"):
    """The end of a run, with what its function returned, as it was sent; None for nothing."""

    response: str | None = None


class Again(msgspec.Struct, frozen=True, tag="again"):
    """A trigger by the endpoint of a run whose client was unknown: the run begins anew with it."""

    trigger: Trigger


Submission = Step | Call | Wait | Notice | Invoke | Finish | Again
"""What a run can be told."""


class StepFields(msgspec.Struct, frozen=True, rename="camel"):
    """What the server reads of a step; clients may write more into it."""

    step_id: int
    step_name: str = ""
    step_type: str = ""
    concurrent: int = 1
    target_step: int | None = None


class Finished(msgspec.Struct, frozen=True):
    """What a run that finished leaves behind: what its function returned, as it was sent; None for nothing."""

    response: str | None = None


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt that is to be made under a flow-control key.

    Attributes:
        message: what is sent.
        message_id: its id.
        retried: how many retries there have been.
        run_id, index: of which run's entries the body consists, and up to which; no run for a body of its own.
        held: how often it was held back.
    """

    message: Message
    message_id: str
    retried: int
    run_id: str = ""
    index: int = 0
    held: int = 0


def fields_of(body: str | bytes, what: str) -> StepFields:
    """Return what a step says.

    Raises:
        UsageError: it is none.
    """
    try:
        fields = msgspec.json.decode(body, type=StepFields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{what}: it is no step of a workflow: {error}") from None
    for name, number in (("stepId", fields.step_id), ("targetStep", fields.target_step or 0)):
        if not 0 <= number <= STEP_MOST:
            raise UsageError(f"{what}.{name}: {number} must be from 0 to {STEP_MOST:,} (STEP_MOST)")
    if not 1 <= fields.concurrent <= CONCURRENT_MOST:
        raise UsageError(f"{what}.concurrent: {fields.concurrent} must be from 1 to {CONCURRENT_MOST:,}")
    return fields


STEP_MOST = 10_000
"""The greatest number of a step: how many a run may have."""

CONCURRENT_MOST = 1_000
"""How many steps may be taken at once in a run."""


def message_id_of(run_id: str, what: str) -> str:
    """Return the id of a message of a run: the same whenever the same is handed in."""
    return f"msg_{digest(f'{run_id}/{what}')}"


def failure_id_of(run: Run) -> str:
    """Return the id of the message that tells of a run's failure, if there is one."""
    return message_id_of(run.id, f"failure {run.incarnation}" if run.incarnation else "failure")


def step_event(fields: StepFields) -> str:
    """Return the id of the event that a step comes with."""
    return f"step {fields.step_id} {'' if fields.target_step is None else fields.target_step}".strip()


FORWARDED = frozenset({
    "upstash-workflow-sdk-version", "upstash-workflow-invoke-count", "upstash-workflow-callback",
    "upstash-workflow-is-failure", "upstash-workflow-failure-callback", "upstash-workflow-stepid",
    "upstash-workflow-stepname", "upstash-workflow-steptype", "upstash-workflow-concurrent",
    "upstash-workflow-contenttype", "upstash-workflow-step-config",
})  # fmt: skip
"""Which headers of the protocol are forwarded when a client asks for that; clients ask for all that they got."""

VERSION = "upstash-workflow-sdk-version"
"""The header that tells endpoints that a body is a list of entries."""


def merged(under: Headers, over: Headers, *, is_list: bool = True) -> Headers:
    """Return headers to forward: those of the trigger, and those of a message, which win.

    Args:
        under: of the trigger.
        over: of the message.
        is_list: the body is a list of entries.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in [*under, *over]:
        lower = name.lower()
        if lower == VERSION and not is_list:
            continue
        if not lower.startswith("upstash-") or lower in FORWARDED:
            found[lower] = (name, value)
    return list(found.values())
