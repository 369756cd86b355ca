"""Who watches what a worker does: traces, metrics and reports of errors (see `perdure.telemetry`).

What became of runs and steps is told once the decision that says so is acknowledged, so nothing is told that a crash
could take back, and a replay tells nothing. A worker that nobody watches pays one comparison per decision.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.authoring.context import current_trace
from perdure.core.turn import Turn
from perdure.core.wait import decode_waits
from perdure.engine.lifecycle import changes_nothing, has_begun
from perdure.model.decision import Claim, Decision, Message
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus

if TYPE_CHECKING:
    from perdure.engine.worker.attempt import StepRun
    from perdure.engine.worker.worker import Worker

TRACE = "traceparent"
"""The tag that names the trace a run belongs to, as in W3C Trace Context."""

LINK = "tracelink"
"""The tag that names, in the same words, what a run was started because of, if its trace is one of its own."""

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""What names a trace, and a place in it."""

STUCK_LOGGER = "perdure.engine.stuck"
"""The logger of what watchers are told too: that a run needs an operator."""

_log = logging.getLogger("perdure.engine")


class Commit:
    """A decision about a run that is durable.

    Attributes:
        run: as it was claimed.
        decision: what was decided.
        is_first: it is the first about this incarnation of the run that changes anything.
        attempts: of steps, those that this decision says have ended: settled, or to be tried again. That of a task has
            the task's name as its key.
        under_way: the number of the attempt of each step that still runs, by its key.
    """

    __slots__ = ("attempts", "decision", "is_first", "run", "under_way")

    def __init__(self, run: Run, decision: Decision, attempts: Sequence[Record], under_way: dict[str, int]) -> None:
        self.run = run
        self.decision = decision
        self.attempts = attempts
        self.under_way = under_way
        self.is_first = decision.seq == 1 and not has_begun(run) and not changes_nothing(decision)

    @property
    def parked(self) -> str | None:
        """Why the run is parked by it; None if it is not."""
        if self.decision.status is not RunStatus.PAUSED:
            return None
        return next((wait.detail for wait in decode_waits(self.decision.wait).waits if wait.kind == "parked"), None)


class Telemetry:
    """What a watcher may want to hear; each does nothing, until a subclass says otherwise.

    All is called on the loop of the worker, and is not to wait for anything. An error is logged, and does no harm.
    """

    def opened(self, worker: Worker) -> None:
        """A worker begins to claim runs."""

    def closed(self, worker: Worker) -> None:
        """A worker has stopped."""

    def taken(self, claim: Claim) -> None:
        """A worker has a run in its hands."""

    def arrived(self, run: Run, messages: Sequence[Message]) -> None:
        """Messages have come to a run since a worker has it; those that were there before are in its claim."""

    def left(self, run: Run) -> None:
        """A run has left the worker, in order or because it was lost."""

    def attempt_begun(self, step: StepRun) -> None:
        """An attempt of a step begins; this is called in the context that its body will run in."""

    def committed(self, commit: Commit) -> None:
        """A decision is durable."""

    def wrote(self, decisions: int, seconds: float) -> None:
        """So many decisions were written in one go, which took so long."""

    def trace(self) -> str | None:
        """Return the trace that the running code belongs to, as a `traceparent`; None for none that is known."""
        return None

    def trace_of(self, run: Run) -> str | None:
        """Return the trace that the children of a run belong to, as a `traceparent`; None for none."""
        return None


class Watchers:
    """All who watch one engine.

    Args:
        each: who they are.
    """

    def __init__(self, each: Sequence[Telemetry]) -> None:
        self._each = tuple(each)

    def tell(self, call: Callable[[Telemetry], object]) -> None:
        """Tell everybody something."""
        for watcher in self._each:
            try:
                call(watcher)
            except Exception:
                _log.exception("%s failed; the run goes on", type(watcher).__name__)

    def attempt_begun(self, step: Any) -> None:
        """See `Telemetry`."""
        self.tell(lambda watcher: watcher.attempt_begun(step))

    def wrote(self, decisions: int, seconds: float) -> None:
        """See `Telemetry`."""
        self.tell(lambda watcher: watcher.wrote(decisions, seconds))

    def arrived(self, run: Run, messages: Sequence[Message]) -> None:
        """See `Telemetry`."""
        if messages:
            self.tell(lambda watcher: watcher.arrived(run, messages))

    def committed(self, turn: Turn, decision: Decision, under_way: dict[str, int]) -> None:
        """A decision of a turn is durable."""
        commit = Commit(turn.run, decision, _attempts(turn, decision), under_way)
        self.tell(lambda watcher: watcher.committed(commit))

    def trace(self) -> str | None:
        """See `Telemetry`."""
        return self._first(lambda watcher: watcher.trace())

    def with_trace(self, run: Run, decision: Decision) -> Decision:
        """Return a decision whose new runs belong to the trace of the run that it is about."""
        if not decision.children:
            return decision
        trace = self._first(lambda watcher: watcher.trace_of(run))
        return msgspec.structs.replace(decision, children=tuple(_stamped(new, trace) for new in decision.children))

    def _first(self, ask: Callable[[Telemetry], str | None]) -> str | None:
        answers: list[str | None] = []
        self.tell(lambda watcher: answers.append(ask(watcher)))
        return next((answer for answer in answers if answer is not None), None)


def watchers_of(each: Sequence[Telemetry]) -> Watchers | None:
    """Return what tells those who watch an engine; None where nobody does."""
    return Watchers(each) if each else None


def trace_here(watchers: Watchers | None) -> str | None:
    """Return the trace that the running code belongs to, as a `traceparent`; None for none that is known."""
    trace = None if watchers is None else watchers.trace()
    return current_trace.get() if trace is None else trace


def traced(new: NewRun, watchers: Watchers | None) -> NewRun:
    """Return a run that is about to be started, in the trace of the code that starts it."""
    return _stamped(new, trace_here(watchers))


def link_here(watchers: Watchers | None) -> dict[str, str]:
    """Return the tags of a run that the running code has started, but which has a trace of its own."""
    trace = trace_here(watchers)
    return {} if trace is None else {LINK: trace}


def _stamped(new: NewRun, trace: str | None) -> NewRun:
    if trace is None or TRACE in new.tags or LINK in new.tags:
        return new
    return msgspec.structs.replace(new, tags={**new.tags, TRACE: trace})


def _attempts(turn: Turn, decision: Decision) -> list[Record]:
    """Return the attempts that a decision tells of."""
    found = [record for record in decision.records if record.kind == "step" and record.started_at is not None]
    leaf = turn.replay.program.leaf
    if leaf is None or not decision.records:
        return found
    last = decision.records[-1]
    if last.kind == "output" and last.started_at is not None and all(each.state == "open" for each in found):
        found.append(msgspec.structs.replace(last, key=leaf.name))
    return found
