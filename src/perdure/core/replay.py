"""Runs one workflow over its journal.

The rules, in order of weight:

1. Settlements are delivered one at a time, in the journal's order, and the loop is drained between them. A first run
   delivers them in the order it records them, so races end the same way every time.
2. A record's key is its name, with `#2`, `#3`, … for the second and third use. A step that newer code adds is asked for
   under a key of its own: the records behind it wait while it runs, and it is recorded as standing `before` them.
3. When nothing can be delivered, nothing is left to run, and records were never asked for, code and journal have
   drifted apart. That is reported, never raised into workflow code.
4. A value passes through the codec on its way in, the first time too.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perdure.core.ask import Ask, ChildAsk, Program, TimerAsk, Work, ends_first
from perdure.core.asking import Asking
from perdure.core.drift import Drift
from perdure.core.loop import ReplayLoop
from perdure.core.saga import LEFT_BEHIND, terminated
from perdure.core.settlement import read
from perdure.model import codec, failure
from perdure.model.errors import (
    NotDurableError,
    SerializationError,
    UsageError,
)
from perdure.model.limits import Limits
from perdure.model.record import Outcome, Record, State
from perdure.model.run import Run, RunStatus

_log = logging.getLogger("perdure.workflow")


class Replay(Asking):
    """One workflow over one journal: a state machine that is fed settlements and asks for things.

    Args:
        program: the workflow.
        run: its run.
        journal: the records so far, the input first.
        limits: the bounds to keep.
        entropy: returns that many random bytes; what workflow code gets of them is recorded.

    Attributes:
        asks: what is waited for, by key.
        fresh: asks made since they were last taken.
        dropped: asks that workflow code cancelled since they were last taken.
        left: steps and children with an undo that the code does not wait for any more, since they were last looked at.
        may_run: whether a step's attempt, or a child, may have been under way at a moment, which the turn knows.
        records: records made here and not yet taken.
        outcome: the run's output, once its code has ended: `("ok", payload)` or `("error", payload)`.
        saga: what can be undone; None as long as nothing can.
        cause: once the run's code is over and it is being undone, the error that it will end with, as a payload.
        renewal: the input payload of the next incarnation, once the code asked for it.
        drift: how code and journal differ, once that is known.
        state: what `flow.set` made readable, as payloads by name.
        history: the journal it began with.
        is_winding_down: what is under way comes to its end, and nothing more is begun; it is undone behind that.
        renewals: how often the run has gone on as new; its input's `attempt`, less one, so that a restart keeps it.
    """

    def __init__(
        self, program: Program, run: Run, journal: list[Record], limits: Limits, entropy: Callable[[int], bytes]
    ) -> None:
        super().__init__(program, run, journal, limits, entropy)
        self.loop = ReplayLoop(self)  # type: ignore[abstract]  # the rest is refused by name, see there
        self.outcome: tuple[Outcome, str] | None = None
        self.is_winding_down = self._is_turned_back = False
        self._has_undone_below = False
        self._input = journal[0]
        self.renewals = journal[0].attempt - 1
        self._main: asyncio.Task[Any] | None = None
        self.loop.at = max(journal[0].at, run.started_at or 0)

    # Driving it.

    def start(self, now: int) -> None:
        """Begin the code and deliver the journal, as far as it goes."""
        self.now = now
        try:
            coroutine = self.program.begin(self._input.payload or "{}", self.run)
        except (Exception, SystemExit) as error:
            if isinstance(error, SerializationError) and self.is_replaying:
                self.drift = Drift.unreadable(self._input, error)
            else:
                self._end("error", failure.encode_error(failure.describe(error)))
            return
        self._main = self.loop.create_task(coroutine, context=contextvars.Context())
        self._advance()

    def settle(self, key: str, state: State, payload: str | None, now: int, **details: Any) -> None:
        """Record the end of something asked for, and deliver it. An ask that is gone (cancelled) is not recorded.

        Args:
            key: of what was asked for.
            state, payload: how it ended.
            now: when that is told.
            details: more for its record: `attempt`, `started_at`, `ref`.
        """
        ask = self.asks.get(key)
        if ask is None or self.is_over:
            return
        self.now = now
        self.loop.at = max(self.loop.at, now)
        self._take_end(ask, state, payload, **details)

    def wind_down(self, now: int, under_way: Sequence[Work]) -> None:
        """Let what is under way come to its end, without a further attempt, and begin nothing more."""
        self.now = now
        self.loop.at = max(self.loop.at, now)
        self.is_winding_down = True
        for ask in under_way:
            ask.left_at = self.loop.at

    def turn_back(self, now: int, ref: str) -> None:
        """Drop the code where it stands, and undo what it did, because the message `ref` says so."""
        self.now = now
        self.loop.at = max(self.loop.at, now)
        self._undo(self.record("undo", "undo", "ok", None, ref=ref))
        self._advance()

    def renewed(self, now: int) -> Record:
        """Return the input of the next incarnation."""
        return Record(0, "input", "input", "ok", max(now, self.loop.at), self.renewal, attempt=self.renewals + 2)

    def close(self) -> None:
        """Drop the code; nothing it still does reaches the journal."""
        self.loop.dispose()
        self.asks.clear()
        self._main = self._settling = self.saga = None
        del self.loop.replay  # with the saga, the only circles, so that a run is freed at once, not by the collector

    @property
    def is_wound_down(self) -> bool:
        """Whether nothing of what was under way is left, or the code asks for more than that."""
        more = (ask for ask in self.fresh if not (isinstance(ask, TimerAsk) and ask.is_guard))
        if any(self.asks.get(ask.key) is ask for ask in more):
            return True
        return not any(ends_first(ask) and ask.left_at is not None for ask in self.asks.values())

    @property
    def end(self) -> RunStatus:
        """What the run ends as, now that its outcome is known: compensated if any undo was begun, here or below."""
        if self.outcome is not None and self.outcome[0] == "ok":
            return RunStatus.COMPLETE
        if self._has_undone_below or (self.saga is not None and self.saga.has_undone):
            return RunStatus.COMPENSATED
        return RunStatus.TERMINATED if self._is_turned_back else RunStatus.ERRORED

    @property
    def is_over(self) -> bool:
        """Whether the code has nothing more to say: it ended, asked for a new incarnation, or drifted."""
        return self.outcome is not None or self.renewal is not None or self.drift is not None

    def report(self, context: Mapping[str, Any]) -> None:
        """Log what asyncio has to say, unless it was said before the run was replayed."""
        if not self.is_replaying:
            message = context.get("message", "unhandled error")
            _log.error("run %s: %s", self.run.id, message, exc_info=context.get("exception"))

    # Inside.

    def _take_end(self, ask: Ask, state: State, payload: str | None, **details: Any) -> None:
        value, error = read(ask, state, payload)
        if error is not None and state == "ok":
            state, payload = "error", failure.encode_error(failure.describe(error))
        self.record(ask.key, ask.kind, state, payload, **details)
        self._deliver(ask, value, error, payload)
        self._advance()

    def _advance(self) -> None:
        """Drain the loop, then deliver recorded settlements one by one, draining in between."""
        self._drain()
        while not self.is_over and (record := self.history.next()) is not None:
            if record.kind == "undo":
                self.history.advance()
                self.history.is_undone = False
                self._count += 1
                self.loop.at = max(self.loop.at, record.at)
                self._undo(record)
                continue
            ask = self.asks.get(record.key)
            if ask is None or ask.kind != record.kind:
                if ask is not None or self.history.is_undone or not self._has_live_asks():
                    self._part(record, ask)
                return
            self.history.advance()
            self._count += 1
            self.loop.at = max(self.loop.at, record.at)
            value, error = read(ask, record.state, record.payload)
            if error is not None and record.state == "ok":
                self.drift = Drift.unreadable(record, error)
                return
            self._deliver(ask, value, error, record.payload)
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                self.loop.drain()
                break
            except NotDurableError as error:
                if self.cause is not None:
                    raise
                self._fail(error)
                return
            except SystemExit:  # its task keeps it as its error, and so the run ends with it, not the worker
                continue
        main, left = self._main, self.history.next()
        if self.renewal is not None and left is not None:
            self.renewal = None
            if left.kind != "undo":
                self._part(left, None)
        elif main is not None and main.done() and not self.is_over and not (self.saga and self.saga.is_taking_back):
            self._finish(main)

    def _finish(self, main: asyncio.Task[Any]) -> None:
        error: BaseException | None = asyncio.CancelledError() if main.cancelled() else main.exception()
        if self.cause is None and error is None and self._sees_to_failed():
            return
        left = self.history.next()
        if left is not None:
            if left.kind != "undo":
                self._part(left, None, error)
            return
        self.loop.at = max(self.loop.at, self.now)
        if self.cause is not None:
            if error is not None:
                raise RuntimeError(f"run {self.run.id!r} cannot be undone: {error}") from error
            self._end("error", self.cause)
        elif error is not None:
            self._fail(error)
        else:
            self._complete(main.result())

    def _complete(self, result: object) -> None:
        try:
            payload = codec.encode(result, f"the result of workflow {self.program.name!r}", self.limits.payload_bytes)
            self.program.result.decode(payload)
        except UsageError as unfit:
            self._fail(unfit)
        else:
            self._end("ok", payload)

    def _sees_to_failed(self) -> bool:
        """Return whether code that completed left failed undos behind, to which an operator is still to see."""
        if self._settling is None:
            left = self.history.next()
            children = {ask.key: ask for ask in self.asks.values() if isinstance(ask, ChildAsk)}
            is_due = left is None or left.kind == "undo" or left.key == LEFT_BEHIND or left.key in children
            if self.saga is None or not is_due or not self.saga.failed():
                return False
            self._drop_code(children)  # which go on, as when a run has completed
            for ask in self.asks.values():
                ask.future = self.loop.create_future()
            self._settling = self.loop.create_task(self.saga.see_to_failed(LEFT_BEHIND), context=contextvars.Context())
            self._drain()
        return not self._settling.done()

    def _fail(self, error: BaseException) -> None:
        """End with an error, once what can be undone is; a replay comes to that by the journal."""
        left = self.history.next()
        if left is not None and left.kind == "undo":
            return
        payload = failure.encode_error(failure.describe(error))
        if self.saga is not None and (
            self.saga.has_work or any(self.may_run(ask, self.loop.at) for ask in self.saga.under_way())
        ):
            self._undo(self.record("undo", "undo", "error", payload))
        else:
            self._end("error", payload)

    def _end(self, state: Outcome, payload: str) -> None:
        self.outcome = (state, payload)
        self.record("output", "output", state, payload)

    def _undo(self, record: Record) -> None:
        """Drop the code, as a record says, and undo in its place what it did."""
        self.cause = record.payload or failure.encode_error(failure.describe(terminated(self.run.id)))
        self.is_winding_down, self._is_turned_back = False, record.state == "ok"
        self._settling = None
        saga = self.begin_saga()
        left = {ask.key: ask for ask in saga.under_way()}
        self._drop_code(left)
        ends = [self.leave(ask) for ask in left.values()]
        self._refusals = 0
        self._main = self.loop.create_task(saga.compensate(ends), context=contextvars.Context())
        self._drain()

    def _drop_code(self, kept: Mapping[str, Ask]) -> None:
        """Drop the code where it stands, and what it asked for but for some of that."""
        self.loop.clear()
        self.dropped += [ask for ask in self.asks.values() if ask.key not in kept]
        self.asks.clear()
        self.asks.update(kept)

    def _has_live_asks(self) -> bool:
        """Return whether something was asked for that no record settles, so that new code can go on."""
        recorded = self.history.keys_left()
        return any(
            key not in recorded and not (isinstance(ask, TimerAsk) and ask.is_guard) for key, ask in self.asks.items()
        )

    def _part(self, record: Record, ask: Ask | None, error: BaseException | None = None) -> None:
        asked = [ask] if ask is not None else list(self.asks.values())
        has_ended = self._main is not None and self._main.done()
        self.drift = Drift.between(record, asked, has_ended=has_ended, error=error)

    def _deliver(self, ask: Ask, value: Any, error: Exception | None, payload: str | None) -> None:
        del self.asks[ask.key]
        if self.saga is not None:
            self.saga.settled(ask, payload, is_ok=error is None)
        if isinstance(ask, TimerAsk):
            ask.fire()
        elif isinstance(ask, ChildAsk) and error is not None:
            self._has_undone_below |= failure.decode_error(payload or "{}").is_undone
        future = ask.future
        if future is None or future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
