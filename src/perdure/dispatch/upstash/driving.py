"""The code of a run of the protocol: it delivers entries to the endpoint, and takes in what is handed in.

Nothing is decided by what an endpoint answers but that a delivery is done. What it has to say comes as events, of
which each makes an entry, and each entry a delivery; so the run's journal holds the entries, and what came of attempts.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.authoring import flow
from perdure.authoring.context import replay_or_raise
from perdure.authoring.workflow import Workflow
from perdure.core.ask import ChildSpec
from perdure.dispatch.messages.delivery import (
    DeliveryFailedError,
    DeliveryWorkflow,
    Send,
    callback_of,
    told_of,
    wait_before,
)
from perdure.dispatch.messages.message import FLOWS, QUEUE, RETRIES, Answer, Callback, Message, text_or_base64
from perdure.dispatch.messages.outbox import RETENTION
from perdure.dispatch.upstash.ledger import EXPIRY, INVOKED, Ledger, ledger_of
from perdure.dispatch.upstash.submission import (
    ATTEMPT,
    DETECTION,
    EVENT,
    VERSION,
    WORKFLOW,
    Again,
    Asked,
    Call,
    Finish,
    Finished,
    Invoke,
    Submission,
    Trigger,
    Wait,
    merged,
    message_id_of,
)
from perdure.model import failure
from perdure.model.errors import ChildFailedError, NestingTooDeepError
from perdure.store.contract import Store

GRACE = 10.0
"""For how many seconds a run that is over lets requests come to their end that are under way."""

BODY_BYTES = 4_000_000
"""How long the list of entries of a delivery may be; where it is longer, an endpoint that can fetches it itself."""

NO_ENDPOINT = (
    "detected a non-workflow destination for trigger/invoke. "
    "make sure you are sending the request to the correct endpoint"
)

OLD_CLIENT = "the endpoint's SDK is too old for this: it does not trigger a run that it is sent (@upstash/workflow 0.x)"

_SDK = "upstash-workflow-sdk"


class RunWorkflow(Workflow[..., Any]):
    """The workflow of runs of the protocol; as a child, each has the tags that a triggered one has."""

    def child(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int, **options: Any) -> ChildSpec:
        """Return what starts an invoked run."""
        trigger: Trigger = args[0]
        wait = max(0, trigger.message.not_before - trigger.message.published_at)
        return super().child(args, kwargs, limit, **{**options, "tags": tags_of(trigger), "delay_ms": wait})


class Programs:
    """The workflows that a worker needs for the protocol.

    Args:
        send: makes attempts.
        told: the workflow of messages, which failure callbacks are.
        store: where the journals are.

    Attributes:
        run: the workflow of runs.
        attempt: the workflow of attempts under a flow-control key.
        told: see above.
        send: see above.
    """

    def __init__(self, send: Send, told: DeliveryWorkflow, store: Store) -> None:
        self.send = send
        self.told = told
        self._store = store

        async def run(trigger: Trigger) -> Finished:
            return await Driver(self, trigger).run()

        async def attempt(asked: Asked) -> Answer:
            return await flow.do("attempt", self._attempt, asked)

        names = {"Trigger": Trigger, "Finished": Finished, "Asked": Asked, "Answer": Answer}
        self.run = RunWorkflow(run, name=WORKFLOW, queue=QUEUE, local_names=names, retention=RETENTION)
        self.attempt: Workflow[..., Answer] = Workflow(
            attempt, name=ATTEMPT, queue=FLOWS, local_names=names, retention=RETENTION
        )

    @property
    def workflows(self) -> tuple[Workflow[..., Any], ...]:
        """Return what a worker has to know."""
        return self.run, self.attempt

    async def _attempt(self, asked: Asked) -> Answer:
        message = asked.message
        if asked.run_id:
            ledger = ledger_of(await self._store.journal(asked.run_id))
            message = with_entries(message, ledger, asked.index)
        return await self.send(message, asked.message_id, asked.retried, is_due=asked.is_due)


class Sent(NamedTuple):
    """What came of the last attempt, and how many retries it took."""

    answer: Answer
    retried: int


class Driver:
    """One turn of a run's code.

    Args:
        programs: the workflows.
        trigger: what the run begins with.
    """

    def __init__(self, programs: Programs, trigger: Trigger) -> None:
        self._programs = programs
        self._trigger = trigger
        self._run = replay_or_raise("a workflow run").run
        self._ledger = Ledger(trigger, now())
        self._over: asyncio.Future[Finished | Trigger] = asyncio.get_running_loop().create_future()
        self._sending: set[asyncio.Task[Any]] = set()
        self._timers: dict[int, asyncio.Task[Any]] = {}
        self._is_over = False

    async def run(self) -> Finished:
        """Carry the run out.

        Raises:
            DeliveryFailedError: a delivery failed for good; whoever is to be told of it is.
        """
        for index in self._ledger.unfinished():
            self._spawn(self._deliver(index, self._trigger.message, self._message_id(index)))
        self._spawn(self._listen())
        try:
            end = await self._over
        except _FailedError as failed:
            await self._wind_down()
            await self._tell_of(failed)
            raise DeliveryFailedError(failed.told, failed.answer.status) from None
        await self._wind_down()
        if isinstance(end, Trigger):
            await flow.continue_as_new(end)
        assert isinstance(end, Finished)
        return end

    # What is handed in.

    async def _listen(self) -> None:
        while True:
            given = await flow.wait_for_event("message", type=EVENT, timeout=None, into=Submission)  # type: ignore[call-overload]  # a union
            if not self._is_over:
                self._take(given)

    def _take(self, given: Any) -> None:
        waiting = set(self._timers)
        is_first = not isinstance(given, Call | Invoke) or not (
            given.step_id in self._ledger.calls or given.step_id in self._ledger.invokes
        )
        made = self._ledger.take(given)
        self._deliver_all(made, given)
        for step_id in waiting:
            if not self._ledger.is_waiting(step_id):
                self._timers.pop(step_id).cancel()
        if isinstance(given, Call) and is_first:
            self._spawn(self._call(given))
        elif isinstance(given, Invoke) and is_first:
            self._spawn(self._invoke(given))
        elif isinstance(given, Wait) and self._ledger.is_waiting(given.step_id) and given.step_id not in self._timers:
            self._timers[given.step_id] = self._spawn(self._expire(given))
        elif isinstance(given, Finish):
            self._end(Finished(given.response))
        elif isinstance(given, Again):
            self._end(given.trigger)

    def _deliver_all(self, indices: list[int], given: Any) -> None:
        for index in indices:
            source = self._ledger.entries[index].source
            if isinstance(source, Wait):
                message = source.late if self._ledger.entries[index].is_late else source.message
            else:
                message = source.message
            due_at = getattr(given, "due_at", 0)
            self._spawn(self._deliver(index, message, self._message_id(index), due_at))

    async def _expire(self, wait: Wait) -> None:
        await flow.sleep(max(0, wait.deadline - now()) / 1000, name=f"{EXPIRY} {wait.step_id}")
        self._timers.pop(wait.step_id, None)
        self._deliver_all(self._ledger.expire(wait.step_id), None)

    async def _invoke(self, invoke: Invoke) -> None:
        replay = replay_or_raise("an invoked run")
        limit = replay.limits.payload_bytes
        payload: str | None = None
        error: str | None = None
        try:
            spec = self._programs.run.child((invoke.trigger,), {}, limit, run_id=invoke.run_id, is_detached=True)
            child: flow.Child[Finished] = flow.Child(replay, replay.ask_child(spec, name=f"{INVOKED} {invoke.step_id}"))
        except NestingTooDeepError:
            sent = Sent(Answer(0, error="too many runs invoke one another (Limits.nesting)"), 0)
            self._end(_FailedError(self._trigger.message, sent, invoke.message_id))
            return
        try:
            payload = msgspec.json.encode(await child.result()).decode()
        except ChildFailedError as failed:
            error = failure.describe(failed.__cause__ or failed).type
        if not self._is_over:
            self._deliver_all(self._ledger.child_ended(invoke.step_id, payload, error), None)

    # What is sent.

    async def _deliver(self, index: int, message: Message, message_id: str, due_at: int = 0) -> None:
        """Deliver an entry, with all before it, until the endpoint takes it."""
        if due_at > now():
            await flow.sleep((due_at - now()) / 1000, name=f"delay {index}")
        message = self._to_endpoint(message, is_list=True)
        sent = await self._send(f"deliver {index}", message, message_id, index)
        if sent is None:
            return
        if sent.answer.is_delivered:
            if index == 0 and (told := self._not_an_endpoint(sent.answer)):
                self._end(_FailedError(message, sent, message_id, told))
        elif not self._ledger.is_behind(index):
            self._end(_FailedError(message, sent, message_id))

    async def _call(self, call: Call) -> None:
        """Have a third party asked, and tell the endpoint of the last answer: of others it would not make a step."""
        message = call.message
        sent = await self._send(f"call {call.step_id}", message, call.message_id, None)
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
        sent = await self._send(f"callback {call.step_id}", told, message_id, None, call.step_id)
        if sent is None or sent.answer.is_delivered or self._ledger.has_result(call.step_id):
            return
        self._end(_FailedError(told, sent, message_id))

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
            answer = await self._attempt(name, message, message_id, index, retried, is_due=False)
            if answer.held_back:
                await flow.sleep(answer.held_back / 1000, name=f"held back {name}")
                answer = await self._attempt(name, message, message_id, index, retried, is_due=True)
            if self._is_over:
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
        self, name: str, message: Message, message_id: str, index: int | None, retried: int, *, is_due: bool
    ) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        try:
            if message.flow_control is not None:
                return await self._attempt_in_turn(name, message, message_id, index, retried, is_due=is_due)
            if index is not None:
                message = with_entries(message, self._ledger, index)
            return await flow.do(name, self._once, message, message_id, retried, is_due)
        finally:
            self._sending.discard(task)

    async def _once(self, message: Message, message_id: str, retried: int, is_due: bool) -> Answer:
        return await self._programs.send(message, message_id, retried, is_due=is_due)

    async def _attempt_in_turn(
        self, name: str, message: Message, message_id: str, index: int | None, retried: int, *, is_due: bool
    ) -> Answer:
        """Make an attempt when its flow-control key lets it: as a run, since that is what is counted."""
        assert message.flow_control is not None
        run_id = "" if index is None else self._run.id
        asked = Asked(message, message_id, retried, message.flow_control, run_id, index or 0, is_due)
        replay = replay_or_raise("an attempt")
        tags = {"flow": message.limit_key}
        spec = self._programs.attempt.child((asked,), {}, replay.limits.payload_bytes, tags=tags)
        spec = dataclasses.replace(spec, limit_key=message.limit_key)
        child: flow.Child[Answer] = flow.Child(replay, replay.ask_child(spec, name=name))
        return await child.result()

    # How it ends.

    def _end(self, end: Finished | Trigger | _FailedError) -> None:
        if self._is_over:
            return
        self._is_over = True
        if isinstance(end, _FailedError):
            self._over.set_exception(end)
        else:
            self._over.set_result(end)

    async def _wind_down(self) -> None:
        """Let requests come to their end that are under way: an endpoint ends its run from within one."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=GRACE)

    async def _tell_of(self, failed: _FailedError) -> None:
        """Have the failure callback be delivered, in the decision that the run fails with."""
        config = self._trigger.message if self._trigger.is_of_all else failed.message
        callback = config.failure_callback or self._trigger.message.failure_callback
        if callback is None:
            return
        told = self.failure_message(callback, failed)
        run_id = failure_callback_id(self._run.id, self._run.incarnation)
        await flow.start(self._programs.told, told, id=run_id, is_detached=True)

    def failure_message(self, callback: Callback, failed: _FailedError) -> Message:
        """Return the message that tells of the run's failure."""
        initial = self._ledger.entries[0].entry
        source = replace(failed.message, body=None, body_base64=None)
        told = callback_of(
            callback,
            source,
            _as_json(failed.answer, failed.told),
            message_id=failed.message_id,
            retried=failed.retried,
            now=now(),
            is_failure=True,
        )
        body = msgspec.json.decode(told.content)
        body |= {
            "sourceBody": initial.body,
            "workflowRunId": self._run.id,
            "workflowCreatedAt": self._run.created_at,
            "dlqId": self._run.id,
        }
        text, encoded = text_or_base64(msgspec.json.encode(body))
        told = self._to_endpoint(told, is_list=False, has_config=True)
        return replace(told, body=text, body_base64=encoded, labels=self._trigger.message.labels)

    # Inside.

    def _to_endpoint(self, message: Message, *, is_list: bool, has_config: bool = False) -> Message:
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
            failure_callback=None if has_config else message.failure_callback,
            labels=message.labels or trigger.labels,
        )
        if has_config or not self._trigger.is_of_all:
            return found
        return replace(
            found, retries=trigger.retries, retry_delay=trigger.retry_delay, flow_control=trigger.flow_control
        )

    def _message_id(self, index: int) -> str:
        return self._ledger.entries[index].entry.message_id

    def _not_an_endpoint(self, answer: Answer) -> str:
        """Return why the first answer shows that there is no endpoint of the protocol; empty where it does not."""
        names = {name.lower() for name, _ in answer.headers}
        if self._trigger.is_unknown and _SDK not in names:
            return OLD_CLIENT if VERSION in names else NO_ENDPOINT
        return NO_ENDPOINT if DETECTION in self._trigger.features and VERSION not in names else ""

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._over.done():
            self._is_over = True
            self._over.set_exception(error)


