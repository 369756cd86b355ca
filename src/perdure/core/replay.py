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
from collections.abc import Callable, Mapping
from typing import Any

from perdure.core.ask import Ask, ChildAsk, ChildSpec, EventAsk, Program, StepAsk, StepSpec, TimerAsk
from perdure.core.drift import Drift
from perdure.core.history import History
from perdure.core.loop import LATEST, ReplayLoop
from perdure.core.saga import Saga, Undo
from perdure.core.settlement import read
from perdure.model import codec, failure
from perdure.model.codec import Shape
from perdure.model.errors import (
    FanOutTooWideError,
    JournalTooLongError,
    NestingTooDeepError,
    NotDurableError,
    RunTerminatedError,
    SerializationError,
    UsageError,
)
from perdure.model.limits import Limits
from perdure.model.record import Kind, Outcome, Record, State
from perdure.model.run import Run

_log = logging.getLogger("perdure.workflow")

_REFUSALS = 100
"""How often code that is being dropped is told so; code that goes on asking is humoured, to no effect."""


class Replay:
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
        records: records made here and not yet taken.
        outcome: the run's output, once its code has ended: `("ok", payload)` or `("error", payload)`.
        saga: what can be undone; None as long as nothing can.
        cause: once the run's code is over and it is being undone, the error that it will end with, as a payload.
        renewal: the input payload of the next incarnation, once the code asked for it.
        drift: how code and journal differ, once that is known.
        state: what `flow.set` made readable, as payloads by name.
        history: the journal it began with.
    """

    def __init__(
        self, program: Program, run: Run, journal: list[Record], limits: Limits, entropy: Callable[[int], bytes]
    ) -> None:
        self.program = program
        self.run = run
        self.limits = limits
        self.entropy = entropy
        self.now = 0
        self.loop = ReplayLoop(self)  # type: ignore[abstract]  # the rest is refused by name, see there
        self.asks: dict[str, Ask] = {}
        self.fresh: list[Ask] = []
        self.dropped: list[Ask] = []
        self.records: list[Record] = []
        self.outcome: tuple[Outcome, str] | None = None
        self.saga: Saga | None = None
        self.cause: str | None = None
        self.renewal: str | None = None
        self.drift: Drift | None = None
        self.state: dict[str, str] = {}
        self.history = History(journal)
        self.position = len(journal)
        self._uses: dict[str, int] = {}
        self._patches: dict[str, bool] = {}
        self._input = journal[0]
        self._main: asyncio.Task[Any] | None = None
        self._refusals = 0
        self._count = 1  # of the records so far, in the order of the code: a replay comes to the same count
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

    def settle(
        self,
        key: str,
        state: State,
        payload: str | None,
        now: int,
        *,
        attempt: int = 1,
        started_at: int | None = None,
        ref: str | None = None,
    ) -> None:
        """Record the end of something asked for, and deliver it. An ask that is gone (cancelled) is not recorded."""
        ask = self.asks.get(key)
        if ask is None or self.is_over:
            return
        self.now = now
        self.loop.at = max(self.loop.at, now)
        value, error = read(ask, state, payload)
        if error is not None and state == "ok":
            state, payload = "error", failure.encode_error(failure.describe(error))
        self.record(key, ask.kind, state, payload, attempt=attempt, started_at=started_at, ref=ref)
        self._deliver(ask, value, error, payload)
        self._advance()

    def turn_back(self, now: int, ref: str) -> None:
        """Drop the code where it stands, and undo what it did, because the message `ref` says so."""
        self.now = now
        self.loop.at = max(self.loop.at, now)
        self._undo(self.record("undo", "undo", "ok", None, ref=ref))
        self._advance()

    def record(self, key: str, kind: Kind, state: State, payload: str | None, **details: Any) -> Record:
        """Append a record at the present time and return it."""
        held = self.history.next()
        before = None if held is None else held.position
        record = Record(self.position, key, kind, state, self.loop.at, payload, before=before, **details)
        self.position += 1
        self.records.append(record)
        if state != "open" and "/" not in key:
            self._count += 1
        return record

    def take(self) -> list[Record]:
        """Return the records made since the last call."""
        records, self.records = self.records, []
        return records

    def close(self) -> None:
        """Drop the code; nothing it still does reaches the journal."""
        self.loop.dispose()
        self.asks.clear()
        self._main = self.saga = None
        del self.loop.replay  # with the saga, the only circles, so that a run is freed at once, not by the collector

    @property
    def is_replaying(self) -> bool:
        """Whether records of an earlier turn are still to be delivered."""
        return self.history.next() is not None

    @property
    def is_over(self) -> bool:
        """Whether the code has nothing more to say: it ended, asked for a new incarnation, or drifted."""
        return self.outcome is not None or self.renewal is not None or self.drift is not None

    # What workflow code asks for.

    async def wait_for(self, ask: Ask) -> Any:
        """Wait for what was asked for, and take it back if the waiting is cancelled."""
        future = ask.future
        assert future is not None
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self.cancel(ask.key)
            raise

    def ask_step(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        undo: Undo | None = None,
        name: str | None = None,
    ) -> StepAsk:
        """Ask for a step, recorded under a name other than its own if one is given; its future is that of its result.

        Once it has completed, `undo` can undo it.
        """
        ask = StepAsk(self.key(name or spec.name), self.loop.create_future(), spec, args, kwargs)
        self._ask(ask)
        if undo is not None or self.history.undos:
            self._register(ask.key, undo)
        return ask

    def ask_timer(self, name: str, due_at: int, fire: Callable[[], None], *, is_guard: bool) -> TimerAsk:
        """Ask for a moment, in milliseconds since the epoch; `fire` is called when it has come."""
        ask = TimerAsk(self.key(name), None, due_at, fire, is_guard=is_guard)
        self._ask(ask)
        return ask

    def ask_sleep(self, name: str, due_at: int) -> TimerAsk:
        """Ask for a moment, in milliseconds since the epoch; its future is done when it has come."""
        ask = TimerAsk(self.key(name), self.loop.create_future(), min(due_at, LATEST), lambda: None)
        self._ask(ask)
        return ask

    def ask_event(self, name: str, kind: str, due_at: int | None, shape: Shape) -> EventAsk:
        """Ask for an event of a type; its future is that of its payload."""
        ask = EventAsk(self.key(name), self.loop.create_future(), kind, due_at, shape)
        self._ask(ask)
        return ask

    def ask_child(self, spec: ChildSpec, name: str | None = None, undo: Undo | None = None) -> ChildAsk:
        """Ask for a child run, recorded under its workflow's name or another; its future is that of its output.

        Once it has completed, `undo` can undo it.
        """
        if self.run.depth + 1 > self.limits.nesting:
            raise NestingTooDeepError(
                f"workflow {spec.workflow!r} would be the child number {self.run.depth + 1} in a row, "
                f"over Limits.nesting = {self.limits.nesting}"
            )
        key = self.key(name or spec.workflow)
        lineage = f"~{self.run.incarnation}" if self.run.incarnation else ""
        ask = ChildAsk(key, self.loop.create_future(), spec, spec.run_id or f"{self.run.id}{lineage}/{key}")
        self._ask(ask)
        if key not in self.history.opened:
            self.record(key, "child", "open", None, ref=ask.run_id)
        if undo is not None or self.history.undos:
            self._register(key, undo)
        return ask

    def begin_saga(self) -> Saga:
        """Return the saga of the run, from now on if it had none."""
        if self.saga is None:
            self.saga = Saga(self)
        return self.saga

    def value(self, name: str, make: Callable[[], object]) -> Any:
        """Return a value that is made once and recorded."""
        self._refuse_closed()
        self._require_room()
        key = self.key(name)
        known = self.history.use(key)
        if known is None:
            known = self.record(key, "value", "ok", codec.encode(make(), name, self.limits.payload_bytes))
        else:
            self._count += 1
        return codec.decode_any(known.payload)

    def patched(self, patch: str) -> bool:
        """Return whether a run takes the new side of a change: True unless it passed here before the change."""
        self._refuse_closed()
        if patch not in self._patches:
            key = f"patch:{patch}"
            is_known = self.history.use(key) is not None
            self._patches[patch] = is_known or not (self.is_replaying or self.history.begun)
            if is_known:
                self._count += 1
            elif self._patches[patch]:
                self.record(key, "patch", "ok", None)
        return self._patches[patch]

    def set(self, name: str, value: object) -> None:
        """Make a value readable from outside under a name."""
        self._refuse_closed()
        self.state[name] = codec.encode(value, f"state {name!r}", self.limits.payload_bytes)

    def renew(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> asyncio.Future[Any]:
        """Ask to begin anew with other arguments; the future never comes, the code is dropped instead.

        Raises:
            UsageError: what was done so far could not be undone from there.
        """
        self._refuse_closed()
        if self.saga is not None and (kept := self.saga.kept()):
            raise UsageError(
                f"flow.continue_as_new: {kept[0]!r} has an undo, which a renewed run does not know of any more; "
                "call flow.pivot() first if there is no way back from here"
            )
        self.renewal = self.program.renew(args, kwargs, self.limits.payload_bytes)
        return self.loop.create_future()

    def cancel(self, key: str) -> None:
        """Take back something asked for."""
        ask = self.asks.pop(key, None)
        if ask is not None:
            self.dropped.append(ask)
            if self.saga is not None:
                self.saga.cancelled(key)

    def key(self, name: str) -> str:
        """Return the journal key of the next use of a name."""
        use = self._uses.get(name, 0) + 1
        self._uses[name] = use
        return name if use == 1 else f"{name}#{use}"

    def report(self, context: Mapping[str, Any]) -> None:
        """Log what asyncio has to say, unless it was said before the run was replayed."""
        if not self.is_replaying:
            message = context.get("message", "unhandled error")
            _log.error("run %s: %s", self.run.id, message, exc_info=context.get("exception"))

    # Inside.

    def _ask(self, ask: Ask) -> None:
        self._refuse_closed()
        if self.loop.is_closed():
            return  # its future never comes, which leaves the code suspended
        if len(self.asks) >= self.limits.fan_out:
            raise FanOutTooWideError(
                f"workflow {self.program.name!r} waits for more than Limits.fan_out = {self.limits.fan_out:,} things "
                "at once; take them in groups"
            )
        self._require_room()
        self.asks[ask.key] = ask
        self.fresh.append(ask)
        self.history.begun.discard(ask.key)
        begun = self.history.opened.get(ask.key)
        if begun is not None and begun.kind != ask.kind:
            self._part(begun, ask)

    def _register(self, key: str, undo: Undo | None) -> None:
        """Register how something is undone, unless neither the code nor the journal says that it can be."""
        if undo is not None or key in self.history.undos:
            self.begin_saga().register(key, undo)

    def _require_room(self) -> None:
        if self.cause is None and self._count + len(self.asks) >= self.limits.journal_records:
            raise JournalTooLongError(
                f"run {self.run.id!r} reached Limits.journal_records = {self.limits.journal_records:,}; "
                "use flow.continue_as_new to go on with a fresh journal"
            )

    def _refuse_closed(self) -> None:
        # GeneratorExit, because that is what a coroutine that is being dropped is unwound with.
        if self.loop.is_closed():
            self._refusals += 1
            if self._refusals <= _REFUSALS:
                raise GeneratorExit("the run has left this worker")

    def _advance(self) -> None:
        """Drain the loop, then deliver recorded settlements one by one, draining in between."""
        self._drain()
        while not self.is_over and (record := self.history.next()) is not None:
            if record.kind == "undo":
                self.history.advance()
                self._count += 1
                self.loop.at = max(self.loop.at, record.at)
                self._undo(record)
                continue
            ask = self.asks.get(record.key)
            if ask is None or ask.kind != record.kind:
                if ask is not None or not self._has_live_asks():
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
        elif main is not None and main.done() and not self.is_over:
            self._finish(main)

    def _finish(self, main: asyncio.Task[Any]) -> None:
        error: BaseException | None = asyncio.CancelledError() if main.cancelled() else main.exception()
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
            return
        if error is None:
            what = f"the result of workflow {self.program.name!r}"
            try:
                payload = codec.encode(main.result(), what, self.limits.payload_bytes)
                self.program.result.decode(payload)
                self._end("ok", payload)
                return
            except UsageError as unfit:
                error = unfit
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End with an error, once what can be undone is; a replay comes to that by the journal."""
        left = self.history.next()
        if left is not None and left.kind == "undo":
            return
        payload = failure.encode_error(failure.describe(error))
        if self.saga is not None and self.saga.has_work:
            self._undo(self.record("undo", "undo", "error", payload))
        else:
            self._end("error", payload)

    def _end(self, state: Outcome, payload: str) -> None:
        self.outcome = (state, payload)
        self.record("output", "output", state, payload)

    def _undo(self, record: Record) -> None:
        """Drop the code, as a record says, and undo in its place what it did."""
        ended = RunTerminatedError(f"run {self.run.id!r} was terminated")
        self.cause = record.payload or failure.encode_error(failure.describe(ended))
        self.loop.clear()
        self.dropped += self.asks.values()
        self.asks.clear()
        self._refusals = 0
        self._main = self.loop.create_task(self.begin_saga().compensate(), context=contextvars.Context())
        self._drain()

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
        future = ask.future
        if future is None or future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
