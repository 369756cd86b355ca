"""The steps of a turn on their way: ready, covered by a decision, cleared by its commit, running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from perdure.core.ask import Ask, StepAsk


class Launch(NamedTuple):
    """A step to start: what was asked, and the number of this attempt."""

    ask: StepAsk
    attempt: int


class Launches:
    """See the module's text.

    Args:
        asks: what is waited for, by key; the replay's own.

    Attributes:
        ready: may start once everything that led to them is committed.
        cleared: may start.
        running: have been started, by key.
        stopped: the keys of those that were started, and that nobody waits for any more.
    """

    def __init__(self, asks: Mapping[str, Ask]) -> None:
        self.ready: list[Launch] = []
        self.cleared: list[Launch] = []
        self.running: dict[str, StepAsk] = {}
        self.stopped: list[str] = []
        self._covered: list[Launch] = []
        self._asks = asks

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

    def start(self) -> list[Launch]:
        """Take those that may start for running."""
        waiting, self.cleared = self.cleared, []
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

    def forget(self) -> None:
        """Forget those that have not been started, and that nobody waits for any more."""
        self.ready = [launch for launch in self.ready if self._is_waited_for(launch)]
        self._covered = [launch for launch in self._covered if self._is_waited_for(launch)]
        self.cleared = [launch for launch in self.cleared if self._is_waited_for(launch)]

    def _is_waited_for(self, launch: Launch) -> bool:
        return self._asks.get(launch.ask.key) is launch.ask
