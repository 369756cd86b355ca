"""A task's part of a turn: one step that is all of its run, so that no code of its own is replayed for it.

Its journal is the input, the attempts that failed, the steps inside the step, and the output, which is the step's own
result: what a task stores is stored once. A transactional step is recorded beside it all the same, because the record
is what tells whether its transaction was committed.
"""

from __future__ import annotations

from typing import Any

from perdure.core.ask import Ask, StepAsk
from perdure.core.drift import Drift
from perdure.core.overrides import overridden
from perdure.core.replay import Replay
from perdure.model import failure
from perdure.model.errors import TaskExpiredError, UsageError
from perdure.model.record import State


class Leaf(Replay):
    """See the module's text; the arguments are those of `Replay`, for a program with a `leaf`."""

    def start(self, now: int) -> None:
        """Ask for the step, unless the run comes too late, or the journal has its end."""
        self.now = now
        step = self.program.leaf
        assert step is not None
        settled = self.history.next()
        if settled is not None:
            if settled.kind != "step" or settled.key != step.name:
                self.drift = Drift.between(settled, [], has_ended=False, error=None)
                return
            self.history.advance()
            self.loop.at = max(self.loop.at, settled.at)
            self._leave(settled.state, settled.payload, attempt=settled.attempt, started_at=settled.started_at)
            return
        if self._is_late():
            late = TaskExpiredError(f"task {self.program.name!r} was not begun in time; restart the run to have it run")
            self._leave("error", failure.encode_error(failure.describe(late)))
            return
        try:
            args, kwargs = self.program.arguments(self._input.payload or "{}")
        except UsageError as error:
            self._leave("error", failure.encode_error(failure.describe(error)))
            return
        if self._input.ref is not None:
            step = overridden(step, self._input.ref)
        ask = StepAsk(step.name, None, step, tuple(args), kwargs)
        self.asks[ask.key] = ask
        self.fresh.append(ask)

    def _take_end(self, ask: Ask, state: State, payload: str | None, **details: Any) -> None:
        """End the run with what its step came to."""
        del self.asks[ask.key]
        if state == "ok":
            try:
                self.program.result.decode(payload)
            except UsageError as unfit:
                state, payload = "error", failure.encode_error(failure.describe(unfit, attempts=details["attempt"]))
        assert isinstance(ask, StepAsk)
        if ask.spec.tx:
            self.record(ask.key, "step", state, payload, **details)
        self._leave(state, payload, **details)

    def _is_late(self) -> bool:
        """Return whether the run was first claimed after it had expired; a restart makes up for that."""
        until, began = self._input.due_at, self.run.started_at
        return until is not None and began is not None and began > until and not self.run.incarnation

    def _leave(self, state: State, payload: str | None, **details: Any) -> None:
        payload = payload or "null"
        self.outcome = ("ok" if state == "ok" else "error", payload)
        self.record("output", "output", state, payload, **details)
