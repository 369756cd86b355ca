"""Steps whose own SQL is committed together with their record, exactly once.

Why exactly once. The body's SQL and the decision that carries the step's record go into the database in one
transaction, which commits only if the lease still holds. So either both are there or neither is, and which, the
journal says:

- The body fails, is stopped, outruns its timeout, or its worker dies: nothing is committed. The step is tried again.
- The lease was lost meanwhile: the fence refuses the decision, and the body's SQL goes with it.
- It cannot be committed, or another transaction was in its way: it is undone, and the attempt has failed.
- The commit's answer is lost: nobody knows yet. So this worker does not repeat the decision, as it would any other: it
  gives the run up. When the lease has run out, the next turn reads the journal: the record is there, and the body does
  not run again; or it is not, and then its SQL is not there either.

A decision carries the record of one such step at most, as it can be committed in one transaction only.

While a run has a transaction open it decides nothing else: what its other steps came to waits, and goes along with the
transaction's decision. Where a store has one writer at a time, as SQLite has, a decision on its way would wait for the
transaction, and the transaction, whose decision has to come after it, for the decision.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.authoring.registry import Registry
from perdure.core.ask import StepSpec
from perdure.engine.batch import RETRY_DELAY, RETRY_DELAY_MAX
from perdure.engine.env import pause
from perdure.engine.worker.attempt import StepRun
from perdure.model.decision import Committed, Decision
from perdure.model.errors import StoreConflictError, StoreError, UsageError
from perdure.model.record import Record
from perdure.store.contract import Store, Transaction

if TYPE_CHECKING:
    from perdure.engine.worker.runner import Runner

_log = logging.getLogger("perdure.engine")


async def require_transactions(store: Store, registry: Registry) -> None:
    """Refuse steps that need a transaction on a store that has none, before any run is claimed.

    Raises:
        UsageError: the store has none.
    """
    leaves = [workflow.leaf for workflow in registry.workflows.values() if workflow.leaf is not None]
    if any(spec.tx for spec in (*leaves, *(step.spec for step in registry.steps.values()))):
        transaction = await store.begin()
        await transaction.roll_back()


class Ended(NamedTuple):
    """A step that has been settled.

    Attributes:
        step, spec: which, and how it is tried again.
        transaction: what it did.
        before: the decision for the run as it stood before.
        record: what is to follow in that, but for how the step failed, if the transaction cannot be committed.
    """

    step: StepRun
    spec: StepSpec
    transaction: Transaction
    before: Decision
    record: Record


class TransactionalSteps:
    """The transactional steps of one run, from their launch to the end of their transactions."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._steps: dict[StepRun, None] = {}
        self._returned: deque[tuple[StepRun, str]] = deque()
        self._beginning: list[asyncio.Future[None]] = []

    @property
    def are_open(self) -> bool:
        """Whether there is a step whose transaction is open, or about to be."""
        return bool(self._steps)

    def launched(self, step: StepRun) -> None:
        """A step will have a transaction soon: nothing else is decided from now on."""
        self._steps[step] = None

    async def begin(self) -> Transaction:
        """Begin a transaction, once no decision is on its way, and as soon as the store can.

        Raises:
            UsageError: the store has none.
        """
        worker = self._runner.worker
        if self._runner.is_deciding:
            acknowledged = worker.loop.create_future()
            self._beginning.append(acknowledged)
            await acknowledged
        delay = RETRY_DELAY
        while True:
            try:
                return await worker.store.begin()
            except StoreError as error:
                _log.warning("no transaction could be begun for run %s, trying again: %s", self._runner.run_id, error)
            await pause(worker.env, delay * (0.5 + worker.env.roll()))
            delay = min(2 * delay, RETRY_DELAY_MAX)

    def acknowledged(self) -> None:
        """No decision is on its way any more."""
        beginning, self._beginning = self._beginning, []
        for future in beginning:
            if not future.done():
                future.set_result(None)

    def returned(self, step: StepRun, payload: str) -> None:
        """A step's body has returned; its transaction waits to be committed."""
        self._returned.append((step, payload))

    def stopped(self, step: StepRun) -> None:
        """A step failed, or nobody waits for it any more: undo what it did."""
        if step not in self._steps:
            return
        del self._steps[step]
        if step.opened is not None:
            self._runner.worker.executor.finish(_roll_back(step.opened))

    def settle_next(self, now: int) -> Ended | None:
        """Settle the next step whose body has returned, unless a decision is on its way or the run's code has ended.

        It is to be committed at once. Until then it counts as open, so that it is undone if the engine fails over it.
        """
        runner, replay = self._runner, self._runner.turn.replay
        if runner.is_deciding or replay.is_over:
            return None
        while self._returned:
            step, payload = self._returned.popleft()
            if step not in self._steps:
                continue
            assert step.opened is not None
            held = replay.history.next()
            ended = Ended(
                step,
                step.execution.spec,
                step.opened,
                runner.turn.as_it_stands(now),
                Record(
                    replay.position,
                    step.key,
                    "step",
                    "error",
                    max(now, replay.loop.at),
                    attempt=step.attempt,
                    started_at=step.started_at,
                    ref=runner.progress.get(step.key),
                    before=None if held is None else held.position,
                ),
            )
            runner.turn.step_ended(step.key, "ok", payload, now, attempt=step.attempt, started_at=step.started_at)
            return ended
        return None

    def commit(self, ended: Ended, decision: Decision | None) -> None:
        """Commit a step's transaction with the decision that carries its record."""
        runner, step = self._runner, ended.step
        if decision is None or (decision.renew is None and all(record.key != step.key for record in decision.records)):
            raise RuntimeError(f"no decision carries the record of step {step.key!r}, which is undone")
        del self._steps[step]
        runner.forget(step)
        runner.progress.pop(step.key, None)
        runner.worker.executor.finish(self._commit(ended, decision))

    async def _commit(self, ended: Ended, decision: Decision) -> None:
        answer: Committed | None = None
        failed: Exception | None = None
        try:
            answer = await ended.transaction.commit(decision)
        except Exception as error:
            failed = error
            await _roll_back(ended.transaction)
        # From a callback, not from inside this task: what is done may enter a run's private loop.
        if isinstance(failed, UsageError | StoreConflictError):
            told = functools.partial(self._undone, ended, failed)
        else:
            told = functools.partial(self._runner.committed, answer, failed)
        self._runner.worker.loop.call_soon(told)

    def _undone(self, ended: Ended, error: UsageError | StoreConflictError) -> None:
        """Record that a step's attempt failed at its commit, in place of the decision; then begin the run anew.

        The run's code has gone on with a result that is not there, so this turn is of no further use. It is over at
        once: another transaction of it that stayed open could keep the store from taking what is written here.
        """
        runner, step = self._runner, ended.step
        if runner.is_over:
            return
        runner.lost()
        state, payload, due_at = step.failed(ended.spec, error, runner.worker.env.now())
        record = msgspec.structs.replace(
            ended.record, state=state, payload=payload, due_at=due_at, ref=None if due_at is None else ended.record.ref
        )
        instead = msgspec.structs.replace(ended.before, records=(*ended.before.records, record))
        runner.worker.commits.add(instead, functools.partial(self._handed_back, instead))

    def _handed_back(self, instead: Decision, answer: Committed | None, error: Exception | None) -> None:
        if error is not None:
            _log.error("run %s could not be handed back and is left to its lease: %s", instead.run_id, error)
            return
        worker = self._runner.worker
        if worker.watchers is not None and answer is not None and not answer.is_lost:
            self._runner.watched(worker.watchers, instead)
        worker.told_others(instead)


async def _roll_back(transaction: Transaction) -> None:
    try:
        await transaction.roll_back()
    except Exception as error:
        _log.warning("a transaction could not be rolled back, and ends with its connection: %s", error)
