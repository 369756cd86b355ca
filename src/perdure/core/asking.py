"""What workflow code does with a replay: it asks for things, makes what is recorded, and takes asks back."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any

from perdure.core.ask import Ask, ChildAsk, ChildSpec, EventAsk, Program, StepAsk, StepSpec, TimerAsk, Work
from perdure.core.drift import Drift
from perdure.core.history import History
from perdure.core.loop import LATEST, ReplayLoop
from perdure.core.saga import Saga, Undo, unhurried
from perdure.model import codec
from perdure.model.codec import Shape
from perdure.model.errors import FanOutTooWideError, JournalTooLongError, NestingTooDeepError, UsageError
from perdure.model.limits import Limits
from perdure.model.record import Kind, Record, State
from perdure.model.run import Run

_REFUSALS = 100
"""How often code that is being dropped is told so; code that goes on asking is humoured, to no effect."""


class Asking:
    """The side of a replay that workflow code sees; see `perdure.core.replay.Replay`, which also makes the loop."""

    loop: ReplayLoop
    may_run: Callable[[Work, int], bool]

    def __init__(
        self, program: Program, run: Run, journal: list[Record], limits: Limits, entropy: Callable[[int], bytes]
    ) -> None:
        self.program = program
        self.run = run
        self.limits = limits
        self.entropy = entropy
        self.now = 0
        self.asks: dict[str, Ask] = {}
        self.fresh: list[Ask] = []
        self.dropped: list[Ask] = []
        self.left: list[Work] = []
        self.records: list[Record] = []
        self.saga: Saga | None = None
        self.cause: str | None = None
        self._settling: asyncio.Task[None] | None = None
        self.renewal: str | None = None
        self.drift: Drift | None = None
        self.state: dict[str, str] = {}
        self.history = History(journal)
        self.position = len(journal)
        self._sent_state = run.state
        self._uses: dict[str, int] = {}
        self._patches: dict[str, bool] = {}
        self._refusals = 0
        self._count = 1  # of the records so far, in the order of the code: a replay comes to the same count

    async def wait_for(self, ask: Ask) -> Any:
        """Wait for what was asked for, and take it back if the waiting is cancelled.

        A step or a child with an undo that may be under way ends first, and is undone if it completed.
        """
        future = ask.future
        assert future is not None
        try:
            return await future
        except asyncio.CancelledError:
            ending: asyncio.Task[None] | None = None
            if future.cancelled():
                ending = self.cancel(ask.key)
            elif self.saga is not None:  # it completed in this very moment, and its result reaches nobody
                ending = self.saga.take_back(ask.key)
            if ending is not None:
                await unhurried(ending)
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

    def cancel(self, key: str) -> asyncio.Task[None] | None:
        """Take back something asked for; return what sees to its end and undoes it, None where nothing has to."""
        ask = self.asks.get(key)
        if ask is None:
            return None
        if self.saga is not None and self.saga.keeps(ask):
            return self.saga.take_back(key)
        del self.asks[key]
        self.dropped.append(ask)
        return None

    def leave(self, ask: Work, *, is_wanted: bool = False) -> asyncio.Future[Any]:
        """Wait for what may be under way of a step or a child, and for no more; return the future of its end.

        The code's own future is cancelled, or would call code that was dropped, unless it `is_wanted`.
        """
        if ask.left_at is None:
            ask.left_at = self.loop.at
        told, ask.future = ask.future, self.loop.create_future()
        if is_wanted and told is not None:
            ask.future.add_done_callback(functools.partial(_pass_on, told))
        self.left.append(ask)
        return ask.future

    def changed_state(self) -> str | None:
        """Return what `flow.set` made readable, as text, if that is not what was returned last."""
        if not self.state or self.drift is not None:
            return None
        text = codec.encode_object(self.state)
        if text == self._sent_state:
            return None
        self._sent_state = text
        return text

    def key(self, name: str) -> str:
        """Return the journal key of the next use of a name."""
        use = self._uses.get(name, 0) + 1
        self._uses[name] = use
        return name if use == 1 else f"{name}#{use}"

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

    @property
    def is_replaying(self) -> bool:
        """Whether records of an earlier turn are still to be delivered."""
        return self.history.next() is not None

    @property
    def is_undoing(self) -> bool:
        """Whether the code is over, and what it did is being undone, or had to be."""
        return self.cause is not None or self._settling is not None

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
            self.drift = Drift.between(begun, [ask], has_ended=False)

    def _register(self, key: str, undo: Undo | None) -> None:
        """Register how something is undone, unless neither the code nor the journal says that it can be."""
        if undo is not None or key in self.history.undos:
            self.begin_saga().register(key, undo)

    def _require_room(self) -> None:
        if not self.is_undoing and self._count + len(self.asks) >= self.limits.journal_records:
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


def _pass_on(told: asyncio.Future[Any], end: asyncio.Future[Any]) -> None:
    """Have one future end as another did."""
    if told.done():
        return
    error = end.exception()
    if error is None:
        told.set_result(end.result())
    else:
        told.set_exception(error)
