"""What a server tells of messages and of what they go through. All times are milliseconds since the epoch, UTC."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec import field

Headers = dict[str, list[str]]
"""Headers by name, as in `Content-Type`, each with all its values."""


class Published(msgspec.Struct, frozen=True):
    """A message that was published.

    Attributes:
        id: the message's.
        is_new: whether this call made it; a message of the same deduplication id was there otherwise.
        url: where it goes, for one to a URL group.
        index: which message of its batch it came of, from 0.
    """

    id: str
    is_new: bool = True
    url: str = ""
    index: int = 0


class _Shown(msgspec.Struct, frozen=True, rename="camel"):
    """What everything that is shown of messages has."""


class Endpoint(_Shown, frozen=True, omit_defaults=True):
    """One destination of a URL group; `name` tells it apart from others, and may be empty."""

    url: str
    name: str = ""


class Group(_Shown, frozen=True):
    """A URL group: messages to it go to each of its endpoints."""

    name: str
    endpoints: list[Endpoint]
    created_at: int = 0
    updated_at: int = 0


class QueueSummary(_Shown, frozen=True):
    """A queue of messages.

    Attributes:
        name: its name.
        parallelism: how many of its messages are under way at once; one keeps them in order.
        lag: how many have not come to their end.
        paused: none is begun.
        created_at, updated_at: when.
    """

    name: str
    parallelism: int
    lag: int = 0
    paused: bool = False
    created_at: int = 0
    updated_at: int = 0


class _Told(_Shown, frozen=True):
    """What is told of messages and schedules."""

    group: str = field(name="topicName", default="")
    endpoint: str = field(name="endpointName", default="")
    queue: str = field(name="queueName", default="")
    method: str = "POST"
    callback: str = ""
    failure_callback: str = ""
    labels: list[str] = []
    flow_control: str = field(name="flowControlKey", default="")
    parallelism: int = 0
    rate: int = 0
    period: float = 0
    retry_delay: str = field(name="retryDelayExpression", default="")
    caller_ip: str = field(name="callerIP", default="")
    headers: Headers = field(name="header", default_factory=dict)
    body: str | None = None
    body_base64: str | None = None

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return _bytes_of(self.body, self.body_base64)


class MessageSummary(_Told, frozen=True, kw_only=True):
    """A message that waits, or is being delivered.

    Attributes:
        id, url: its own, and where it goes.
        retries: how often it is tried again at most.
        schedule: the id of the schedule that published it; empty for none.
        created_at, not_before: when it was published, and when it is due.
    """

    id: str = field(name="messageId")
    url: str
    retries: int = field(name="maxRetries", default=3)
    schedule: str = field(name="scheduleId", default="")
    created_at: int = 0
    not_before: int = 0


class DeadLetter(MessageSummary, frozen=True, kw_only=True):
    """A message, or a workflow run, that failed for good.

    Attributes:
        dead_id: what it is got, retried and deleted by.
        status: that of the last answer; 0 where none came.
        response_headers, response_body, response_body_base64: the last answer's.
        run_id, run_created_at: of a workflow run; empty, and 0, for a message.
    """

    dead_id: str = field(name="dlqId")
    status: int = field(name="responseStatus", default=0)
    response_headers: Headers = field(name="responseHeader", default_factory=dict)
    response_body: str | None = None
    response_body_base64: str | None = None
    run_id: str = field(name="workflowRunId", default="")
    run_created_at: int = field(name="workflowCreatedAt", default=0)

    @property
    def response(self) -> bytes:
        """The bytes of the last answer's body."""
        return _bytes_of(self.response_body, self.response_body_base64)


class ScheduleSummary(_Told, frozen=True, kw_only=True):
    """A schedule of messages.

    Attributes:
        id, cron, destination: its own, when, and where to: a URL, or the name of a URL group.
        retries: how often each message is tried again at most.
        delay, timeout: of each message, in seconds.
        is_paused: it publishes nothing.
        created_at: when it was made.
        last_at, next_at: when it published last, and will next; None for never.
        states: how its latest messages came out, by their ids: `IN_PROGRESS`, `SUCCESS` or `FAIL`.
        error: why the last time came to nothing.
    """

    id: str = field(name="scheduleId")
    cron: str
    destination: str
    retries: int = 3
    delay: float = 0
    timeout: float = 0
    is_paused: bool = False
    created_at: int = 0
    last_at: int | None = field(name="lastScheduleTime", default=None)
    next_at: int | None = field(name="nextScheduleTime", default=None)
    states: dict[str, str] = field(name="lastScheduleStates", default_factory=dict)
    error: str = ""


