"""What QStash's API shows of a message: out of its run and journal, pure. What is to be redacted is not shown."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.dispatch.messages.delivery import ATTEMPT, told_of, wait_before
from perdure.dispatch.messages.message import Answer, Headers, Message, canonical, message_id_of, message_of
from perdure.dispatch.messages.options import FORWARD, TIMEOUT_MOST
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus

CREATED, ACTIVE, RETRY, ERROR = "CREATED", "ACTIVE", "RETRY", "ERROR"
DELIVERED, FAILED, CANCEL_REQUESTED, CANCELED = "DELIVERED", "FAILED", "CANCEL_REQUESTED", "CANCELED"
STATES = (CREATED, ACTIVE, RETRY, ERROR, DELIVERED, FAILED, CANCEL_REQUESTED, CANCELED)
"""What becomes of a message, as its events tell it."""

_ANSWER = msgspec.json.Decoder(Answer)
_NAMED = re.compile(r"header\[(.+)\]", re.IGNORECASE)


class Delivery:
    """A message with its run and its journal.

    Args:
        run: its run.
        journal: the run's records.

    Attributes:
        run, journal: see above.
        id: the message's.
        message: it.
        attempts: the records of the attempts that were made, each with its answer.
    """

    def __init__(self, run: Run, journal: Sequence[Record]) -> None:
        self.run = run
        self.journal = journal
        self.id = message_id_of(run.id)
        self.message = message_of(journal[0].payload or "")
        answered = [
            (record, _ANSWER.decode(record.payload or ""))
            for record in journal
            if record.kind == "step" and record.state == "ok" and record.key.partition("#")[0] == ATTEMPT
        ]
        self.attempts = [(record, answer) for record, answer in answered if not answer.held_back]

    def shown(self) -> dict[str, Any]:
        """Return the message as `GET /v2/messages/{id}` shows it."""
        message = self.message
        return {
            "messageId": self.id,
            "url": message.url,
            "method": message.method,
            "maxRetries": message.retries,
            "notBefore": message.not_before,
            "createdAt": message.published_at,
            **about(message),
            **content(message),
        }

    def dead(self) -> dict[str, Any]:
        """Return the message as `GET /v2/dlq` shows it."""
        answer = self.attempts[-1][1] if self.attempts else Answer(0)
        found = {
            **self.shown(),
            "dlqId": self.id,
            "responseStatus": answer.status,
            "responseHeader": canonical(answer.headers),
        }
        if answer.body is not None:
            found["responseBody"] = answer.body
        elif answer.body_base64 is not None:
            found["responseBodyBase64"] = answer.body_base64
        elif answer.error:
            found["responseBody"] = answer.error
        return found

    def events(self) -> list[dict[str, Any]]:
        """Return what became of it so far, latest first."""
        message = self.message
        body = _hidden(message.content).encode() if _hides_body(message) else message.content
        every = {
            "messageId": self.id,
            "url": message.url,
            "method": message.method,
            "maxRetries": message.retries,
            "timeout": round((message.timeout or TIMEOUT_MOST) * 1000),
            **about(message),
            "header": _headers(message),
            "body": base64.b64encode(body).decode(),
        }
        found: list[dict[str, Any]] = []

        def tell(state: str, time: int, **more: Any) -> None:
            found.append({"time": time, "state": state, **every, **more})

        tell(CREATED, self.run.created_at, nextDeliveryTime=message.not_before)
        for retried, (record, answer) in enumerate(self.attempts):
            tell(ACTIVE, record.started_at or record.at)
            said = _response(answer)
            if answer.is_delivered:
                tell(DELIVERED, record.at, **said)
                continue
            tell(ERROR, record.at, error=told_of(answer), **said)
            if answer.is_final or retried >= message.retries:
                tell(FAILED, record.at, error=told_of(answer), **said)
            else:
                due_at = record.at + wait_before(message, answer, retried)
                tell(RETRY, record.at, nextDeliveryTime=due_at, **said)
        ended_at = self.run.finished_at or self.run.updated_at
        if self.run.status is RunStatus.TERMINATED:
            tell(CANCEL_REQUESTED, ended_at)
            tell(CANCELED, ended_at)
        elif self.run.status is RunStatus.ERRORED and found[-1]["state"] != FAILED:
            tell(FAILED, ended_at, error="the delivery itself failed; see its run")
        return found[::-1]


def about(message: Message) -> dict[str, Any]:
    """Return what every view says of a message, where there is anything to say."""
    flow = message.flow_control
    found: dict[str, Any] = {
        "topicName": message.group,
        "endpointName": message.endpoint,
        "queueName": message.queue,
        "scheduleId": message.schedule,
        "callback": message.callback.url if message.callback else "",
        "failureCallback": message.failure_callback.url if message.failure_callback else "",
        "callerIP": message.caller_ip,
        "retryDelayExpression": message.retry_delay,
        "retryDelayExpr": message.retry_delay,
        "label": ",".join(message.labels),
        "labels": list(message.labels),
    }
    if flow is not None:
        found |= {
            "flowControlKey": flow.key,
            "parallelism": flow.parallelism,
            "rate": flow.rate,
            "period": flow.period,
        }
    return {name: value for name, value in found.items() if value}


def content(message: Message) -> dict[str, Any]:
    """Return the headers and the body of a message, and those of its callbacks."""
    found: dict[str, Any] = {"header": _headers(message)}
    if message.callback is not None:
        found["callbackHeader"] = _shown(message, message.callback.options)
    if message.failure_callback is not None:
        found["failureCallbackHeader"] = _shown(message, message.failure_callback.options)
    if _hides_body(message):
        found["body"] = _hidden(message.content)
    elif message.body_base64 is not None:
        found["bodyBase64"] = message.body_base64
    elif message.body is not None:
        found["body"] = message.body
    return found


def _headers(message: Message) -> dict[str, list[str]]:
    return _shown(message, message.headers)


def _shown(message: Message, headers: Headers) -> dict[str, list[str]]:
    """Return headers as they are shown, without what is redacted, which may be one that is to be forwarded."""
    fields = [each.lower() for each in message.redacted]
    named = {match[1] for each in fields if (match := _NAMED.fullmatch(each))}
    is_whole = "header" in fields or "headers" in fields
    return canonical(
        [
            (name, _hidden(value) if is_whole or name.lower().removeprefix(FORWARD) in named else value)
            for name, value in headers
        ]
    )


def _hides_body(message: Message) -> bool:
    return "body" in (each.lower() for each in message.redacted)


def _response(answer: Answer) -> dict[str, Any]:
    """Return what events say of an answer."""
    headers = canonical(answer.headers)
    found: dict[str, Any] = {
        "responseStatus": answer.status,
        "responseHeader": headers,
        "responseHeaders": headers,
    }
    if answer.content:
        found["responseBody"] = answer.body if answer.body is not None else answer.body_base64
    return found


def _hidden(value: str | bytes) -> str:
    raw = value.encode() if isinstance(value, str) else value
    return f"REDACTED:{hashlib.sha256(raw).hexdigest()}"
