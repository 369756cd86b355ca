"""The code of a run of the protocol: it delivers entries to the endpoint, and takes in what is handed in.

Nothing is decided by what an endpoint answers but that a delivery is done. What it has to say comes as events, of
which each makes an entry, and each entry a delivery; so the run's journal holds the entries, and what came of attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.authoring import flow
from perdure.authoring.context import replay_or_raise
from perdure.authoring.workflow import Workflow
from perdure.core.ask import ChildSpec
from perdure.dispatch.messages.delivery import DeliveryFailedError, DeliveryWorkflow, Send
from perdure.dispatch.messages.message import FLOWS, QUEUE, Answer
from perdure.dispatch.messages.outbox import RETENTION
from perdure.dispatch.upstash.courier import Courier, FailedError, Sent, now, with_entries
from perdure.dispatch.upstash.ledger import EXPIRY, INVOKED, Ledger, ledger_of, named
from perdure.dispatch.upstash.submission import (
    ATTEMPT,
    EVENT,
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
    failure_id_of,
    fields_of,
)
from perdure.model import failure
from perdure.model.errors import ChildFailedError
from perdure.model.run import Retention
from perdure.store.contract import Store

GRACE = 10.0
"""For how many seconds a run that is over lets requests come to their end that are under way."""

ATTEMPTS_KEPT = Retention.of("1 hour", "1 day", "1 hour")
"""How long attempts under a flow-control key are kept as runs; what came of them is in the journal of their run."""

QUIET = 900.0
"""After how many seconds a run fails whose endpoint has taken everything, and has handed in nothing to go on with."""

SOON = 0.9
"""For how many seconds a run expects at first to be told more: one that waits for so short a time stays in memory.

