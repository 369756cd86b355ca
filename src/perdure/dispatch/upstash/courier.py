"""What a run sends: entries to its endpoint, requests to third parties, and what tells of its failure."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.authoring import flow
from perdure.authoring.context import replay_or_raise
from perdure.authoring.workflow import Workflow
from perdure.dispatch.messages.delivery import CALLBACK_LENGTH, Send, callback_of, told_of, wait_before
from perdure.dispatch.messages.message import RETRIES, Answer, Callback, Message, text_or_base64
from perdure.dispatch.upstash.ledger import Ledger, named
from perdure.dispatch.upstash.submission import (
    DETECTION,
    VERSION,
    Asked,
    Call,
    Trigger,
    merged,
    message_id_of,
)
from perdure.model.errors import ChildFailedError
from perdure.model.run import Run

BODY_BYTES = 4_000_000
"""How long the list of entries of a delivery may be; where it is longer, an endpoint that can fetches it itself."""

NO_ENDPOINT = (
    "detected a non-workflow destination for trigger/invoke. "
    "make sure you are sending the request to the correct endpoint"
)

OLD_CLIENT = "the endpoint's SDK is too old for this: it does not trigger a run that it is sent (@upstash/workflow 0.x)"

_SDK = "upstash-workflow-sdk"


class Sent(NamedTuple):
    """What came of the last attempt, and how many retries it took."""

    answer: Answer
    retried: int


class FailedError(Exception):
    """A delivery failed for good, and the run with it.

    Args:
        message: what was sent.
        sent: what came of it.
        message_id: its id.
        told: why, if that is not what came of it.
    """

    def __init__(self, message: Message, sent: Sent, message_id: str, told: str = "") -> None:
        super().__init__(told)
        self.message = message
        self.answer, self.retried = sent
        self.message_id = message_id
        self.told = told or told_of(sent.answer)


class Courier:
    """Sends what a run has to send.

    Args:
        send: makes attempts.
        in_turn: the workflow of attempts under a flow-control key.
        trigger: what the run began with.
        ledger: what it has come to.
        run: the run.

    Attributes:
        under_way: the tasks whose request is under way.
        is_over: nothing more is to be sent.
    """

    def __init__(self, send: Send, in_turn: Workflow[..., Answer], trigger: Trigger, ledger: Ledger, run: Run) -> None:
        self._send_once = send
        self._in_turn = in_turn
        self._trigger = trigger
        self._ledger = ledger
        self._run = run
        self.under_way: set[asyncio.Task[Any]] = set()
        self.is_over = False

    async def deliver(self, index: int, message: Message, message_id: str) -> None:
        """Deliver an entry, with all before it, until the endpoint takes it.

        Raises:
            FailedError: it does not, or it is none.
        """
        message = self._to_endpoint(message, is_list=True)
        if self._ledger.length_of(index) > BODY_BYTES and not self._trigger.is_of_all:
            told = f"the run's steps are longer than {BODY_BYTES:,} bytes (BODY_BYTES), and this SDK fetches none"
            raise FailedError(message, Sent(Answer(0, error=told), 0), message_id)
        sent = await self._send(self._ledger.name_of(index), message, message_id, index)
        if sent is None:
            return
        if sent.answer.is_delivered:
            if index == 0 and (told := self._not_an_endpoint(sent.answer)):
                raise FailedError(message, sent, message_id, told)
        elif not self._ledger.is_behind(index):
            raise FailedError(message, sent, message_id)

    async def call(self, call: Call) -> None:
        """Have a third party asked, and tell the endpoint of the last answer: of others it would not make a step.

        Raises:
            FailedError: the endpoint does not take that.
        """
        message = call.message
        sent = await self._send(named("call", call.step_id, call.name), message, call.message_id, None)
        if sent is None or message.callback is None:
            return
        told = callback_of(
            message.callback,
            replace(message, retries=sent.retried),  # an endpoint believes an answer only if no retry is to follow
            sent.answer,
            message_id=call.message_id,
            retried=sent.retried,
            now=now(),
            is_failure=False,
        )
        has_retries = any(name.lower() == "upstash-retries" for name, _ in message.callback.options)
        told = self._to_endpoint(told if has_retries else replace(told, retries=RETRIES), is_list=False)
        message_id = message_id_of(self._run.id, f"callback {call.step_id}")
        name = named("callback", call.step_id, call.name)
        sent = await self._send(name, told, message_id, None, call.step_id)
        if sent is not None and not sent.answer.is_delivered and not self._ledger.has_result(call.step_id):
            raise FailedError(told, sent, message_id)

    def failure_message(self, failed: FailedError) -> Message | None:
        """Return the message that tells of the run's failure; None where nobody is to be told."""
        config = self._trigger.message if self._trigger.is_of_all else failed.message
        callback: Callback | None = config.failure_callback or self._trigger.message.failure_callback
        if callback is None:
            return None
        told = callback_of(
            callback,
            replace(failed.message, body=None, body_base64=None, redacted=self._trigger.message.redacted),
            _as_json(failed.answer, failed.told),
            message_id=failed.message_id,
            retried=failed.retried,
            now=now(),
            is_failure=True,
        )
        body = msgspec.json.decode(told.content)
        initial = self._ledger.entries[0].entry.body
        if len(told.content) + len(initial) <= CALLBACK_LENGTH:
            body["sourceBody"] = initial
        body |= {
            "workflowRunId": self._run.id,
            "workflowCreatedAt": self._run.created_at,
            "dlqId": self._run.id,
        }
        text, encoded = text_or_base64(msgspec.json.encode(body))
        told = self._to_endpoint(told, is_list=False, is_failure=True)
        return replace(told, body=text, body_base64=encoded)

    async def _send(
        self, name: str, message: Message, message_id: str, index: int | None, step_id: int | None = None
    ) -> Sent | None:
        """Make attempts until one is good, or there are to be no more; return what came of the last.

        Args:
            name: of the attempts, in the journal.
            message: what is sent.
            message_id: its id.
            index: the last of the entries that it carries; None for a body of its own.
            step_id: of the step whose result makes it needless.

        Returns:
            None if the run is over meanwhile, or what it is for has happened.
        """
        retried = 0
        while True:
            held = 0
            while (answer := await self._attempt(name, message, message_id, index, retried, held)).held_back:
                held += 1
                await flow.sleep(answer.held_back / 1000, name=f"held back {name}")
            if self.is_over:
                return None
            if answer.is_delivered or answer.is_final or retried >= message.retries:
                return Sent(answer, retried)
            await flow.sleep(wait_before(message, answer, retried) / 1000, name=f"retry {name}")
            retried += 1
            if index is not None and self._ledger.is_behind(index):
                return None
            if step_id is not None and self._ledger.has_result(step_id):
                return None

    async def _attempt(
        self, name: str, message: Message, message_id: str, index: int | None, retried: int, held: int
    ) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        self.under_way.add(task)
        try:
            if message.flow_control is not None:
                return await self._attempt_in_turn(name, message, message_id, index, retried, held)
            return await flow.do(name, self._once, message, message_id, index, retried, held)
        finally:
            self.under_way.discard(task)

    async def _once(self, message: Message, message_id: str, index: int | None, retried: int, held: int) -> Answer:
        if index is not None:  # here, since a replay sends nothing, and would write all entries for each
            message = with_entries(message, self._ledger, index)
        return await self._send_once(message, message_id, retried, held=held)

    async def _attempt_in_turn(
        self, name: str, message: Message, message_id: str, index: int | None, retried: int, held: int
    ) -> Answer:
        """Make an attempt when its flow-control key lets it: as a run, since that is what is counted."""
        run_id = "" if index is None else self._run.id
        asked = Asked(message, message_id, retried, run_id, index or 0, held)
        replay = replay_or_raise("an attempt")
        spec = self._in_turn.child((asked,), {}, replay.limits.payload_bytes, tags={"flow": message.limit_key})
        spec = dataclasses.replace(spec, limit_key=message.limit_key)
        child: flow.Child[Answer] = flow.Child(replay, replay.ask_child(spec, name=name))
        try:
            return await child.result()
        except ChildFailedError as error:
            return Answer(0, error=str(error)[:500])

    def _to_endpoint(self, message: Message, *, is_list: bool, is_failure: bool = False) -> Message:
        """Return a message as the endpoint gets it: with what the trigger says of all, and the headers of the run."""
        trigger = self._trigger.message
        extra = [
            ("Upstash-Workflow-RunId", self._run.id),
            ("Upstash-Workflow-Url", self._trigger.url),
            ("Upstash-Workflow-Init", "false"),
            ("Upstash-Workflow-CreatedAt", str(self._run.created_at)),
        ]
        if self._trigger.is_unknown:
            extra.append(("Upstash-Workflow-Unknown-Sdk", "true"))
        found = replace(
            message,
            url=message.url or self._trigger.url,
            method="POST",
            headers=merged(trigger.headers, message.headers, is_list=is_list),
            extra=extra,
            callback=None,
            failure_callback=None if is_failure else message.failure_callback,
            labels=message.labels or trigger.labels,
        )
        if is_failure or not self._trigger.is_of_all:
            return found
        return replace(
            found, retries=trigger.retries, retry_delay=trigger.retry_delay, flow_control=trigger.flow_control
        )

    def _not_an_endpoint(self, answer: Answer) -> str:
        """Return why the first answer shows that there is no endpoint of the protocol; empty where it does not."""
        names = {name.lower() for name, _ in answer.headers}
        if self._trigger.is_unknown and _SDK not in names:
            return OLD_CLIENT if VERSION in names else NO_ENDPOINT
        return NO_ENDPOINT if DETECTION in self._trigger.features and VERSION not in names else ""


def with_entries(message: Message, ledger: Ledger, index: int) -> Message:
    """Return a message that carries the entries of a run, up to one of them, or nothing where they are too long."""
    if ledger.length_of(index) > BODY_BYTES:
        return replace(message, body=None, body_base64=None)
    return replace(message, body=ledger.body_of(index), body_base64=None)


def now() -> int:
    """Return the present, in workflow code, in milliseconds since the epoch."""
    return round(asyncio.get_running_loop().time() * 1000)


def _as_json(answer: Answer, told: str) -> Answer:
    """Return an answer whose body endpoints can read: they fail over a failure that is told of in anything but JSON."""
    if answer.status:
        try:
            msgspec.json.decode(answer.content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return answer
    body = msgspec.json.encode({"error": "Error", "message": answer.body or told}).decode()
    return replace(answer, body=body, body_base64=None)
