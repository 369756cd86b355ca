"""A worker that claims nothing: its runs are pushed to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow
from perdure.core import guard
from perdure.engine.batch import Batch
from perdure.engine.ending import Endings
from perdure.engine.env import Env, Timer
from perdure.engine.settings import Settings
from perdure.engine.worker.runner import Runner
from perdure.engine.worker.status import Reporting
from perdure.engine.worker.worker import Worker
from perdure.model.decision import Claim, Committed, Decision
from perdure.model.run import NewRun, Run
from perdure.serve.turns import Turns

LONG = 200
"""From how many records on a journal is long: bringing it here and replaying it costs more than the step it is for."""

LONG_STAY = 5.0
"""For how many seconds a turn with a long journal goes on, where nothing else is said."""


class ServedWorker(Worker):
    """See the module's text.

    Args:
        turns: where what it decides goes.
        stay: for how many seconds a turn goes on with further steps, rather than be given back after the first; None
            for those with a long journal alone.
    """

    def __init__(
        self, turns: Turns, registry: Registry, settings: Settings, env: Env, endings: Endings, stay: float | None
    ) -> None:
        super().__init__(turns, registry, settings, env, endings)  # passes all else on
        self.commits = _Apart(turns.commit, env, insists=True, at_once=settings.concurrency)
        self.pushed = turns
        self._stay = stay
        self.reporting = _Unlisted(self)

    async def start(self) -> None:
        """Be ready for runs."""
        guard.install()
        self.keeper.start()

    def stay(self, run: Run) -> float:
        """Return for how many seconds a turn of a run goes on."""
        if self._stay is not None:
            return self._stay
        return LONG_STAY if run.journal_length >= LONG else 0.0

    def reserve(self, new: NewRun) -> bool:
        """Keep no place: what is started here, the server pushes to whom it likes."""
        return False

    def left(self, runner: Runner) -> None:
        """A run has left this worker."""
        super().left(runner)
        turn = self.pushed.under_way.get(runner.run_id)
        if turn is not None and turn.push.claim.run.epoch == runner.epoch:
            del self.pushed.under_way[runner.run_id]
            turn.end()

    def _runner_of(self, claim: Claim, program: Workflow[..., Any]) -> Runner:
        return ServedRunner(self, claim, program)


class ServedRunner(Runner):
    """One turn of a run that was pushed here: it does what can be done at once, and gives the run back."""

    worker: ServedWorker
    _staying: Timer | None = None

    def begin(self) -> None:
        """Replay the run and go on with it."""
        worker = self.worker
        if stay := worker.stay(self.turn.run):
            self._staying = worker.env.call_later(worker.loop, stay, self.hand_back)
            super().begin()
            return
        try:
            self.turn.begin(worker.env.now())
            if self.turn._has_news() or self.turn.is_idle:  # what there is to say, the answer says
                self.turn.hand_back()
        except Exception:
            super().begin()  # which says so, and gives the run up
            return
        self.go_on()
        self.hand_back()

    def hand_back(self) -> None:
        """Start nothing more; a run that has left is none of ours."""
        if not self.is_over:
            super().hand_back()

    def _finish(self) -> None:
        if self._staying is not None:
            self._staying.cancel()
        super()._finish()


class _Apart(Batch[Decision, Committed]):
    """Commits each decision by itself: one goes into an answer at once, and the next is asked for, which takes time."""

    def _take(self) -> list[tuple[Decision, Callable[[Committed | None, Exception | None], None]]]:
        first, *self._waiting = self._waiting
        if self._waiting and len(self._writers) < self._at_once:
            self._begin()
        return [first]


class _Unlisted(Reporting):
    """Says nothing of a worker that is an endpoint, as the server lists those."""

    async def end(self) -> None:
        """Leave nothing behind, where nothing was written."""
