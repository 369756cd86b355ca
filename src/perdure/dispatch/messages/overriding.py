"""Options that are put in the place of those that a message was published with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from perdure.dispatch.messages.message import Headers, Message
from perdure.dispatch.messages.options import read

_FIELDS = {
    "upstash-method": "method",
    "upstash-retries": "retries",
    "upstash-retry-delay": "retry_delay",
    "upstash-timeout": "timeout",
    "upstash-callback": "callback",
    "upstash-failure-callback": "failure_callback",
    "upstash-label": "labels",
    "upstash-flow-control-key": "flow_control",
    "upstash-queue-name": "queue",
    "upstash-redact-fields": "redacted",
}


def overridden(headers: Headers) -> Callable[[Message], Message]:
    """Return what puts the publishing options that headers give into a message; those they do not give stay.

    Raises:
        UsageError: one of them says what cannot be.
    """
    ours = [each for each in headers if each[0].lower().startswith("upstash-")]
    given = read(ours).message
    named = {name.lower() for name, _ in ours}
    changes: dict[str, Any] = {field: getattr(given, field) for name, field in _FIELDS.items() if name in named}
    forwarded = {name.lower() for name, _ in given.headers}

    def change(message: Message) -> Message:
        kept = [each for each in message.headers if each[0].lower() not in forwarded]
        return replace(message, headers=[*kept, *given.headers], **changes)

    return change
