"""What a message is, and what became of an attempt to deliver it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from perdure.model.limits import NAME_LENGTH
from perdure.model.run import RunStatus

DELIVERY = "perdure.delivery"
"""The workflow whose runs are messages."""

QUEUE = "dispatch"
"""The queue of plain messages."""

QUEUES = "dispatch.queue."
"""What the queues of those begin with that were enqueued; their own names follow."""

FLOWS = "dispatch.flow"
"""The queue of those with a flow-control key, which is their limit key."""

UNENDED = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED)
"""The states of messages that are neither delivered, nor failed for good, nor cancelled."""

RETRIES = 3
"""How often a message is tried again, unless it says otherwise."""

Headers = list[tuple[str, str]]
"""Names, as they were given, and values."""

Rests = Callable[[str], AbstractContextManager[Any]]
"""Has a message of a queue of the engine take no place in the worker while it waits."""


class FlowControl(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message says of its flow-control key.

    Attributes:
        key: which.
        parallelism: how many messages of the key are under way at once; 0 for any number.
        rate: how many are begun per period; 0 for any number.
        period: in seconds.
    """

    key: str
    parallelism: int = 0
    rate: int = 0
    period: int = 1


class Callback(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the outcome of attempts goes.

    Attributes:
        url: where to.
        options: the publishing headers of the message that carries it, such as `Upstash-Retries`.
    """

    url: str
    options: Headers = []


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that is to be delivered.

    Attributes:
        url: where to.
        method: of the request.
        headers: that are forwarded, the content type among them.
        body: as text; None for none, or for one that is not UTF-8.
        body_base64: one that is not UTF-8.
        retries: how often it is tried again.
        retry_delay: an expression for the time between attempts; empty for the usual back-off.
        timeout: of one attempt, in seconds; None for the longest.
        callback: who hears of each attempt; None for nobody.
        failure_callback: who hears that it failed for good; None for nobody.
        labels: to find it by.
        flow_control: which bounds it counts under; None for none.
        group, endpoint: the URL group that it was published to, and the name of the endpoint in it; empty for none.
        queue: the queue it was enqueued to; empty for none.
        schedule: the schedule that published it; empty for none.
        caller_ip: the address of who published it.
        redacted: which fields are not to be shown: `body`, `header`, `header[Name]`.
        extra: headers of the workflow protocol, which go with it as they are.
        published_at: when it was published, in milliseconds since the epoch.
        not_before: when it is due, in milliseconds since the epoch.
    """

    url: str
    method: str = "POST"
    headers: Headers = []
    body: str | None = None
    body_base64: str | None = None
    retries: int = RETRIES
    retry_delay: str = ""
    timeout: float | None = None
    callback: Callback | None = None
    failure_callback: Callback | None = None
    labels: tuple[str, ...] = ()
    flow_control: FlowControl | None = None
    group: str = ""
    endpoint: str = ""
    queue: str = ""
    schedule: str = ""
    caller_ip: str = ""
    redacted: tuple[str, ...] = ()
    extra: Headers = []
    published_at: int = 0
    not_before: int = 0

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return _bytes_of(self.body, self.body_base64)

    @property
    def place(self) -> str:
        """The queue of its run."""
        if self.queue:
            return QUEUES + self.queue
        return QUEUE if self.flow_control is None else FLOWS

    @property
    def limit_key(self) -> str:
        """The limit key of its run."""
        return "" if self.flow_control is None else self.flow_control.key

    def tags(self) -> dict[str, str]:
        """Return what its run is found by."""
        host = urlsplit(self.url).hostname or ""
        found = {
            "url": digest(self.url),
            "host": host[:NAME_LENGTH],
            "group": self.group,
            "queue": self.queue,
            "schedule": self.schedule,
            "flow": self.limit_key,
            "caller": self.caller_ip[:NAME_LENGTH],
        }
        return {
            **{name: value for name, value in found.items() if value},
            **{f"label:{each}": "1" for each in self.labels},
        }


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of an attempt.

    Attributes:
        status: the status code; 0 for no answer.
        headers: of the answer.
        body, body_base64: of the answer; the latter where it is not UTF-8.
        error: why there was no answer.
        retry_after: after how many milliseconds the destination wants to be tried again; None where it does not say.
        is_final: it is not to be tried again.
        is_cut: the body, or the headers, were longer than is kept.
        held_back: the destination was left alone, as it failed often: for how many milliseconds; 0 if it was tried.
    """

    status: int
    headers: Headers = []
    body: str | None = None
    body_base64: str | None = None
    error: str = ""
    retry_after: int | None = None
    is_final: bool = False
    is_cut: bool = False
    held_back: int = 0

    @property
    def is_delivered(self) -> bool:
        """Whether the destination took the message."""
        return 200 <= self.status < 300

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return _bytes_of(self.body, self.body_base64)


def text_or_base64(content: bytes) -> tuple[str | None, str | None]:
    """Return a body as text, or, where it is not UTF-8, as base64; the other one is None."""
    if not content:
        return None, None
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(content).decode()


class Input(msgspec.Struct, frozen=True):
    """The input of a message's run."""

    message: Message


def payload_of(message: Message) -> str:
    """Return the input payload of a message's run."""
    return msgspec.json.encode(Input(message)).decode()


def message_of(payload: str) -> Message:
    """Return the message of an input payload."""
    return _INPUT.decode(payload).message


def digest(text: str) -> str:
    """Return a text's digest, short enough for a tag or an id."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def message_id_of(run_id: str) -> str:
    """Return the id that a message has for those who publish: its run's, without what cannot stand in a path."""
    return run_id.replace("/", ".", 1)


def run_id_of(message_id: str) -> str:
    """Return the id of a message's run."""
    return message_id.replace(".", "/", 1)


def canonical(headers: Headers) -> dict[str, list[str]]:
    """Return headers as QStash shows them: names as in `Content-Type`, with all their values."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault("-".join(part.capitalize() for part in name.split("-")), []).append(value)
    return found


def _bytes_of(text: str | None, encoded: str | None) -> bytes:
    if encoded is not None:
        return base64.b64decode(encoded)
    return b"" if text is None else text.encode()


_INPUT = msgspec.json.Decoder(Input)