What an endpoint hands in comes about when its answer does. A run that is released then is replayed at once.
"""

_SUBMISSION: Any = Submission  # a union, which type checkers do not take for a type to read as

_QUIET = (
    "the endpoint took the last delivery, but handed in no step, and did not end the run: that happens where it cannot "
    "reach QSTASH_URL, or answers without its SDK"
)


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
        told, send: see above.
    """

    def __init__(self, send: Send, told: DeliveryWorkflow, store: Store) -> None:
        self.send = send
        self.told = told
        self._store = store

        async def run(trigger: Trigger) -> Finished:
            return await _Driver(self, trigger).run()

        async def attempt(asked: Asked) -> Answer:
            return await flow.do("attempt", self._attempt, asked)

        names = {"Trigger": Trigger, "Finished": Finished, "Asked": Asked, "Answer": Answer}
        self.run = RunWorkflow(run, name=WORKFLOW, queue=QUEUE, local_names=names, retention=RETENTION)
        self.attempt: Workflow[..., Answer] = Workflow(
            attempt, name=ATTEMPT, queue=FLOWS, local_names=names, retention=ATTEMPTS_KEPT
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
        return await self.send(message, asked.message_id, asked.retried, held=asked.held)


class _Driver:
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
        self._courier = Courier(programs.send, programs.attempt, trigger, self._ledger, self._run)
        self._over: asyncio.Future[Finished | Trigger] = asyncio.get_running_loop().create_future()
        self._timers: dict[int, asyncio.Task[None]] = {}
        self._active: set[asyncio.Task[None]] = set()
        self._quiet: asyncio.Task[None] | None = None

    async def run(self) -> Finished:
        """Carry the run out.

        Raises:
            DeliveryFailedError: a delivery failed for good; whoever is to be told of it is.
        """
        for index in self._ledger.unfinished():
            self._spawn(self._deliver(index))
        listening = asyncio.get_running_loop().create_task(self._listen())
        listening.add_done_callback(self._ended)
        try:
            end = await self._over
        except FailedError as failed:
            await self._wind_down()
            if (told := self._courier.failure_message(failed)) is not None:
                await flow.start(self._programs.told, told, id=failure_id_of(self._run), is_detached=True)
            raise DeliveryFailedError(failed.told, failed.answer.status) from None
        await self._wind_down()
        if isinstance(end, Trigger):
            await flow.continue_as_new(end)
        assert isinstance(end, Finished)
        return end

    # What is handed in.

    async def _listen(self) -> None:
        while True:
            given = await flow.wait_for_event("message", type=EVENT, timeout=None, into=_SUBMISSION)
            if not self._courier.is_over:
                self._take(given)

    def _take(self, given: Any) -> None:
        known = self._ledger.calls, self._ledger.invokes
        is_known = isinstance(given, Call | Invoke) and any(given.step_id in each for each in known)
        self._deliver_all(self._ledger.take(given), getattr(given, "due_at", 0))
        for step_id in [each for each in self._timers if not self._ledger.is_waiting(each)]:
            self._timers.pop(step_id).cancel()
        if isinstance(given, Call) and not is_known:
            self._spawn(self._courier.call(given))
        elif isinstance(given, Invoke) and not is_known:
            self._spawn(self._invoke(given))
        elif isinstance(given, Wait) and self._ledger.is_waiting(given.step_id) and given.step_id not in self._timers:
            self._timers[given.step_id] = self._spawn(self._expire(given))
        elif isinstance(given, Finish):
            self._end(Finished(given.response))
        elif isinstance(given, Again) and self._trigger.is_unknown:
            self._end(given.trigger)

    def _deliver_all(self, indices: list[int], due_at: int = 0) -> None:
        for index in indices:
            self._spawn(self._deliver(index, due_at))

    async def _deliver(self, index: int, due_at: int = 0) -> None:
        if due_at > now():
            await flow.sleep((due_at - now()) / 1000, name=f"delay {index}")
        noted = self._ledger.entries[index]
        source = noted.source
        message = source.late if isinstance(source, Wait) and noted.is_late else source.message
        await self._courier.deliver(index, message, noted.entry.message_id)

    async def _expire(self, wait: Wait) -> None:
        await flow.sleep(max(0, wait.deadline - now()) / 1000, name=named(EXPIRY, wait.step_id, wait.event_id))
        self._timers.pop(wait.step_id, None)
        self._deliver_all(self._ledger.expire(wait.step_id))

    async def _invoke(self, invoke: Invoke) -> None:
        replay = replay_or_raise("an invoked run")
        limit = replay.limits.payload_bytes
        spec = self._programs.run.child((invoke.trigger,), {}, limit, run_id=invoke.run_id, is_detached=True)
        name = fields_of(invoke.step, "invoke.step").step_name
        child: flow.Child[Finished] = flow.Child(
            replay, replay.ask_child(spec, name=named(INVOKED, invoke.step_id, name))
        )
        payload = error = None
        try:
            payload = msgspec.json.encode(await child.result()).decode()
        except ChildFailedError as failed:
            error = failure.describe(failed.__cause__ or failed).type
        if not self._courier.is_over:
            self._deliver_all(self._ledger.child_ended(invoke.step_id, payload, error))

    # How it ends.

    def _end(self, end: Finished | Trigger | Exception) -> None:
        if self._courier.is_over:
            return
        self._courier.is_over = True
        if not isinstance(end, Exception):
            self._over.set_result(end)
        elif isinstance(end, FailedError):
            self._over.set_exception(end)
        else:
            sent = Sent(Answer(0, error=f"{type(end).__name__}: {end}"[:500]), 0)
            self._over.set_exception(FailedError(self._trigger.message, sent, self._trigger.message_id))

    async def _wind_down(self) -> None:
        """Let requests come to their end that are under way: an endpoint ends its run from within one."""
        if self._courier.under_way:
            await asyncio.wait(self._courier.under_way, timeout=GRACE)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        task = asyncio.get_running_loop().create_task(coroutine)
        self._active.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._end(error)
        elif not self._active and not self._courier.is_over and self._quiet is None:
            self._quiet = asyncio.get_running_loop().create_task(self._give_up())

    async def _give_up(self) -> None:
        await flow.sleep(SOON, name="soon")
        await flow.sleep(QUIET - SOON, name="quiet")
        self._end(FailedError(self._trigger.message, Sent(Answer(0, error=_QUIET), 0), self._trigger.message_id))


def tags_of(trigger: Trigger) -> dict[str, str]:
    """Return what a run is found by."""
    return replace(trigger.message, url=trigger.url).tags()
