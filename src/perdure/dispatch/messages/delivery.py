"""The workflow whose runs are messages: attempts, what is waited for between them, and who is told.

An attempt is a step whose result is what came of it, whatever that is: so the journal says what the destination
answered each time, and the policy of retries is the message's, not that of steps.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from perdure.authoring import flow
from perdure.authoring.context import replay_or_raise
from perdure.authoring.workflow import Workflow
from perdure.core.ask import ChildSpec
from perdure.dispatch.messages.message import (
    DELIVERY,
    QUEUE,
    Answer,
    Callback,
    Headers,
    Message,
    Rests,
    canonical,
    digest,
    message_id_of,
    payload_of,
)
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.retry_delay import RetryDelay, backed_off
from perdure.engine.env import Env, pause
from perdure.model.errors import EventTimeoutError, PerdureError, StoreError
from perdure.model.retry import Retry

ATTEMPT = "attempt"
"""The name of the steps that are attempts."""

CALLBACK_LENGTH = 900_000
"""How long a callback may be as it is stored, in characters; where it were longer, it is without the message's body."""

STOPS = 10_000
"""How many servers may stop while a message waits for one attempt."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a message that was delivered.

    Attributes:
        status: what the destination answered.
        retried: how many retries it took.
    """

    status: int
    retried: int