class LogEntry(_Told, frozen=True, kw_only=True):
    """One thing that happened to a message.

    Attributes:
        at: when.
        state: what: `CREATED`, `ACTIVE`, `RETRY`, `ERROR`, `DELIVERED`, `FAILED`, `CANCEL_REQUESTED` or `CANCELED`.
        message_id, url, schedule: the message's.
        error: why a try failed.
        next_at: when it is tried next; None where it is not.
        status, response_headers, response_body: the answer's.
    """

    at: int = field(name="time")
    state: str
    message_id: str
    url: str
    schedule: str = field(name="scheduleId", default="")
    error: str = ""
    next_at: int | None = field(name="nextDeliveryTime", default=None)
    status: int = field(name="responseStatus", default=0)
    response_headers: Headers = field(name="responseHeader", default_factory=dict)
    response_body: str = ""

    @property
    def content(self) -> bytes:
        """The body's bytes; log entries carry it as base64."""
        return _bytes_of(None, self.body)


class FlowControlSummary(_Shown, frozen=True):
    """How a flow-control key stands.

    Attributes:
        key: its name.
        waiting: how many of its messages wait for their turn.
        parallelism, under_way: how many may be under way at once, and are; the former 0 for any number.
        rate, begun: how many may be begun per period, and were in this one; the former 0 for any number.
        period: in seconds.
        period_start: when this period began, in seconds since the epoch.
        is_paused: none is begun.
        is_parallelism_pinned, is_rate_pinned: what messages say of it does not count.
    """

    key: str = field(name="flowControlKey")
    waiting: int = field(name="waitListSize", default=0)
    parallelism: int = field(name="parallelismMax", default=0)
    under_way: int = field(name="parallelismCount", default=0)
    rate: int = field(name="rateMax", default=0)
    begun: int = field(name="rateCount", default=0)
    period: float = field(name="ratePeriod", default=0)
    period_start: int = field(name="ratePeriodStart", default=0)
    is_paused: bool = False
    is_parallelism_pinned: bool = field(name="isPinnedParallelism", default=False)
    is_rate_pinned: bool = field(name="isPinnedRate", default=False)


class Parallelism(_Shown, frozen=True):
    """How many messages may be under way at once, and are."""

    parallelism: int = field(name="parallelismMax", default=0)
    under_way: int = field(name="parallelismCount", default=0)


class SigningKeys(_Shown, frozen=True):
    """What deliveries are signed with: now, and after the next rotation."""

    current: str
    next: str

    def __repr__(self) -> str:
        return "SigningKeys(...)"


class WorkflowRun(msgspec.Struct, frozen=True):
    """A workflow run that was begun.

    Attributes:
        id: its own.
        is_new: whether this call began it.
        created_at: when, where the server tells.
    """

    id: str
    is_new: bool = True
    created_at: int | None = None


class Notified(_Shown, frozen=True):
    """A workflow run that waited for an event and was told of it.

    Attributes:
        message_id: of the message that goes on with it.
        run_id: its own.
        error: why it could not be told.
        waiter: what it waited with.
    """

    message_id: str = ""
    run_id: str = field(name="workflowRunId", default="")
    error: str = ""
    waiter: Waiter | None = None


class Waiter(_Shown, frozen=True):
    """A workflow run that waits for an event: its URL, and until when (in seconds since the epoch)."""

    url: str = ""
    deadline: int = 0


class WorkflowRunLog(_Shown, frozen=True):
    """What happened in a workflow run.

    Attributes:
        id, url: its own, and where its workflow is served.
        state: `RUN_STARTED`, `RUN_SUCCESS`, `RUN_FAILED` or `RUN_CANCELED`.
        created_at, completed_at: when; the latter None until then.
        response: what it returned, as text; None for nothing.
        dead_id: its dead letter, where it failed.
        labels: it is found by.
        steps: groups of steps, as the server tells them.
    """

    id: str = field(name="workflowRunId")
    url: str = field(name="workflowUrl", default="")
    state: str = field(name="workflowState", default="")
    created_at: int = field(name="workflowRunCreatedAt", default=0)
    completed_at: int | None = field(name="workflowRunCompletedAt", default=None)
    response: str | None = field(name="workflowRunResponse", default=None)
    dead_id: str = field(name="dlqId", default="")
    labels: list[str] = []
    steps: list[dict[str, Any]] = []


def _bytes_of(text: str | None, encoded: str | None) -> bytes:
    if encoded is not None:
        return base64.b64decode(encoded)
    return b"" if text is None else text.encode()