class _FailedError(Exception):
    """A delivery failed for good."""

    def __init__(self, message: Message, sent: Sent, message_id: str, told: str = "") -> None:
        super().__init__(told)
        self.message = message
        self.answer, self.retried = sent
        self.message_id = message_id
        self.told = told or told_of(sent.answer)


def failure_callback_id(run_id: str, incarnation: int = 0) -> str:
    """Return the id of the message that tells of a run's failure."""
    return message_id_of(run_id, f"failure {incarnation}" if incarnation else "failure")


def tags_of(trigger: Trigger) -> dict[str, str]:
    """Return what a run is found by."""
    return {**replace(trigger.message, url=trigger.url).tags(), "kind": "workflow"}


def with_entries(message: Message, ledger: Ledger, index: int) -> Message:
    """Return a message that carries the entries of a run, up to one of them.

    They stand in for themselves where they are too long and the endpoint fetches what it is not sent.
    """
    body = ledger.body_of(index)
    if len(body) > BODY_BYTES and ledger.trigger.is_of_all:
        return replace(message, body=None, body_base64=None)
    return replace(message, body=body, body_base64=None)


def now() -> int:
    """Return the present, in workflow code, in milliseconds since the epoch."""
    return round(asyncio.get_running_loop().time() * 1000)


def _as_json(answer: Answer, told: str) -> Answer:
    """Return an answer whose body endpoints can read: they fail over a failure that is told of in anything but JSON."""
    if answer.status:
        try:
            msgspec.json.decode(answer.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        else:
            return answer
    text = answer.body or told
    body = msgspec.json.encode({"error": "Error", "message": text}).decode()
    return replace(answer, body=body, body_base64=None)
