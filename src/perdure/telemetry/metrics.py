"""What is measured of a worker, and the names it goes by: one list for Prometheus and OpenTelemetry alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from perdure.engine.telemetry import Commit, Telemetry
from perdure.engine.worker.worker import Worker
from perdure.model.record import Record
from perdure.model.run import RunStatus

STEPS_TOLD_APART = 1_000
"""How many steps have measurements of their own; further ones, whose names are made up as they go, share one name."""

OTHER = "(other)"
"""That name."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""The upper bounds of the buckets for lengths of time."""

COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
"""Those for how many decisions are written at once."""


class Metric(NamedTuple):
    """Something that is measured.

    Attributes:
        name: without a unit's or kind's ending, words joined by `_`.
        kind: `counter` only grows, `gauge` goes up and down, `histogram` counts values by size.
        text: what it is, in a sentence.
        labels: what it is told apart by.
        bounds: of a histogram, the upper bounds of its buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_STEP = ("workflow", "step")

RUNS_BEGUN = Metric("perdure_runs_begun", "counter", "Runs that were begun, restarts among them.", ("workflow",))
RUNS_ENDED = Metric("perdure_runs_ended", "counter", "Runs that ended here, by how.", ("workflow", "status"))
RUNS_STUCK = Metric(
    "perdure_runs_stuck", "counter", "Runs that came to need an operator: parked, or not undone.", ("workflow", "why")
)
ATTEMPTS = Metric(
    "perdure_attempts", "counter", "Attempts of steps, by how they ended: ok, error, or retry.", (*_STEP, "outcome")
)
STEP_SECONDS = Metric("perdure_step_seconds", "histogram", "How long attempts of steps took.", _STEP, SECONDS)
COMMIT_SECONDS = Metric("perdure_commit_seconds", "histogram", "How long writes of decisions took.", (), SECONDS)
COMMIT_SIZE = Metric("perdure_commit_decisions", "histogram", "How many decisions a write took.", (), COUNTS)
CLAIMED = Metric("perdure_runs_claimed", "counter", "Runs that were claimed from the store.")
HINTS = Metric("perdure_hints", "counter", "Hints of the store, of what other processes did.")
IN_HAND = Metric("perdure_runs_in_hand", "gauge", "Runs that the worker has in hand.")
CONCURRENCY = Metric("perdure_concurrency", "gauge", "Runs that it has in hand at most.")
LAG = Metric(
    "perdure_loop_lag_seconds", "gauge", "How long the worker's event loop took to answer, lately and at worst."
)

METRICS = (
    *(RUNS_BEGUN, RUNS_ENDED, RUNS_STUCK, ATTEMPTS, STEP_SECONDS, COMMIT_SECONDS, COMMIT_SIZE),
    *(CLAIMED, HINTS, IN_HAND, CONCURRENCY, LAG),
)


class Sink(Protocol):
    """Where measurements go."""

    def add(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Count one more."""

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Take in a value of a histogram."""


class Measures(Telemetry):
    """Measures workers.

    Args:
        sink: where measurements go.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._workers: list[Worker] = []
        self._before: dict[Metric, float] = {}
        self._steps: set[tuple[str, str]] = set()

    def opened(self, worker: Worker) -> None:
        """A worker begins to claim runs."""
        self._workers.append(worker)

    def closed(self, worker: Worker) -> None:
        """A worker has stopped: what it counted stays counted."""
        self._workers.remove(worker)
        for metric, value in _counted(worker):
            self._before[metric] = self._before.get(metric, 0) + value

    def committed(self, commit: Commit) -> None:
        """Count what a decision tells."""
        run, decision, sink = commit.run, commit.decision, self._sink
        if commit.is_first:
            sink.add(RUNS_BEGUN, (run.workflow,))
        for attempt in commit.attempts:
            self._attempted(run.workflow, attempt)
        if decision.status.is_finished:
            sink.add(RUNS_ENDED, (run.workflow, decision.status.value))
        elif commit.parked is not None:
            sink.add(RUNS_STUCK, (run.workflow, "parked"))
        elif decision.status is RunStatus.COMPENSATION_FAILED:
            sink.add(RUNS_STUCK, (run.workflow, decision.status.value))

    def wrote(self, decisions: int, seconds: float) -> None:
        """Take in a write of decisions."""
        self._sink.observe(COMMIT_SECONDS, (), seconds)
        self._sink.observe(COMMIT_SIZE, (), decisions)

    def read(self) -> Iterable[tuple[Metric, float]]:
        """Yield what is looked at when somebody asks, and not told."""
        workers = tuple(self._workers)
        counted = dict(self._before)
        for worker in workers:
            for metric, value in _counted(worker):
                counted[metric] = counted.get(metric, 0) + value
        for metric in (CLAIMED, HINTS):
            yield metric, counted.get(metric, 0)
        yield IN_HAND, sum(len(worker.turns) for worker in workers)
        yield CONCURRENCY, sum(worker.settings.concurrency for worker in workers)
        yield LAG, max((worker.reporting.lag for worker in workers), default=0.0)

    def _attempted(self, workflow: str, record: Record) -> None:
        step = workflow, step_name(record.key)
        if step not in self._steps:
            if len(self._steps) >= STEPS_TOLD_APART:
                step = workflow, OTHER
            else:
                self._steps.add(step)
        outcome = "retry" if record.state == "open" else record.state
        self._sink.add(ATTEMPTS, (*step, outcome))
        assert record.started_at is not None
        self._sink.observe(STEP_SECONDS, step, max(0, record.at - record.started_at) / 1000)


def step_name(key: str) -> str:
    """Return the name of a step by its key: without the steps it stands in, and the number of its use."""
    name = key.rpartition("/")[2]
    plain, _, use = name.rpartition("#")
    return plain if plain and use.isdecimal() else name


def _counted(worker: Worker) -> Sequence[tuple[Metric, int]]:
    return (CLAIMED, worker.claiming.claimed), (HINTS, worker.hints)
