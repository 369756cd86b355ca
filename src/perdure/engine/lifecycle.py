"""Who is told what becomes of runs: functions in this process, and URLs.

A URL is told durably: the delivery is a run, and it is created by the very decision that it tells of. A function is
told once that decision is acknowledged, at most once, and never in the way of it.

An application without observers and webhooks has no `Lifecycle`, and pays for none.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from perdure.authoring.triggers import Observer, Triggers, Webhook
from perdure.authoring.workflow import fingerprint
from perdure.core.turn import Turn
from perdure.core.wait import decode_waits
from perdure.engine.env import Env
from perdure.engine.settings import Settings
from perdure.model import failure
from perdure.model.decision import Decision, RunFilter
from perdure.model.errors import StoreError
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import NewRun, Run, RunStatus
from perdure.store.contract import Store

WAITING = 10_000
"""How many events may wait for the observers of a process; further ones are dropped, with a warning."""

ENDS_WITHIN = 10.0
"""Seconds that a stopping worker gives its observers for what waits for them."""

TOLD_OF_ERRORS = 2_000
"""How many characters of an error are told."""

PAGE = 500
"""How many children one look for them takes in."""

OURS = "perdure."
"""What the names of workflows that are part of Perdure begin with; nobody is told of their runs."""

DELIVERY = f"{OURS}webhook:"
"""What the name of a webhook's workflow begins with."""

TERMINATED = "workflow:terminated"

_TOLD = {
    RunStatus.COMPLETE: "workflow:completed",
    RunStatus.ERRORED: "workflow:failed",
    RunStatus.TERMINATED: TERMINATED,
    RunStatus.COMPENSATING: "workflow:compensating",
    RunStatus.COMPENSATED: "workflow:compensated",
    RunStatus.COMPENSATION_FAILED: "workflow:compensation-failed",
}

_log = logging.getLogger("perdure.engine")


class LifecycleEvent(msgspec.Struct, frozen=True):
    """What became of a run.

    Attributes:
        type: as in `workflow:failed`.
        at: when, in UTC.
        run_id, workflow, version, queue, tags: the run's.
        status: its status now.
        parent_id: the run that it is a child of; None for none.
        error: for one that failed or is undone, its error, as `type: message`; for one that is parked, why.
        failed_step: for a graph that failed or is undone, the name of the step that failed.
    """

    type: str
    at: dt.datetime
    run_id: str
    workflow: str
    version: str
    queue: str
    status: RunStatus
    tags: dict[str, str]
    parent_id: str | None = None
    error: str | None = None
    failed_step: str | None = None


def lifecycle_of(triggers: Triggers, settings: Settings, env: Env) -> Lifecycle | None:
    """Return what tells an application's observers and webhooks; None where it has none."""
    return Lifecycle(triggers, settings, env) if triggers.observers or triggers.webhooks else None


