"""Drives one turn: starts its steps, commits its decisions, and hands the run back.

All of it happens in callbacks of the worker's loop, never inside a task: workflow code enters a private loop of its
own, and some versions of Python refuse one task inside another.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import msgspec

from perdure.core.ask import StepSpec
from perdure.core.launching import Launch
from perdure.core.turn import Turn
from perdure.engine.env import Timer, pause
from perdure.engine.telemetry import Watchers
from perdure.engine.worker.attempt import StepRun
from perdure.engine.worker.executor import Execution
from perdure.engine.worker.pausing import as_the_store_wishes
from perdure.engine.worker.transactional import TransactionalSteps
from perdure.model import codec, failure
from perdure.model.decision import Claim, Committed, Decision, Message
from perdure.model.errors import NestingTooDeepError, UsageError
from perdure.model.record import State

if TYPE_CHECKING:
    from perdure.authoring.workflow import Workflow
    from perdure.engine.worker.worker import Worker

P = ParamSpec("P")

_log = logging.getLogger("perdure.engine")


def _guarded(call: Callable[Concatenate[Runner, P], None]) -> Callable[Concatenate[Runner, P], None]:
    """Give a run up, rather than hold it for ever, when a callback about it fails in a way nobody foresaw."""

    @functools.wraps(call)
    def guarded(runner: Runner, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(runner, *args, **kwargs)
        except Exception:
            _log.exception("run %s is left to its lease: the engine failed over it", runner.run_id)
            runner.lost()

    return guarded


class Runner:
    """One turn in a worker.

    Attributes:
        run_id, epoch: the claim it holds.
        is_admitted: the run counts under its queue's limits.
        turn: what decides.
        progress: the last heartbeat of each running step, as payloads by key.
        is_over: the run has left this worker.
        transactional: its steps with a transaction; None as long as it had none.
    """

    def __init__(self, worker: Worker, claim: Claim, workflow: Workflow[..., Any]) -> None:
        self.worker = worker
        self.run_id = claim.run.id
        self.epoch = claim.run.epoch
        self.parent_id = claim.run.parent_id
        self.is_admitted = claim.run.is_admitted
        self.turn = Turn(claim, workflow, worker.settings.limits, worker.env.entropy)
        self.progress: dict[str, str] = {}
        self.is_over = False
        self.transactional: TransactionalSteps | None = None
        self._telling = None if worker.lifecycle is None else worker.lifecycle.of(self.turn)
        self._stored_progress = claim.run.progress
        self._steps: dict[str, StepRun] = {}
        self._decided: Decision | None = None
        self._unacknowledged: list[asyncio.Future[None]] = []
        self._acknowledging: list[asyncio.Future[None]] = []
        self._timer: Timer | None = None
        self._timer_at: int | None = None
        self._is_gathering = False

    # What the worker says.

    @_guarded
    def begin(self) -> None:
        """Replay the run and go on with it."""
        self.turn.begin(self.worker.env.now())
        self.go_on()

    @_guarded
    def arrive(self, messages: list[Message]) -> None:
        """Messages came in."""
        now = self.worker.env.now()
        self.worker.lingering.heard(self, now)
        if self.worker.watchers is not None:
            self.worker.watchers.arrived(self.turn.run, messages)
        self.turn.arrive(messages, now)
        self.go_on()

    @_guarded
    def pause(self) -> None:
        """An operator asked for a pause."""
        self.turn.is_pausing = True
        self.go_on()

    @_guarded
    def resume(self) -> None:
        """An operator took the wish for a pause back."""
        self.turn.is_pausing = False
        self.go_on()

    @_guarded
    def hand_back(self) -> None:
        """The worker is stopping: finish what runs, start nothing more."""
        self.turn.hand_back()
        self.go_on()

    def lost(self) -> None:
        """Somebody else has the run, or is to have it: stop at once, and change nothing."""
        self._finish()
        self.worker.look_after_lease()

    @property
    def is_deciding(self) -> bool:
        """Whether a decision is on its way to the store."""
        return self._decided is not None

    def last_progress(self, key: str) -> Any:
        """Return what the attempt before the present one last gave as its progress."""
        if key in self.progress:
            return codec.decode_any(self.progress[key])
        failed = self.turn.replay.history.opened.get(key)
        if failed is not None and failed.ref is not None:
            return codec.decode_any(failed.ref)
        if self._stored_progress is not None:
            return msgspec.json.decode(self._stored_progress).get(key)
        return None

    # The turn.

    @_guarded
    def go_on(self) -> None:
        """Stop what nobody waits for, commit what is decided, start what may start."""
        if self.is_over:
            return
        turn, now, lingering = self.turn, self.worker.env.now(), self.worker.lingering
        steps = self.transactional
        self._stop_cancelled()  # first: none of them may be settled
        ended = None if steps is None else steps.settle_next(now)
        self._stop_cancelled()
        if steps is None or ended is not None or turn.replay.is_over or not steps.are_open:
            if not lingering.goes_on(self):
                turn.hand_back()
            decision = turn.decide(now, self.worker.settings.hold_ms, lingers=lingering.may(self, now))
            if decision is not None:
                self._decided = decision = as_the_store_wishes(
                    decision, now, is_compensating=turn.replay.cause is not None
                )
                if self._telling is not None:
                    self._decided = decision = self._telling.with_deliveries(decision)
                if self.worker.watchers is not None:
                    self._decided = decision = self.worker.watchers.with_trace(turn.run, decision)
                self._acknowledging, self._unacknowledged = self._unacknowledged, []
            if steps is not None and ended is not None:
                steps.commit(ended, decision)
            elif decision is not None:
                self.worker.commits.add(decision, self.committed)
        if turn.is_ended:
            self._stop_steps()
            return
        for launch in turn.launches():
            self._launch(launch)
        lingering.look(self, now)
        self._set_timer()

    @_guarded
    def committed(self, answer: Committed | None, error: Exception | None) -> None:
        """Take the answer to the last decision, or the error it met."""
        if self.is_over:
            return
        if answer is None or answer.is_lost:
            if error is not None:
                _log.error("run %s could not be committed and is left to its lease: %s", self.run_id, error)
            self.lost()
            return
        decision, self._decided = self._decided, None
        if self._telling is not None and decision is not None:
            self._telling.committed(decision)
        if self.worker.watchers is not None and decision is not None:
            self.watched(self.worker.watchers, decision)
            self.worker.watchers.arrived(self.turn.run, answer.arrived)
        acknowledged, self._acknowledging = self._acknowledging, []
        for future in acknowledged:
            if not future.done():
                future.set_result(None)
        self.turn.committed(answer, self.worker.env.now())
        if self.transactional is not None:
            self.transactional.acknowledged()
        if not self.turn.is_ended:
            if self.progress:
                self.worker.keeper.note_progress(self)
            self.go_on()
            if decision is not None and decision.reaches_others:
                self.worker.told_others(decision)
            return
        self._finish()
        assert decision is not None
        self.worker.committed_end(self, decision, answer)

    def _set_timer(self) -> None:
        due = self.turn.next_due()
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due is not None:
            worker = self.worker
            self._timer = worker.env.call_later(worker.loop, (due - worker.env.now()) / 1000, self._tick)

    @_guarded
    def _tick(self) -> None:
        self._timer = self._timer_at = None
        self.turn.tick(self.worker.env.now())
        self.go_on()

    # Steps.

    def _launch(self, launch: Launch) -> None:
        ask = launch.ask
        step = StepRun(self, ask.key, launch.attempt, self.worker.env.now())
        self._steps[ask.key] = step
        step.execution = self.worker.executor.start(ask.spec, ask.args, ask.kwargs, step, step.begin)
        if step.execution.spec.tx:
            self.transactional = self.transactional or TransactionalSteps(self)
            self.transactional.launched(step)
        step.execution.watch(lambda _: self._step_done(step))

    @_guarded
    def _step_done(self, step: StepRun) -> None:
        execution = step.execution
        if execution.timer is not None:
            execution.timer.cancel()
        if self._steps.get(step.key) is not step:
            del step.execution
            execution.error()  # lest asyncio complain that nobody took note of it
            return
        now = self.worker.env.now()
        state, payload, due_at = self._outcome(step, execution, now)
        if self.transactional is not None and execution.spec.tx:
            if state == "ok" and payload is not None:
                self.transactional.returned(step, payload)
                self.go_on()
                return
            self.transactional.stopped(step)
        self.forget(step)
        if due_at is None:
            self.progress.pop(step.key, None)
            self.turn.step_ended(step.key, state, payload, now, attempt=step.attempt, started_at=step.started_at)
        else:
            self.turn.step_failed(
                step.key,
                payload or "",
                now,
                attempt=step.attempt,
                started_at=step.started_at,
                due_at=due_at,
                progress=self.progress.get(step.key),
            )
        if self.turn.is_busy:
            self._gather()
        else:
            self.go_on()

    def _gather(self) -> None:
        """Go on once every step that ends in this very moment has been settled, so that one decision tells of all."""
        if not self._is_gathering:
            self._is_gathering = True
            self.worker.loop.call_soon(self._gathered)

    @_guarded
    def _gathered(self) -> None:
        self._is_gathering = False
        self.go_on()

    def _outcome(self, step: StepRun, execution: Execution, now: int) -> tuple[State, str | None, int | None]:
        """Return a done attempt's state and payload, and when it is tried again; None for never."""
        error = execution.error()
        if error is None:
            what = f"the result of step {step.key!r}"
            try:
                payload = codec.encode(execution.task.result(), what, self.turn.limits.payload_bytes)
                if execution.spec.tx:  # what cannot be read back must not be committed
                    execution.spec.result.decode(payload)
                return "ok", payload, None
            except UsageError as unfit:
                return "error", failure.encode_error(failure.describe(unfit, attempts=step.attempt)), None
        return step.failed(execution.spec, error, now)

    async def nested(self, key: str, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a step inside a running one: all its attempts, its record, and its commit."""
        depth = key.count("/")
        if depth > self.turn.limits.nesting:
            raise NestingTooDeepError(f"step {key!r} is nested deeper than Limits.nesting = {self.turn.limits.nesting}")
        known = self.turn.replay.history.nested.get(key)
        while known is None:
            failed = self.turn.replay.history.opened.get(key)
            if failed is not None:
                await pause(self.worker.env, ((failed.due_at or 0) - self.worker.env.now()) / 1000)
            step = StepRun(self, key, failed.attempt + 1 if failed else 1, self.worker.env.now())
            execution = step.execution = self.worker.executor.start(spec, args, kwargs, step)
            over: asyncio.Future[None] = self.worker.loop.create_future()
            execution.watch(functools.partial(_tell, over))
            try:
                await over
            finally:
                if not (execution.task.done() or execution.is_left):
                    execution.cancel()
                if execution.timer is not None:
                    execution.timer.cancel()
            del step.execution
            now = self.worker.env.now()
            state, payload, due_at = self._outcome(step, execution, now)
            self.turn.nested_ended(
                key, state, payload, now, attempt=step.attempt, started_at=step.started_at, due_at=due_at
            )
            await self._acknowledged()
            self.progress.pop(key, None)
            known = self.turn.replay.history.nested.get(key)
        if known.state == "error":
            raise failure.rebuild(failure.decode_error(known.payload or "{}"))
        return spec.result.decode(known.payload)

    async def _acknowledged(self) -> None:
        """Wait until everything decided so far is committed."""
        future = self.worker.loop.create_future()
        self._unacknowledged.append(future)
        self.worker.loop.call_soon(self.go_on)
        await future

    def watched(self, watchers: Watchers, decision: Decision) -> None:
        """Tell those who watch of a decision that is durable."""
        watchers.committed(self.turn, decision, {key: step.attempt for key, step in self._steps.items()})

    def forget(self, step: StepRun) -> None:
        """A step is over."""
        del self._steps[step.key]
        del step.execution  # its task's context holds the step: a circle, which the collector would have to find

    def stop(self, step: StepRun) -> None:
        """End a step that nobody waits for any more."""
        del self._steps[step.key]
        step.execution.cancel()
        if self.transactional is not None:
            self.transactional.stopped(step)

    def _stop_cancelled(self) -> None:
        for key in self.turn.cancels():
            if key in self._steps:
                self.stop(self._steps[key])

    def _stop_steps(self) -> None:
        for step in list(self._steps.values()):
            self.stop(step)

    def _finish(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._stop_steps()
        self.turn.close()
        self.worker.left(self)


def _tell(over: asyncio.Future[None], body: asyncio.Task[Any]) -> None:
    if not over.done():
        over.set_result(None)
    elif body.done() and not body.cancelled():  # nobody waits for it any more, and asyncio would complain
        body.exception()
