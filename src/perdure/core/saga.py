"""Sagas: what can be undone, in which order that is done, and what becomes of undos that fail.

Whatever has an undo is registered in the journal before it runs, and counts from when it has completed. When the run's
code ends with an error, or the run is to be terminated and undone, a record says so; the code is dropped where it
stands, and `Saga.compensate` runs in its place, on the same loop and over the same journal. So it goes on after a
crash like all code does, and newer code cannot take it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.core.ask import Ask, StepSpec, Work, ends_first
from perdure.core.settlement import read
from perdure.core.wait import Wait
from perdure.model import failure
from perdure.model.codec import Shape
from perdure.model.errors import CompensationFailedError, RunTerminatedError, UsageError
from perdure.model.record import ErrorInfo
from perdure.model.retry import NO_RETRY

if TYPE_CHECKING:
    from perdure.core.asking import Asking

RESERVED = "perdure:"
"""What the types of Perdure's own messages begin with."""

CANCEL = "perdure:cancel"
"""The type of the message that has a run terminated and undone."""

RECALL = "perdure:recall"
"""The type of the message by which a parent has a child end that it has no use for: it is to begin nothing more."""

DECISION = "perdure:undo"
"""The type of the message that says what becomes of failed undos: `{"key": which or None for all, "verb": ...}`."""

LEFT_BEHIND = "perdure:undo-of-block"
"""The name of the records of such messages in a run whose code has completed."""

Undo = Callable[[Any], Coroutine[Any, Any, object]]
"""Given the result of what it undoes, returns workflow code that undoes it, under the key `undo_key()`."""

_ANY = Shape(Any, "an operator's decision")
_key: ContextVar[str | None] = ContextVar("perdure_undo", default=None)
_scope: ContextVar[Scope | None] = ContextVar("perdure_saga", default=None)