class Lifecycle:
    """Tells the observers and webhooks of an application.

    Args:
        triggers: what the application has declared.
        settings, env: of the engine.
    """

    def __init__(self, triggers: Triggers, settings: Settings, env: Env) -> None:
        self._observers = triggers.observers
        self._webhooks = triggers.webhooks
        self._settings = settings
        self._env = env
        self._waiting: deque[tuple[Observer, LifecycleEvent]] = deque()
        self._telling: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, turn: Turn) -> Telling:
        """Return what tells of one turn."""
        return Telling(self, turn)

    @property
    def hears_of_ends(self) -> bool:
        """Whether anybody is told of runs that others end."""
        wanted = [observer.events for observer in self._observers]
        wanted += [webhook.events for webhook in self._webhooks.values()]
        return any(TERMINATED in events for events in wanted)

    def ending(self, run: Run | None) -> LifecycleEvent | None:
        """Return what is to be told of a run if it is ended now; None for nothing."""
        if run is None or run.workflow.startswith(OURS):
            return None
        return _event(run, TERMINATED, RunStatus.TERMINATED, self._env.now())

    def terminated(
        self,
        store: Store,
        run_ids: Sequence[str],
        wake: Callable[[], None] | None = None,
        at: int | None = None,
    ) -> None:
        """Tell, afterwards, of runs that the store has ended, of which no decision of their own tells.

        Args:
            store: where they are.
            run_ids: which.
            wake: what is called once there are deliveries to make; None for nothing.
            at: when a decision ended them and, with them, what stood below them; None if `run_ids` names it all.
        """
        if run_ids and self.hears_of_ends:
            work = asyncio.get_running_loop().create_task(self._terminated(store, run_ids, wake, at))
            self._ending.add(work)
            work.add_done_callback(self._ending.discard)

    async def _terminated(
        self, store: Store, ids: Sequence[str], wake: Callable[[], None] | None, at: int | None
    ) -> None:
        try:
            runs = [run for run in await store.get(ids) if run is not None and run.status is RunStatus.TERMINATED]
            if at is not None:
                runs = await _ended_together([run for run in runs if run.finished_at == at], store, at)
            events = [
                _event(run, TERMINATED, run.status, run.updated_at) for run in runs if not run.workflow.startswith(OURS)
            ]
            news = [delivery for event in events for delivery in self.deliveries(event)]
            if news:
                await store.create(news)
        except StoreError as error:
            _log.warning("webhooks and observers are not told that %d runs were terminated: %s", len(ids), error)
            return
        if news and wake is not None:
            wake()
        for event in events:
            self.observe(event)

    async def close(self) -> None:
        """Wait, for a while, until the observers have been told of everything."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=ENDS_WITHIN)
        if self._telling is not None and not self._telling.done():
            _, late = await asyncio.wait([self._telling], timeout=ENDS_WITHIN)
            for task in late:
                task.cancel()
                _log.warning("observers are not told of %d events: the worker ends", len(self._waiting))

    def deliveries(self, event: LifecycleEvent, moment: str | None = None) -> Iterable[NewRun]:
        """Yield the deliveries that tell of an event; `moment` is part of their ids, by default its time."""
        moment = moment or _moment(event)
        for webhook in self._webhooks.values():
            if event.type in webhook.events and (webhook.workflows is None or event.workflow in webhook.workflows):
                yield self._delivery(webhook, event, moment)

    def _delivery(self, webhook: Webhook, event: LifecycleEvent, moment: str) -> NewRun:
        now = self._env.now()
        workflow = f"{DELIVERY}{webhook.name}"
        payload = msgspec.json.encode({"event": event}).decode()
        return NewRun(
            id=f"{event.run_id}/webhook:{webhook.name}:{event.type.partition(':')[2]}:{moment}",
            workflow=workflow,
            created_at=now,
            due_at=now,
            records=(Record(0, "input", "input", "ok", now, payload),),
            queue=webhook.queue or (event.queue if self._settings.mode == "client" else self._settings.queues[0]),
            fingerprint=fingerprint(workflow, payload),
            tags={"webhook": webhook.name},
            retention=self._settings.retention,
        )

    def observe(self, event: LifecycleEvent) -> None:
        """Have the observers told of an event, in their time."""
        for observer in self._observers:
            if event.type not in observer.events or observer.workflow not in (None, event.workflow):
                continue
            if len(self._waiting) >= WAITING:
                _log.warning(
                    "observers are behind by %d events: %s of %s is dropped", WAITING, event.type, event.run_id
                )
                return
            self._waiting.append((observer, event))
        if self._waiting and (self._telling is None or self._telling.done()):
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        while self._waiting:
            observer, event = self._waiting.popleft()
            try:
                if inspect.iscoroutinefunction(observer.function):
                    await observer.function(event)
                else:
                    await asyncio.to_thread(observer.function, event)
            except Exception:
                _log.exception("an observer failed over %s of run %s", event.type, event.run_id)


class Telling:
    """What is told of one turn of a run."""

    def __init__(self, lifecycle: Lifecycle, turn: Turn) -> None:
        self._lifecycle = lifecycle
        self._turn = turn
        self._is_undoing = turn.run.status is RunStatus.COMPENSATING

    def with_deliveries(self, decision: Decision) -> Decision:
        """Return a decision that also creates the deliveries that tell of it."""
        moment = f"{self._turn.run.incarnation}.{decision.epoch}.{decision.seq}"
        news = [new for event in self._events(decision) for new in self._lifecycle.deliveries(event, moment)]
        return msgspec.structs.replace(decision, children=(*decision.children, *news)) if news else decision

    def committed(self, decision: Decision) -> None:
        """Tell the observers of a decision that is durable."""
        for event in self._events(decision):
            self._lifecycle.observe(event)
        self._is_undoing = decision.status is RunStatus.COMPENSATING

    def _events(self, decision: Decision) -> list[LifecycleEvent]:
        run, status = self._turn.run, decision.status
        events: list[LifecycleEvent] = []
        if run.workflow.startswith(OURS):
            return events
        if decision.seq == 1 and not has_begun(run) and not changes_nothing(decision):
            events.append(_event(run, "workflow:started", RunStatus.RUNNING, decision.at))
        if status is RunStatus.PAUSED:
            waits = decode_waits(decision.wait).waits
            if (reason := next((wait.detail for wait in waits if wait.kind == "parked"), None)) is not None:
                events.append(_event(run, "workflow:parked", status, decision.at, reason))
        elif status in _TOLD and not (self._is_undoing and status is RunStatus.COMPENSATING):
            error = self._error(decision)
            told = None if error is None else f"{error.type.rpartition(':')[2]}: {error.message}"
            events.append(
                _event(run, _TOLD[status], status, decision.at, told, None if error is None else error.step or None)
            )
        return events

    def _error(self, decision: Decision) -> ErrorInfo | None:
        """Return what a run failed with; None where it did not."""
        payload = self._turn.replay.cause
        if decision.status is RunStatus.ERRORED:
            payload = decision.records[-1].payload
        if payload is None:
            return None
        return failure.decode_error(payload)


def has_begun(run: Run) -> bool:
    """Return whether a claim before this one came to a decision that changed anything."""
    is_as_created = run.journal_length == 1 and run.wait is None and run.state is None and run.incarnation == 0
    return run.epoch > 1 and not is_as_created


def changes_nothing(decision: Decision) -> bool:
    """Return whether a decision only gives the run back."""
    is_given_back = decision.status is RunStatus.QUEUED and decision.renew is None
    return is_given_back and not decision.records and decision.wait is None and decision.state is None


async def _ended_together(runs: list[Run], store: Store, at: int) -> list[Run]:
    """Return runs, and those below them that ended at the same time."""
    found, fresh = list(runs), runs
    while fresh:
        below: list[Run] = []
        for run in fresh:
            cursor: str | None = None
            while True:
                page = await store.find(RunFilter((RunStatus.TERMINATED,), parent_id=run.id), PAGE, cursor)
                below += page.runs
                cursor = page.cursor
                if cursor is None:
                    break
        fresh = [run for run in below if run.finished_at == at and not run.is_detached]
        found += fresh
    return found


def _event(
    run: Run, kind: str, status: RunStatus, at: int, error: str | None = None, failed_step: str | None = None
) -> LifecycleEvent:
    moment = dt.datetime.fromtimestamp(at / 1000, dt.UTC)
    told = None if error is None else error[:TOLD_OF_ERRORS]
    return LifecycleEvent(
        kind, moment, run.id, run.workflow, run.version, run.queue, status, run.tags, run.parent_id, told, failed_step
    )


def _moment(event: LifecycleEvent) -> str:
    return str(round(event.at.timestamp() * 1000))
