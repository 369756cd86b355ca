"""What can be done to runs, over any store: the verbs behind `Perdure` and its run handles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.authoring.registry import Registry
from perdure.core.saga import CANCEL, DECISION, RESERVED
from perdure.core.undos import undos_of
from perdure.engine.batch import Batch
from perdure.engine.client.controlling import act
from perdure.engine.client.starting import Announced
from perdure.engine.ending import End, Ending, Endings, end_of, not_found
from perdure.engine.env import Env, new_id
from perdure.engine.lifecycle import lifecycle_of
from perdure.engine.settings import Settings
from perdure.engine.telemetry import Watchers, trace_here, traced
from perdure.engine.triggers.events import Started, emit
from perdure.engine.worker.worker import Worker
from perdure.model import codec
from perdure.model.decision import Action, Control, Controlled, Message, Posted, RunFilter, RunPage
from perdure.model.errors import InboxFullError, RunExistsError, RunFinishedError, StoreError, UsageError
from perdure.model.limits import NAME_LENGTH, START_BATCH
from perdure.model.record import Record
from perdure.model.run import Created, NewRun, Run, RunStatus
from perdure.store.contract import Store

LOOK_UP_EVERY = 1.0
"""Seconds between two look-ups of awaited runs that other processes work on, when no hint comes before."""

LOOK_UP_SELDOM = 5.0
"""To how many seconds that grows while nothing changes."""

LOOK_UP_COST = 20
"""How many times longer than a look-up took the next one is put off, so that waiting never becomes the load."""

LOOK_UP_BATCH = 500

_log = logging.getLogger("perdure.engine")


class Client:
    """The verbs on one store.

    Args:
        store: where the runs are.
        registry: the workflows that this application knows.
        settings, env: of the engine.
        worker: the worker of this process, which begins runs that are started here without a detour; None for none.

    Attributes:
        watchers: who knows which trace the running code belongs to; None for nobody.
    """

    def __init__(self, store: Store, registry: Registry, settings: Settings, env: Env, endings: Endings) -> None:
        self.store = store
        self.registry = registry
        self.settings = settings
        self.env = env
        self.endings = endings
        self.lifecycle = lifecycle_of(registry.triggers, settings, env)
        self.watchers: Watchers | None = None
        self._worker: Worker | None = None
        self.announced = Announced(store, registry, env)
        self._creates: Batch[NewRun, Created] = Batch(store.create, env, insists=False, at_once=store.writes_at_once)
        self._posts: Batch[Message, Posted] = Batch(self._post, env, insists=False)
        self._controls: Batch[Control, Controlled] = Batch(self._control, env, insists=False)
        self._gets: Batch[str, Run | None] = Batch(store.get, env, insists=False)
        self._looker: asyncio.Task[None] | None = None

    @property
    def worker(self) -> Worker | None:
        """See the class."""
        return self._worker

    @worker.setter
    def worker(self, worker: Worker | None) -> None:
        self._worker = worker
        if worker is not None:
            worker.client = self

    async def close(self) -> None:
        """Finish what was asked for, and let nobody wait for results any longer."""
        self.endings.close()
        if self.lifecycle is not None:
            await self.lifecycle.close()
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.gather(self._looker, return_exceptions=True)
        for batch in (self._creates, self._posts, self._controls, self._gets):
            await batch.close()

    def new_id(self) -> str:
        """Return an id for a new run."""
        return new_id(self.env)

    # Starting.

    async def create(self, new: NewRun, tx: Any = None) -> tuple[Ending, Created]:
        """Create a run, or find the one that was started with the same id and input, or stands for it.

        Args:
            new: the run.
            tx: a connection in whose open transaction it is created; None for one of the store's own.

        Raises:
            RunExistsError: a run of that id was started with something else.
        """
        new = traced(new, self.watchers)
        if tx is not None:
            return (await self._create_in(tx, [new]))[0]
        future: asyncio.Future[Created] = asyncio.get_running_loop().create_future()
        ending = self._create(new, future)
        created = await future
        self._check(created, new)
        return ending if created.id == new.id else self.endings.of(created.id), created

    async def create_many(self, runs: Sequence[NewRun], tx: Any = None) -> list[tuple[Ending, Created]]:
        """Create runs, in batches of `START_BATCH`; see `create`."""
        begun: list[tuple[Ending, Created]] = []
        runs = [traced(new, self.watchers) for new in runs]
        if tx is not None:
            for first in range(0, len(runs), START_BATCH):
                begun += await self._create_in(tx, runs[first : first + START_BATCH])
            return begun
        loop = asyncio.get_running_loop()
        for first in range(0, len(runs), START_BATCH):
            part = runs[first : first + START_BATCH]
            futures: list[asyncio.Future[Created]] = [loop.create_future() for _ in part]
            endings = [self._create(new, future) for new, future in zip(part, futures, strict=True)]
            answers = await asyncio.gather(*futures, return_exceptions=True)  # all, so that no error is left behind
            for new, ending, answer in zip(part, endings, answers, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                self._check(answer, new)
                begun.append((ending if answer.id == new.id else self.endings.of(answer.id), answer))
        return begun

    async def _create_in(self, tx: Any, runs: Sequence[NewRun]) -> list[tuple[Ending, Created]]:
        """Create runs in somebody's own transaction: they are nobody's until it is committed."""
        every = await self.store.create_in(tx, runs)
        for new, created in zip(runs, every, strict=True):
            self._check(created, new)
        return [(self.endings.of(created.id), created) for created in every]

    def _create(self, new: NewRun, future: asyncio.Future[Created]) -> Ending:
        worker = self.worker
        is_ours = worker is not None and new.due_at <= new.created_at and worker.reserve(new)
        if worker is not None and is_ours:
            new = msgspec.structs.replace(new, worker=worker.id, due_at=new.created_at + self.settings.lease_ms)
        ending = self.endings.of(new.id)

        def done(created: Created | None, error: Exception | None) -> None:
            if worker is not None and is_ours:
                loop.call_soon(lambda: worker.created(new, is_ours=created is not None and created.is_leased))
            elif worker is not None:
                worker.claiming.created(new.queue)
            if future.done():
                return
            if created is not None:
                future.set_result(created)
            elif error is not None:
                future.set_exception(error)

        loop = asyncio.get_running_loop()
        self._creates.add(new, done)
        return ending

    def _check(self, created: Created, new: NewRun) -> None:
        if not created.is_new and new.dedup is None and created.fingerprint != new.fingerprint:
            raise RunExistsError(
                f"run {new.id!r} exists with another workflow or another input; "
                "use another id, or give the same input to get the run that is there"
            )

    # Looking.

    async def get(self, run_id: str) -> Run:
        """Return a run as the store has it.

        Raises:
            RunNotFoundError: there is none.
        """
        run = await self._gets.call(run_id)
        if run is None:
            raise not_found(run_id)
        return run

    async def find(self, where: RunFilter, limit: int, cursor: str | None) -> RunPage:
        """Return a page of runs, latest created first."""
        return await self.store.find(where, limit, cursor)

    async def journal(self, run_id: str) -> list[Record]:
        """Return a run's whole journal.

        Raises:
            RunNotFoundError: there is no such run.
        """
        records = await self.store.journal(run_id)
        if not records:
            raise not_found(run_id)
        return records

    async def look_for_end(self, ending: Ending) -> End | None:
        """Return how a run ended, or why it is parked; None when it goes on.

        Raises:
            RunNotFoundError: there is no such run.
        """
        if self.worker is not None and ending.run_id in self.worker.turns:
            ending.keep(None)  # it began anew since
            return None
        kept = ending.take()
        if kept is not None:
            return kept
        return end_of(await self.get(ending.run_id)) or ending.kept()  # which it may have come to meanwhile

    async def wait_for_end(self, ending: Ending) -> End:
        """Wait until a run that was looked for, and goes on, has ended or is parked.

        Raises:
            RunNotFoundError: the run was removed. StoreUnavailableError: the engine was closed.
        """
        if self._looker is None or self._looker.done():
            self._looker = asyncio.get_running_loop().create_task(self._look_up())
        return await self.endings.wait(ending)

    async def _look_up(self) -> None:
        """Look up, now and then, the awaited runs that this process does not work on itself."""
        loop = asyncio.get_running_loop()
        delay, before, hears = LOOK_UP_EVERY, set[str](), False
        while awaited := self.endings.awaited():
            here = self.worker.turns if self.worker is not None else {}
            elsewhere = [run_id for run_id in awaited if run_id not in here]
            began, has_changed = loop.time(), not before.issuperset(elsewhere)
            before = set(elsewhere)
            try:
                if elsewhere and not hears:
                    await self.store.wait(0)  # no hint is lost on a task from its first wait on
                    hears = True
                for first in range(0, len(elsewhere), LOOK_UP_BATCH):
                    part = elsewhere[first : first + LOOK_UP_BATCH]
                    for run_id, run in zip(part, await self.store.get(part), strict=True):
                        has_changed |= self.endings.see(run_id, run)
                await asyncio.sleep(min(LOOK_UP_EVERY, (loop.time() - began) * LOOK_UP_COST))
                if elsewhere:
                    delay = LOOK_UP_EVERY if has_changed else min(2 * delay, LOOK_UP_SELDOM)
                    if await self.store.wait(delay):
                        delay = LOOK_UP_EVERY
                    continue
            except StoreError as error:
                _log.warning("awaited runs could not be looked up, trying again: %s", error)
            await asyncio.sleep(LOOK_UP_EVERY)

    # Telling.

    async def emit(self, event: str, payload: object, event_id: str | None) -> list[Started]:
        """Start every workflow that is subscribed to an event; see `Perdure.emit`."""
        return await emit(self, event, payload, event_id)

    async def send_event(self, run_id: str, kind: str, payload: object, event_id: str | None) -> bool:
        """Put an event into a run's inbox; return False when one of that id was there before.

        Raises:
            RunNotFoundError, RunFinishedError, InboxFullError, UsageError, SerializationError: it was not taken.
        """
        if isinstance(kind, str) and kind.startswith(RESERVED):
            raise UsageError(f"event type {kind!r} begins with {RESERVED!r}, which is kept for Perdure; choose another")
        for field, text in (("type", kind), ("id", event_id)):
            if text is None and field == "id":
                continue
            if not isinstance(text, str) or not 0 < len(text) <= NAME_LENGTH or not text.isprintable():
                raise UsageError(f"event {field} {text!r} must be printable text of 1 to {NAME_LENGTH} characters")
        return await self.tell(run_id, kind, payload, event_id or new_id(self.env))

    async def tell(self, run_id: str, kind: str, payload: object, message_id: str) -> bool:
        """Put a message into a run's inbox; return False when one of that id was there before.

        Raises:
            RunNotFoundError, RunFinishedError, InboxFullError, SerializationError: it was not taken.
        """
        encoded = codec.encode(payload, f"the payload of event {kind!r}", self.settings.limits.payload_bytes)
        message = Message(run_id, message_id, "event", kind, encoded, self.env.now(), ref=trace_here(self.watchers))
        posted = await self._posts.call(message)
        if posted is Posted.NO_RUN:
            raise not_found(run_id)
        if posted is Posted.FINISHED:
            raise RunFinishedError(f"run {run_id!r} has ended and takes no event {kind!r}")
        if posted is Posted.FULL:
            raise InboxFullError(
                f"run {run_id!r} has Limits.inbox_messages = {self.settings.limits.inbox_messages:,} unread messages"
            )
        self.posted([run_id])
        return posted is Posted.NEW

    def posted(self, run_ids: Iterable[str]) -> None:
        """Tell the worker of this process that there are messages for runs."""
        if self.worker is not None:
            for run_id in run_ids:
                self.worker.deliver(run_id)
            self.worker.wake()

    async def turn_back(self, run_id: str) -> RunStatus:
        """Have a run drop its code and undo what it did; return its status.

        Raises:
            RunNotFoundError: there is no such run. RunFinishedError: it has ended.
            UsageError: it is over, and an operator has to decide on its failed undos.
        """
        run = await self.get(run_id)
        if run.status.is_finished:
            raise RunFinishedError(f"run {run_id!r} is {run.status}; only a restart moves it")
        if run.status is RunStatus.COMPENSATION_FAILED:
            raise UsageError(
                f"run {run_id!r} is over, and undos of it failed: retry these or mark them done, or terminate it "
                "without undoing them"
            )
        await self.tell(run_id, CANCEL, None, CANCEL)
        run = await self.get(run_id)  # it may have been paused meanwhile
        if run.status is RunStatus.PAUSED or run.is_pausing:
            return await self.control(run_id, Action.RESUME)
        return run.status

    async def decide_undo(self, run_id: str, key: str | None, decision: dict[str, Any]) -> None:
        """Tell a run what becomes of its failed undos: of the one of `key`, or of all.

        Raises:
            RunNotFoundError: there is no such run. UsageError: none of its undos has failed, or not that one.
        """
        run = await self.get(run_id)
        if run.status is not RunStatus.COMPENSATION_FAILED:
            raise UsageError(f"run {run_id!r} is {run.status}: no failed undo of it waits for a decision")
        failed = [info.key for info in undos_of(await self.journal(run_id)) if info.state == "failed"]
        if key is not None and key not in failed:
            raise UsageError(f"run {run_id!r} has no failed undo {key!r}; failed: {', '.join(failed)}")
        await self.tell(run_id, DECISION, {"key": key, **decision}, new_id(self.env))

    async def control(self, run_id: str, action: Action) -> RunStatus:
        """Pause, resume, terminate or restart a run; return its status afterwards.

        Raises:
            RunNotFoundError: there is no such run. RunFinishedError: it has ended, and only a restart moves it.
        """
        done = await act(run_id, action, self._controls.call, self.store, self.lifecycle)
        if done.before is None or done.after is None:
            raise not_found(run_id)
        if done.before.is_finished and action is not Action.RESTART:
            raise RunFinishedError(f"run {run_id!r} is {done.before}; only a restart moves it")
        self.controlled(action, done)
        return done.after

    async def control_each(self, run_ids: Sequence[str], action: Action) -> None:
        """Do the same to many runs; what has become impossible meanwhile is left undone."""
        ask, store, lifecycle = self._controls.call, self.store, self.lifecycle
        answers = await asyncio.gather(*(act(run_id, action, ask, store, lifecycle) for run_id in run_ids))
        for done in answers:
            if done.before is not None:
                self.controlled(action, done)

    def controlled(self, action: Action, done: Controlled) -> None:
        """Tell this process what became of a run that an operator moved."""
        if action in (Action.RESUME, Action.RESTART):
            self.endings.forget([done.run_id])
        for run_id in done.ended:
            self.endings.ended(run_id, RunStatus.TERMINATED, None)
        if self.worker is not None:
            self._tell_turns(self.worker, action, done)
            self.worker.wake()

    def _tell_turns(self, worker: Worker, action: Action, done: Controlled) -> None:
        """Tell the runs of this process what became of them, or of their children."""
        turn = worker.turns.get(done.run_id)
        if action in (Action.PAUSE, Action.RESUME):
            if turn is not None:
                asyncio.get_running_loop().call_soon(turn.pause if action is Action.PAUSE else turn.resume)
            return
        ended = frozenset(done.ended)
        # Before the answer came, the run may have been claimed anew by this very worker: that turn is not over.
        if turn is not None and (done.epoch == 0 or turn.epoch <= done.epoch):
            turn.lost()
        for run_id in ended - {done.run_id}:
            if run_id in worker.turns:
                worker.turns[run_id].lost()
        if action is Action.TERMINATE:
            for run_id, parent in list(worker.turns.items()):
                if not ended.isdisjoint(ask.run_id for ask in parent.turn.inbox.children.values()):
                    worker.deliver(run_id)

    async def _post(self, messages: Sequence[Message]) -> list[Posted]:
        return await self.store.post(messages, self.env.now(), self.settings.limits.inbox_messages)

    async def _control(self, actions: Sequence[Control]) -> list[Controlled]:
        return await self.store.control(actions, self.env.now())