class Scope:
    """What is undone together: a `flow.saga()` block, or the run as a whole.

    Attributes:
        parent: the block around it; None for the run.
        is_left: the code has left it, so that what completed in it belongs to its parent.
        is_final: it is past its pivot: nothing in it is undone any more.
    """

    __slots__ = ("is_final", "is_left", "parent")

    def __init__(self, parent: Scope | None) -> None:
        self.parent = parent
        self.is_left = False
        self.is_final = False

    def home(self) -> Scope:
        """Return the scope that what completed in this one belongs to now."""
        scope = self
        while scope.is_left and scope.parent is not None:
            scope = scope.parent
        return scope

    def around(self) -> Iterator[Scope]:
        """Return this scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


@dataclass(slots=True, eq=False)
class Undoable:
    """Something with an undo: not yet completed, completed, undone, or in need of an operator.

    Attributes:
        key: the record key of the step or child.
        undo: how it is undone; None where today's code does not say.
        scope: what it is undone with.
        ask, payload: what completed, and its result.
        tries: how often undoing it was begun.
        is_busy: it is being undone.
        error: what the last try failed with; None unless it did.
        is_settled: it is undone, or an operator said so.
        is_taken_back: the code cancelled it, so it is undone as soon as it has completed.
    """

    key: str
    undo: Undo | None
    scope: Scope
    ask: Ask | None = None
    payload: str | None = None
    tries: int = 0
    is_busy: bool = False
    error: str | None = None
    is_settled: bool = False
    is_taken_back: bool = False


class Saga:
    """The undos of one run.

    Args:
        replay: of the run.

    Attributes:
        is_stuck: undos failed, and an operator is waited for.
    """

    def __init__(self, replay: Asking) -> None:
        self.is_stuck = False
        self._replay = replay
        self._run = Scope(None)
        self._open: dict[str, Undoable] = {}
        self._completed: list[Undoable] = []
        self._taken_back = 0
        self._has_undone_at_end = False

    # What workflow code does.

    def register(self, key: str, undo: Undo | None) -> None:
        """Note how something that was asked for is undone, in the journal too; nothing past a pivot, or in an undo."""
        scope = (_scope.get() or self._run).home()
        if scope.is_final or _key.get() is not None:
            return
        self._open[key] = Undoable(key, undo, scope)
        undos = self._replay.history.undos
        if key not in undos:
            undos.add(key)
            self._replay.record(f"undo:{key}", "undo", "open", None)

    def settled(self, ask: Ask, payload: str | None, *, is_ok: bool) -> None:
        """Something that was asked for ended."""
        undoable = self._open.pop(ask.key, None)
        if undoable is not None and is_ok:
            undoable.ask, undoable.payload = ask, payload
            self._completed.append(undoable)

    def keeps(self, ask: Ask) -> bool:
        """Return whether something that the code takes back has to end by itself, lest its effect be lost."""
        undoable = self._open.get(ask.key)
        if undoable is not None and ends_first(ask) and self._is_bound(undoable):
            return True
        self._open.pop(ask.key, None)
        return False

    def take_back(self, key: str, *, is_wanted: bool = False) -> asyncio.Task[None] | None:
        """See to the end of something that the code takes back, and undo it if it completed; return what does so.

        Args:
            key: of what is taken back.
            is_wanted: code still waits for it, and is told how it ended.
        """
        undoable = self._open.get(key) or next((each for each in self._left() if each.key == key), None)
        if undoable is None or undoable.is_busy or undoable.error is not None or self._replay.loop.is_closed():
            return None
        undoable.is_taken_back = undoable.is_busy = True
        self._taken_back += 1
        ask = self._replay.asks.get(key)
        end = self._replay.leave(ask, is_wanted=is_wanted) if ends_first(ask) else None
        return self._replay.loop.create_task(self._take_back(undoable, end))

    @property
    def is_taking_back(self) -> bool:
        """Whether something that the code took back has not ended yet, or is being undone."""
        return self._taken_back > 0

    def under_way(self) -> list[Work]:
        """Return the steps and children that have not ended, and have to be undone if they completed."""
        asks = [self._replay.asks.get(undoable.key) for undoable in self._open.values() if self._is_bound(undoable)]
        return [ask for ask in asks if ends_first(ask)]

    def enter(self) -> Scope:
        """Begin a block; return its scope."""
        scope = Scope((_scope.get() or self._run).home())
        _scope.set(scope)
        return scope

    async def leave(self, scope: Scope, *, is_failed: bool) -> None:
        """End a block; if it failed, undo what completes in it or has completed, which no cancellation interrupts."""
        _scope.set(scope.parent)
        undoables = self._undoable(scope) if is_failed else []
        asks = [ask for ask in self.under_way() if scope in self._open[ask.key].scope.home().around()]
        endings = [self.take_back(ask.key, is_wanted=True) for ask in asks] if is_failed else []
        scope.is_left = True
        if not (undoables or endings) or self._replay.loop.is_closed():  # closed: the code is being dropped
            return
        ends = [ending for ending in endings if ending is not None]
        cancelled = await unhurried(self._replay.loop.create_task(self._undo_block(ends, undoables)))
        if cancelled is not None:
            raise cancelled

    def pivot(self) -> None:
        """Give up the way back, for the block that the code is in, and those around it."""
        for scope in (_scope.get() or self._run).around():
            scope.is_final = True

    def kept(self) -> list[str]:
        """Return the keys of what could still have to be undone."""
        under_way = [undoable for undoable in self._open.values() if not undoable.scope.home().is_final]
        return [undoable.key for undoable in (*under_way, *self._left())]

    # What is done in place of the code.

    @property
    def has_work(self) -> bool:
        """Whether anything has to be undone, or could not be."""
        return bool(self._left())

    @property
    def has_undone(self) -> bool:
        """Whether an undo was begun, by a block or for something cancelled too, unless the run is past a pivot."""
        before = not self._run.is_final and any(undoable.tries for undoable in self._completed)
        return self._has_undone_at_end or before

    def failed(self) -> list[Undoable]:
        """Return what could not be undone, latest completed first."""
        return [undoable for undoable in reversed(self._completed) if undoable.error is not None]

    def waits(self) -> list[Wait]:
        """Return what an operator is asked for."""
        return [
            Wait("undo", undoable.key, detail=undoable.error or "", attempt=undoable.tries)
            for undoable in self.failed()
        ]

    def failure(self, cause: str) -> str:
        """Return what a parent is told when undos failed, as a payload, with the error the run failed with."""
        failed = {undoable.key: undoable.error or "" for undoable in self.failed()}
        return failure.encode_error(compensation_failure(self._replay.run.id, failed, failure.decode_error(cause)))

    async def compensate(self, ends: Sequence[asyncio.Future[Any]]) -> None:
        """Undo what completed, latest first; have an operator decide on what cannot be undone.

        Args:
            ends: of the steps and children that may be under way; these are waited for first.
        """
        self._taken_back = 0
        for undoable in (*self._open.values(), *self._completed):
            undoable.is_busy = False  # that was the code's own way, and is dropped with it
        await asyncio.gather(*ends, return_exceptions=True)
        self._open.clear()
        await self._undo_each(self._undoable(self._run))
        await self.see_to_failed(DECISION)

    async def see_to_failed(self, name: str) -> None:
        """Have an operator decide on what could not be undone, until that is none; the journal has it under `name`."""
        replay = self._replay
        while failed := self.failed():
            self.is_stuck = True
            decision: Mapping[str, Any] = await replay.wait_for(replay.ask_event(name, DECISION, None, _ANY))
            self.is_stuck = False
            chosen = [undoable for undoable in failed if decision["key"] in (None, undoable.key)]
            if decision["verb"] == "done":
                for undoable in chosen:
                    undoable.error, undoable.is_settled = None, True
            else:
                await self._undo_each(chosen)

    def _left(self) -> list[Undoable]:
        """Return what completed and has to be undone if the code ends now, latest completed first."""
        return [
            undoable
            for undoable in reversed(self._completed)
            if not undoable.is_settled and (undoable.tries or self._is_bound(undoable))
        ]

    def _is_bound(self, undoable: Undoable) -> bool:
        """Return whether something is undone when its scope fails; what was taken back is, past a pivot too."""
        return undoable.is_taken_back or not undoable.scope.home().is_final

    def _undoable(self, scope: Scope) -> list[Undoable]:
        """Return what of that belongs to a scope, and is neither being undone nor has failed to be."""
        return [
            undoable
            for undoable in self._left()
            if not undoable.is_busy and undoable.error is None and scope in undoable.scope.home().around()
        ]

    async def _take_back(self, undoable: Undoable, end: asyncio.Future[Any] | None) -> None:
        try:
            if end is not None:
                await asyncio.wait([end])
            if end is None or end.exception() is None:
                await self._undo(undoable)
        finally:
            self._taken_back -= 1

    async def _undo_block(self, ends: Sequence[asyncio.Task[None]], undoables: Sequence[Undoable]) -> None:
        await asyncio.gather(*ends)
        await self._undo_each(undoables)

    async def _undo_each(self, undoables: Sequence[Undoable]) -> None:
        for undoable in undoables:
            await self._undo(undoable)

    async def _undo(self, undoable: Undoable) -> None:
        assert undoable.ask is not None
        undoable.tries += 1
        undoable.is_busy, undoable.error = True, None
        self._has_undone_at_end |= self._replay.cause is not None
        number = "" if undoable.tries == 1 else f"#{undoable.tries}"
        _key.set(f"undo{number}:{undoable.key}")
        value, _ = read(undoable.ask, "ok", undoable.payload)
        try:
            await (undoable.undo or self._gone(undoable.key))(value)
            undoable.is_settled = True
        except Exception as error:
            undoable.error = failure.describe(error).message
        undoable.is_busy = False
        _key.set(None)

    def _gone(self, key: str) -> Undo:
        """Return an undo that fails; a step, so that the journal has it and newer code may be tried again."""

        async def fail() -> None:
            raise UsageError(f"the undo of {key!r} is gone from the code; deploy code that has it, then retry")

        async def undo(_: object) -> None:
            spec = StepSpec(f"undo:{key}", fail, "loop", NO_RETRY, None, _ANY, is_native=True)
            await self._replay.wait_for(self._replay.ask_step(spec, (), {}, name=undo_key()))

        return undo


async def unhurried(ending: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Wait for a task, whatever is cancelled meanwhile; return that cancellation, None for none."""
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError as error:
            cancelled = error
    ending.result()
    return cancelled


def undo_key() -> str:
    """Return, in an undo, the record key that it is to be found under."""
    key = _key.get()
    assert key is not None
    return key


def compensation_failure(run_id: str, failed: Mapping[str, str], cause: ErrorInfo | None) -> ErrorInfo:
    """Return the error of a run whose undos failed, described.

    Args:
        run_id: the run.
        failed: the last error of each failed undo, by the key of what it undoes.
        cause: what the run failed with; None for one whose code completed, and left these behind.
    """
    what = "is done" if cause is None else "failed"
    which = "it had to undo" if cause is None else "that it did"
    told = ", ".join(f"{key!r} ({error})" for key, error in failed.items())
    error = CompensationFailedError(
        f"run {run_id!r} {what}, and not all {which} could be undone: {told}; retry these undos, or mark them done"
    )
    return msgspec.structs.replace(failure.describe(error), cause=cause)


def terminated(run_id: str) -> RunTerminatedError:
    """Return the error of a run that was ended from outside."""
    return RunTerminatedError(f"run {run_id!r} was terminated")