class DeliveryFailedError(PerdureError):
    """A message was not delivered, and is not tried again; `status` is that of the last answer, 0 for none."""

    def __init__(self, told: str, status: int = 0) -> None:
        super().__init__(told, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class Send(Protocol):
    """Makes one attempt."""

    async def __call__(
        self, message: Message, message_id: str, retried: int, *, is_due: bool = False, held: int = 0
    ) -> Answer:
        """Return what came of it, whatever that is.

        It is not held back if it `is_due`; `held` says how often it was already.
        """


class StoppedError(PerdureError):
    """The server stopped while a message waited in its queue for its next attempt, which another one makes."""


class DeliveryWorkflow(Workflow[..., Any]):
    """The workflow of messages; as a child, each has the queue, limit key and tags that a published one has."""

    def child(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int, **options: Any) -> ChildSpec:
        """Return what starts a message as a child."""
        message: Message = args[0]
        spec = super().child(args, kwargs, limit, **{**options, "tags": message.tags()})
        wait = max(0, message.not_before - message.published_at)
        return dataclasses.replace(spec, queue=message.place, limit_key=message.limit_key, delay_ms=wait)


def delivery_workflow(send: Send, env: Env, stopping: asyncio.Event, rests: Rests = nullcontext) -> DeliveryWorkflow:
    """Return the workflow of messages.

    Args:
        send: what makes attempts.
        env: for the time between attempts that do not give up their place.
        stopping: set when the server stops, so that nothing waits for its next attempt here.
        rests: has such a message take no place in the worker.
    """
    wait = functools.partial(_wait, env, stopping, rests)

    async def attempt(message: Message, message_id: str, retried: int, due_at: int, held: int) -> Answer:
        await wait(message, due_at - env.now())
        answer = await send(message, message_id, retried, held=held)
        if answer.held_back and message.queue:
            await wait(message, answer.held_back)
            return await send(message, message_id, retried, is_due=True)
        return answer

    async def deliver(message: Message) -> Outcome:
        message_id = message_id_of(flow.run_id())
        due_at = retried = 0
        while True:
            answer = await flow.do(ATTEMPT, attempt, message, message_id, retried, due_at, 0, retry=_RETRY)
            held = 0
            while answer.held_back:
                held += 1
                await flow.sleep(answer.held_back / 1000, name="held back")
                answer = await flow.do(ATTEMPT, attempt, message, message_id, retried, 0, held, retry=_RETRY)
            is_over = answer.is_delivered or answer.is_final or retried >= message.retries
            if message.callback is not None:
                await _tell(told, message.callback, message, answer, retried, "callback")
            if answer.is_delivered:
                return Outcome(answer.status, retried)
            if is_over:
                if message.failure_callback is not None:
                    await _tell(told, message.failure_callback, message, answer, retried, "failure")
                raise DeliveryFailedError(told_of(answer), answer.status)
            left = wait_before(message, answer, retried)
            retried += 1
            if message.queue:
                # Its place in the queue is the worker's lease, which a timer would give up to the next message.
                due_at = _now() + left
            else:
                await _until_retry(left, retried)

    told = DeliveryWorkflow(
        deliver, name=DELIVERY, queue=QUEUE, local_names={"Message": Message, "Outcome": Outcome, "Answer": Answer}
    )
    return told


def run_now(attempts: int) -> str:
    """Return the type of the event that makes a message be tried at once, of which so many attempts were made."""
    return f"run now/{attempts}"


async def _until_retry(milliseconds: int, retried: int) -> None:
    """Let time pass until the next attempt, unless somebody wants it now."""
    with contextlib.suppress(EventTimeoutError):
        await flow.wait_for_event("retry", type=run_now(retried), timeout=milliseconds / 1000)


def wait_before(message: Message, answer: Answer, retried: int) -> int:
    """Return how many milliseconds after an attempt that failed the next one is due.

    Args:
        message: what is to be delivered.
        answer: of the attempt.
        retried: how many retries there have been.
    """
    if answer.retry_after is not None:
        return answer.retry_after
    return RetryDelay(message.retry_delay).after(retried) if message.retry_delay else backed_off(retried)


def told_of(answer: Answer) -> str:
    """Return what came of an attempt that failed, in words."""
    return answer.error or f"the destination answered with status {answer.status}"


def callback_of(
    callback: Callback, message: Message, answer: Answer, *, message_id: str, retried: int, now: int, is_failure: bool
) -> Message:
    """Return the message that tells of an attempt.

    Args:
        callback: where it goes.
        message: what was to be delivered.
        answer: what came of the attempt.
        message_id: of `message`.
        retried: how many retries there had been.
        now: the present, in milliseconds since the epoch.
        is_failure: it tells that `message` failed for good.
    """
    options = read(callback.options)
    body: dict[str, Any] = {
        "status": answer.status,
        "header": canonical(answer.headers),
        "body": base64.b64encode(answer.content if answer.status else answer.error.encode()).decode(),
        "retried": retried,
        "maxRetries": message.retries,
        "sourceMessageId": message_id,
        "url": message.url,
        "method": message.method,
        "sourceHeader": canonical(message.headers),
        "notBefore": message.not_before,
        "createdAt": message.published_at,
        "callerIP": message.caller_ip,
    }
    named = {"topicName": message.group, "endpointName": message.endpoint, "scheduleId": message.schedule}
    body |= {name: value for name, value in named.items() if value}
    if is_failure:
        body["dlqId"] = message_id
    has_retries = any(name.lower() == "upstash-retries" for name, _ in callback.options)
    headers: Headers = [each for each in options.message.headers if each[0].lower() != "content-type"]
    carrier = replace(
        options.message,
        url=callback.url,
        headers=[("Content-Type", "application/json"), *headers],
        retries=options.message.retries if has_retries else message.retries,
        caller_ip=message.caller_ip,
        published_at=now,
        not_before=options.due_at(now),
        redacted=_redacted(message, options.message),
    )
    source = {"sourceBody": base64.b64encode(message.content).decode()}
    for text in (msgspec.json.encode(body | source).decode(), msgspec.json.encode(body).decode()):
        carrier = replace(carrier, body=text)
        if len(payload_of(carrier)) <= CALLBACK_LENGTH:
            break
    return carrier


def _redacted(message: Message, carrier: Message) -> tuple[str, ...]:
    """Return what of a callback is not to be shown: its body tells of the message's headers and body."""
    if not message.redacted:
        return carrier.redacted
    return tuple(dict.fromkeys((*carrier.redacted, *message.redacted, "body")))


async def _wait(env: Env, stopping: asyncio.Event, rests: Rests, message: Message, milliseconds: int) -> None:
    """Let time pass, unless the server stops."""
    if milliseconds <= 0:
        return
    tasks = [asyncio.ensure_future(pause(env, milliseconds / 1000)), asyncio.ensure_future(stopping.wait())]
    try:
        with rests(message.place):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    if stopping.is_set():
        raise StoppedError("the server stopped while the message waited for its next attempt")


async def _tell(
    workflow: DeliveryWorkflow, callback: Callback, message: Message, answer: Answer, retried: int, what: str
) -> None:
    """Have a callback be delivered: its message is created by the decision that records the attempt."""
    run = replay_or_raise("a callback").run
    telling = callback_of(
        callback,
        message,
        answer,
        message_id=message_id_of(run.id),
        retried=retried,
        now=_now(),
        is_failure=what == "failure",
    )
    run_id = f"msg_{digest(f'{run.id}/{run.incarnation}/{what}/{retried}')}"
    await flow.start(workflow, telling, id=run_id, is_detached=True)


def _now() -> int:
    return round(asyncio.get_running_loop().time() * 1000)


# What is tried again within a second keeps its lease, and so its place in the queue.
_RETRY = Retry(
    delay=1,
    backoff="constant",
    by_error={
        StoppedError: Retry(attempts=STOPS, delay=0),
        StoreError: Retry(attempts=STOPS, delay=1, backoff="constant"),
    },
)
