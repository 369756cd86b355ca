"""The steps of a turn on their way: ready, covered by a decision, cleared by its commit, running; and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from perdure.core.ask import Ask, ChildAsk, StepAsk, Work, ends_first
from perdure.core.child import NOT_BEGUN, Children, child_failure
from perdure.core.history import History

if TYPE_CHECKING:
    from perdure.core.replay import Replay


class Launch(NamedTuple):
    """A step to start: what was asked, and the number of this attempt."""

    ask: StepAsk
    attempt: int


class Launches:
    """See the module's text.

    Args:
        asks: what is waited for, by key; the replay's own.
        history: of the replay.
        children: of the turn.

    Attributes:
        ready: may start once everything that led to them is committed.
        cleared: may start.
        running: have been started, by key.
        stopped: the keys of those that were started, and that nobody waits for any more.
    """

    def __init__(self, asks: Mapping[str, Ask], history: History, children: Children) -> None:
        self.ready: list[Launch] = []
        self.cleared: list[Launch] = []
        self.running: dict[str, StepAsk] = {}
        self.stopped: list[str] = []
        self._covered: list[Launch] = []
        self._asks = asks
        self._history = history
        self._children = children

    @property
    def are_any(self) -> bool:
        """Whether a step runs or is about to."""
        return bool(self.running or self.ready or self._covered or self.cleared)

    def cover(self) -> None:
        """A decision goes out that carries what led to the ready ones."""
        self._covered, self.ready = self.ready, []

    def clear(self) -> None:
        """That decision is committed."""
        self.cleared, self._covered = self.cleared + self._covered, []

    def clear_ready(self) -> None:
        """Nothing that led to the ready ones is left to commit."""
        self.cleared, self.ready = self.cleared + self.ready, []

    def start(self, *, are_left: bool = False) -> list[Launch]:
        """Take those that may start for running; forget all but those that were left, where only they may."""
        waiting, self.cleared = self.cleared, []
        if are_left:
            waiting = [launch for launch in waiting if launch.ask.left_at is not None]
        for launch in waiting:
            self.running[launch.ask.key] = launch.ask
        return waiting

    def stop(self, ask: Ask) -> bool:
        """Take one back that may be running; return whether it was."""
        if self.running.get(ask.key) is not ask:
            return False
        del self.running[ask.key]
        self.stopped.append(ask.key)
        return True

    def may_run(self, ask: Work, at: int, *, is_inherited: bool = False) -> bool:
        """Return whether a child, or an attempt of a step, may have been under way at a moment (milliseconds).

        What this turn has not started an earlier one may have, before its worker died: one that registered the step's
        undo, or any, if the run `is_inherited`.
        """
        if isinstance(ask, ChildAsk):
            return self._children.may_run(ask)
        if self.running.get(ask.key) is ask:
            return True
        failed = self._history.opened.get(ask.key)
        if failed is None:
            return is_inherited or ask.key in self._history.registered
        return failed.position < self._history.length and (failed.due_at or 0) <= at

    def left_under_way(self, now: int, *, is_inherited: bool) -> list[Work]:
        """Return all that may be under way, its children recalled; see `may_run`."""
        works = [ask for ask in self._asks.values() if ends_first(ask)]
        under_way = [ask for ask in works if self.may_run(ask, now, is_inherited=is_inherited)]
        for ask in under_way:
            if isinstance(ask, ChildAsk):
                self._children.recall(ask, now)
        return under_way

    def forget(self) -> None:
        """Forget those that have not been started, and that nobody waits for any more."""
        self.ready = [launch for launch in self.ready if self._is_waited_for(launch)]
        self._covered = [launch for launch in self._covered if self._is_waited_for(launch)]
        self.cleared = [launch for launch in self.cleared if self._is_waited_for(launch)]

    def settle_left(self, replay: Replay, now: int) -> bool:
        """Settle what the code left and is certainly not under way; return whether there was such a thing.

        Children that may be under way are recalled.
        """
        while replay.left:
            ask = replay.left.pop(0)
            if self._asks.get(ask.key) is not ask or ask.key in self._history.keys_left():
                continue
            if self.may_run(ask, ask.left_at or now):
                if isinstance(ask, ChildAsk):
                    self._children.recall(ask, now)
                continue
            if isinstance(ask, ChildAsk):
                self._children.withdraw(ask)
                replay.settle(ask.key, "error", child_failure(ask, None), now, ref=ask.run_id)
                return True
            failed = self._history.opened.get(ask.key)
            if failed is None:
                replay.settle(ask.key, "error", NOT_BEGUN, now)
            else:
                attempt, started_at = failed.attempt, failed.started_at
                replay.settle(ask.key, "error", failed.payload, now, attempt=attempt, started_at=started_at)
            self.forget()
            return True
        return False

    def _is_waited_for(self, launch: Launch) -> bool:
        return self._asks.get(launch.ask.key) is launch.ask
