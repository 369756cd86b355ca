"""Works runs of served workflows: instead of running their code, it hands each claim to an endpoint that does.

What the endpoint decides is checked and committed here. A push that fails is no failure of the run: the run is given
back, and due again after a while. What a push was told by then stands in `Run.wait`, for `explain`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perdure.core.wait import Wait, decode_waits, encode_waits, parked
from perdure.dispatch.asking import PushFailedError
from perdure.dispatch.decisions import require_fitting
from perdure.dispatch.protocol import PROTOCOL, Push, TurnToken
from perdure.engine.worker.runner import Runner
from perdure.model.decision import Claim, Committed, Decision, Message
from perdure.model.errors import PerdureError, StoreError, UsageError
from perdure.model.run import Run, RunStatus

if TYPE_CHECKING:
    from perdure.authoring.workflow import Workflow
    from perdure.dispatch.dispatcher import PushingWorker

ATTEMPTS = 25
"""How many pushes in a row may fail before the run is parked: about a day of them."""

FIRST_MS, LONGEST_MS = 1_000, 7_200_000
"""How many milliseconds after a failure the next push is due: the first time, and doubled each time up to this."""

_log = logging.getLogger("perdure.engine")


class PushRunner(Runner):
    """One turn of a run that somebody else works; towards the worker it is like any other.

    Its own `turn` is never begun: it is what the worker looks at.
    """

    def __init__(self, worker: PushingWorker, claim: Claim, workflow: Workflow[..., Any]) -> None:
        super().__init__(worker, claim, workflow)
        self._dispatcher = worker.dispatcher
        self._claim = claim
        self._task: asyncio.Task[None] | None = None
        self._is_leaving = worker.is_stopping

    # What the worker says.

    def begin(self) -> None:
        """Push the run."""
        self._task = self.worker.loop.create_task(self._work())

    def arrive(self, messages: list[Message]) -> None:
        """Take note of messages: the endpoint hears of them by itself."""
        self.turn.inbox.seen = max([self.turn.inbox.seen, *(message.seq for message in messages)])

    def pause(self) -> None:
        """Take note of the wish for a pause: the endpoint hears of it with its next decision."""
        self.turn.is_pausing = True

    def resume(self) -> None:
        """Take note that it was taken back."""
        self.turn.is_pausing = False

    def hand_back(self) -> None:
        """Wait for the answer to the push that is under way, and push no more."""
        self._is_leaving = True

    def go_on(self) -> None:
        """Do nothing: what is to be done, the endpoint says."""

    def lost(self) -> None:
        """Somebody else has the run, or is to have it."""
        if not self.is_over and self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        super().lost()

    # Pushing.

    async def _work(self) -> None:
        try:
            while not self.is_over:
                await self._push_once()
        except StoreError as error:
            _log.error("run %s is left to its lease: %s", self.run_id, error)
            self.lost()
        except Exception:
            _log.exception("run %s is left to its lease: the dispatcher failed over it", self.run_id)
            self.lost()

    async def _push_once(self) -> None:
        """Push the run, and commit what comes of it."""
        run = self._claim.run
        if self._is_leaving:
            await self._commit(self._given_back(run, self.worker.env.now(), None))
            return
        try:
            decision = await self._pushed()
            if decision is None:  # the endpoint goes on by itself, and extends the lease
                super().lost()
                return
            self._require_fitting(decision)
            kept = self._kept(decision)
            answer = await self.worker.commits.call(kept or decision)
        except (PushFailedError, UsageError) as error:
            if not self.is_over:
                await self._failed(error)
            return
        if self.is_over:
            return
        if answer.is_lost:
            self.lost()
        elif kept is None:
            self._ended(decision, answer)
        else:
            self._claim = _next_claim(self._claim, kept, answer)
            if kept.reaches_others:
                self.worker.told_others(kept)

    async def _pushed(self) -> Decision | None:
        dispatcher, run = self._dispatcher, self._claim.run
        place = dispatcher.place_of(run.workflow)
        now = self.worker.env.now()
        keys = await dispatcher.keys()
        token = TurnToken.of(dispatcher.namespace, run, now).sealed(keys.tokens[0])
        push = Push(PROTOCOL, dispatcher.namespace, self._claim, dispatcher.answer_within, token)
        try:
            decision = await dispatcher.asking.push(place.url, push, keys.signing)
        except PushFailedError as error:
            (place.breaker.failed if error.is_endpoints else place.breaker.worked)(str(error))
            raise
        place.breaker.worked()
        return decision

    def _require_fitting(self, decision: Decision) -> None:
        if decision.keeps_lease:
            raise UsageError("decision.status: the decision in an answer gives the run back")
        require_fitting(decision, self._claim.run, self._dispatcher.app.settings.limits, self.worker.env.now())
        if self._is_for_nothing(decision):
            raise UsageError("decision: the run was given back without anything having been done")

    def _is_for_nothing(self, decision: Decision) -> bool:
        """Return whether a run was only given back, to be pushed again at once, and for ever."""
        run = self._claim.run
        has_news = decision.records or decision.consumed or decision.renew or decision.reaches_others
        is_same = decision.seq == run.seq + 1 and (decision.status is RunStatus.COMPENSATING) is _is_compensating(run)
        return _goes_on(decision) and is_same and not has_news and not run.is_pausing

    def _kept(self, decision: Decision) -> Decision | None:
        """Return the decision that keeps the lease, where the run goes on at once and all of it is known here."""
        run = self._claim.run
        is_known = decision.seq == run.seq + 1 and decision.seen <= run.inbox_seq
        if not _goes_on(decision) or not is_known or self._is_leaving or run.is_pausing or decision.renew is not None:
            return None
        is_undoing = decision.status is RunStatus.COMPENSATING
        status = RunStatus.COMPENSATING if is_undoing else RunStatus.RUNNING
        return replace(decision, status=status, due_at=None, wait=None)

    async def _failed(self, error: PerdureError) -> None:
        """Give the run back, due again after a while, or park it."""
        (row,) = await self.worker.store.get([self.run_id])
        if row is None or row.worker is None or row.epoch != self.epoch:
            self.lost()
            return
        failed = error if isinstance(error, PushFailedError) else PushFailedError(str(error))
        now = self.worker.env.now()
        is_tried = not isinstance(error, LeftAloneError)
        attempts = failed_pushes(self._claim.run) + is_tried
        if failed.is_final or attempts >= ATTEMPTS:
            often = "" if failed.is_final else f" ({attempts} times in a row)"
            decision = self._given_back(row, now, parked(f"it could not be handed to whom it is for{often}: {error}"))
            await self._commit(replace(decision, status=RunStatus.PAUSED, due_at=None))
            return
        pause = min(LONGEST_MS, FIRST_MS * 2 ** max(0, attempts - 1)) if is_tried else 0
        pause = round(pause * (0.75 + 0.5 * self.worker.env.roll()))
        due_at = now + max(pause, round(failed.after * 1000))
        wait = encode_waits([Wait("push", due_at=due_at, detail=str(error), attempt=attempts)])
        status = RunStatus.COMPENSATING if _is_compensating(row) else RunStatus.WAITING
        await self._commit(replace(self._given_back(row, now, wait), status=status, due_at=due_at))

    def _given_back(self, run: Run, now: int, wait: str | None) -> Decision:
        status = RunStatus.COMPENSATING if _is_compensating(run) else RunStatus.QUEUED
        return Decision(run.id, run.epoch, run.seq + 1, now, status, now, seen=run.inbox_seq, wait=wait)

    async def _commit(self, decision: Decision) -> None:
        answer = await self.worker.commits.call(decision)
        if self.is_over:
            return
        if answer.is_lost:
            self.lost()
        else:
            self._ended(decision, answer)

    def _ended(self, decision: Decision, answer: Committed) -> None:
        self._finish()
        self.worker.committed_end(self, decision, answer)


class LeftAloneError(PushFailedError):
    """Every endpoint that serves a workflow is left alone for now, or there is none."""


def failed_pushes(run: Run) -> int:
    """Return how many pushes of a run have failed in a row."""
    return next((wait.attempt for wait in decode_waits(run.wait).waits if wait.kind == "push"), 0)


def _goes_on(decision: Decision) -> bool:
    """Return whether a decision gives a run back for it to go on at once."""
    is_given_back = decision.status in (RunStatus.QUEUED, RunStatus.COMPENSATING)
    return is_given_back and decision.due_at is not None and decision.due_at <= decision.at


def _is_compensating(run: Run) -> bool:
    return run.status is RunStatus.COMPENSATING


def _next_claim(claim: Claim, decision: Decision, answer: Committed) -> Claim:
    """Return a claim after a decision that keeps the lease, without asking the store for it."""
    run, consumed = claim.run, frozenset(decision.consumed)
    return Claim(
        replace(
            run,
            status=decision.status,
            seq=decision.seq,
            crashes=0,
            updated_at=decision.at,
            journal_length=run.journal_length + len(decision.records),
            inbox_seq=max([run.inbox_seq, *(message.seq for message in answer.arrived)]),
            is_pausing=answer.is_pausing,
            wait=None,
            state=run.state if decision.state is None else decision.state,
        ),
        [*claim.journal, *decision.records],
        [*(message for message in claim.inbox if message.id not in consumed), *answer.arrived],
    )
