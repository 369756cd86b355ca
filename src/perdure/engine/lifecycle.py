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
from collections.abc import Iterable

import msgspec

from perdure.authoring.triggers import Observer, Triggers, Webhook
from perdure.authoring.workflow import fingerprint
from perdure.core.wait import decode_waits
from perdure.engine.env import Env
from perdure.engine.settings import Settings
from perdure.model import failure
from perdure.model.decision import Decision
from perdure.model.errors import StoreError
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus
from perdure.store.contract import Store

WAITING = 10_000
"""How many events may wait for the observers of a process; further ones are dropped, with a warning."""

ENDS_WITHIN = 10.0
"""Seconds that a stopping worker gives its observers for what waits for them."""

TOLD_OF_ERRORS = 2_000
"""How many characters of an error are told."""

DELIVERY = "perdure.webhook:"
"""What the name of a webhook's workflow begins with; nobody is told of its runs."""

_TOLD = {
    RunStatus.COMPLETE: "workflow:completed",
    RunStatus.ERRORED: "workflow:failed",
    RunStatus.TERMINATED: "workflow:terminated",
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

    def with_deliveries(self, run: Run, decision: Decision, *, is_undoing: bool) -> Decision:
        """Return a decision that also creates the deliveries that tell of it."""
        if not self._webhooks:
            return decision
        news = [
            delivery
            for event in events_of(run, decision, is_undoing=is_undoing)
            for delivery in self._deliveries(event, f"{run.incarnation}.{decision.epoch}.{decision.seq}")
        ]
        return msgspec.structs.replace(decision, children=(*decision.children, *news)) if news else decision

    def committed(self, run: Run, decision: Decision, *, is_undoing: bool) -> None:
        """Tell the observers of a decision that is durable."""
        if self._observers:
            for event in events_of(run, decision, is_undoing=is_undoing):
                self._observe(event)

    def terminated(self, store: Store, run_ids: Iterable[str]) -> None:
        """Tell of runs that were ended from outside, of which no decision tells."""
        work = asyncio.get_running_loop().create_task(self._terminated(store, list(run_ids)))
        self._ending.add(work)
        work.add_done_callback(self._ending.discard)

    async def _terminated(self, store: Store, ids: list[str]) -> None:
        try:
            events = [
                _event(run, "workflow:terminated", run.status, run.updated_at) for run in await store.get(ids) if run
            ]
            news = [delivery for event in events for delivery in self._deliveries(event, _moment(event))]
            if news:
                await store.create(news)
        except StoreError as error:
            _log.warning("webhooks and observers are not told that %d runs were terminated: %s", len(ids), error)
            return
        for event in events:
            if not event.workflow.startswith(DELIVERY):
                self._observe(event)

    async def close(self) -> None:
        """Wait, for a while, until the observers have been told of everything."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=ENDS_WITHIN)
        if self._telling is not None and not self._telling.done():
            _, late = await asyncio.wait([self._telling], timeout=ENDS_WITHIN)
            for task in late:
                task.cancel()
                _log.warning("observers are not told of %d events: the worker ends", len(self._waiting))

    def _deliveries(self, event: LifecycleEvent, moment: str) -> Iterable[NewRun]:
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
            queue=webhook.queue or self._settings.queues[0],
            fingerprint=fingerprint(workflow, payload),
            tags={"webhook": webhook.name},
            retention=self._settings.retention,
        )

    def _observe(self, event: LifecycleEvent) -> None:
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


def events_of(run: Run, decision: Decision, *, is_undoing: bool) -> list[LifecycleEvent]:
    """Return what a decision makes of a run.

    Args:
        run: as it was claimed.
        decision: what is decided.
        is_undoing: it was being undone before already.
    """
    if run.workflow.startswith(DELIVERY):
        return []
    status, events = decision.status, []
    if run.epoch == 1 and decision.seq == 1:
        events.append(_event(run, "workflow:started", RunStatus.RUNNING, decision.at))
    if status is RunStatus.PAUSED:
        reason = next((wait.detail for wait in decode_waits(decision.wait).waits if wait.kind == "parked"), None)
        if reason is not None:
            events.append(_event(run, "workflow:parked", status, decision.at, reason))
    elif status in _TOLD and not (is_undoing and status is RunStatus.COMPENSATING):
        events.append(_event(run, _TOLD[status], status, decision.at, _error_of(decision)))
    return events


def _event(run: Run, kind: str, status: RunStatus, at: int, error: str | None = None) -> LifecycleEvent:
    moment = dt.datetime.fromtimestamp(at / 1000, dt.UTC)
    return LifecycleEvent(
        kind, moment, run.id, run.workflow, run.version, run.queue, status, run.tags, run.parent_id, error
    )


def _error_of(decision: Decision) -> str | None:
    """Return the error that a decision ends, or undoes, a run with; None for none."""
    failed = [record for record in decision.records if record.state == "error" and record.payload is not None]
    if decision.status is RunStatus.COMPLETE or not failed:
        return None
    error = failure.decode_error(failed[-1].payload or "{}")
    return f"{error.type.rpartition(':')[2]}: {error.message}"[:TOLD_OF_ERRORS]


def _moment(event: LifecycleEvent) -> str:
    return str(round(event.at.timestamp() * 1000))
