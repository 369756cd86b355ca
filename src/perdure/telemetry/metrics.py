"""What is measured of a worker, and the names it goes by: one list for Prometheus and OpenTelemetry alike.

Names and units are OpenTelemetry's; Prometheus gets those that its own translation makes of them, so that one dashboard
serves both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from perdure.engine.telemetry import Commit, Telemetry
from perdure.engine.worker.worker import Worker
from perdure.model.record import Record
from perdure.model.run import RunStatus

STEPS_TOLD_APART = 1_000
"""How many steps have measurements of their own; further ones, whose names are made up as they go, share one name."""

WORKFLOWS_TOLD_APART = 1_000
"""How many workflows have; further ones, such as definitions that a program publishes, share that name."""

OTHER = "(other)"
"""That name."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""The upper bounds of the buckets for lengths of time."""

COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
"""Those for how many decisions are written at once."""


class Metric(NamedTuple):
    """Something that is measured.

    Attributes:
        name: in OpenTelemetry.
        kind: `counter` only grows, `gauge` goes up and down, `histogram` counts values by size.
        unit: `s`, or, in braces, what is counted.
        text: what it is, in a sentence.
        labels: what it is told apart by.
        bounds: of a histogram, the upper bounds of its buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        name = self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")
        return f"{name}_total" if self.kind == "counter" else name


_STEP = ("workflow", "step")

RUNS_BEGUN = Metric(
    "perdure.runs.begun", "counter", "{run}", "Runs that were begun, restarts among them.", ("workflow",)
)
RUNS_ENDED = Metric("perdure.runs.ended", "counter", "{run}", "Runs that ended here, by how.", ("workflow", "status"))
RUNS_STUCK = Metric(
    *("perdure.runs.stuck", "counter", "{run}", "Runs that came to need an operator: parked, or not undone."),
    ("workflow", "why"),
)
ATTEMPTS = Metric(
    *("perdure.attempts", "counter", "{attempt}", "Attempts of steps, by how they ended: ok, error, or retry."),
    (*_STEP, "outcome"),
)
STEP_DURATION = Metric("perdure.step.duration", "histogram", "s", "How long attempts of steps took.", _STEP, SECONDS)
COMMIT_DURATION = Metric("perdure.commit.duration", "histogram", "s", "How long writes of decisions took.", (), SECONDS)
COMMIT_SIZE = Metric(
    "perdure.commit.decisions", "histogram", "{decision}", "How many decisions a write took.", (), COUNTS
)
CLAIMED = Metric("perdure.runs.claimed", "counter", "{run}", "Runs that were claimed from the store.")
HINTS = Metric("perdure.hints", "counter", "{hint}", "Hints of the store, of what other processes did.")
IN_HAND = Metric("perdure.runs.in_hand", "gauge", "{run}", "Runs that the worker has in hand.")
CONCURRENCY = Metric("perdure.concurrency", "gauge", "{run}", "Runs that it has in hand at most.")
LAG = Metric("perdure.loop.lag", "gauge", "s", "How long the worker's event loop took to answer, lately and at worst.")

METRICS = (
    *(RUNS_BEGUN, RUNS_ENDED, RUNS_STUCK, ATTEMPTS, STEP_DURATION, COMMIT_DURATION, COMMIT_SIZE),
    *(CLAIMED, HINTS, IN_HAND, CONCURRENCY, LAG),
)

EXPECTED = (
    *((RUNS_ENDED, status.value) for status in (RunStatus.COMPLETE, RunStatus.ERRORED)),
    *((RUNS_STUCK, why) for why in ("parked", RunStatus.COMPENSATION_FAILED.value)),
)
"""What is told of each workflow from the start on, as 0: an increase is seen only from a value that was there."""


class Sink(Protocol):
    """Where measurements go."""

    def add(self, metric: Metric, labels: tuple[str, ...], amount: int = 1) -> None:
        """Count so many more; with 0, have it told that there were none."""

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
        self._workflows: set[str] = set()
        self._steps: set[tuple[str, str]] = set()

    def opened(self, worker: Worker) -> None:
        """A worker begins to claim runs."""
        self._workers.append(worker)
        for workflow in worker.registry.workflows:
            self._told_as(workflow)

    def closed(self, worker: Worker) -> None:
        """A worker has stopped: what it counted stays counted."""
        self._workers.remove(worker)
        for metric, value in _counted(worker):
            self._before[metric] = self._before.get(metric, 0) + value

    def committed(self, commit: Commit) -> None:
        """Count what a decision tells."""
        decision, sink, workflow = commit.decision, self._sink, self._told_as(commit.run.workflow)
        if commit.is_first:
            sink.add(RUNS_BEGUN, (workflow,))
        for attempt in commit.attempts:
            self._attempted(workflow, attempt)
        if decision.status.is_finished:
            sink.add(RUNS_ENDED, (workflow, decision.status.value))
        elif commit.parked is not None:
            sink.add(RUNS_STUCK, (workflow, "parked"))
        elif decision.status is RunStatus.COMPENSATION_FAILED:
            sink.add(RUNS_STUCK, (workflow, decision.status.value))

    def wrote(self, decisions: int, seconds: float) -> None:
        """Take in a write of decisions."""
        self._sink.observe(COMMIT_DURATION, (), seconds)
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

    def _told_as(self, workflow: str) -> str:
        """Return the name that a workflow goes by here."""
        if workflow in self._workflows:
            return workflow
        if len(self._workflows) >= WORKFLOWS_TOLD_APART:
            return OTHER
        self._workflows.add(workflow)
        for metric, what in EXPECTED:
            self._sink.add(metric, (workflow, what), 0)
        return workflow

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
        self._sink.observe(STEP_DURATION, step, max(0, record.at - record.started_at) / 1000)


def step_name(key: str) -> str:
    """Return the name of a step by its key: without the steps it stands in, and the number of its use."""
    name = key.rpartition("/")[2]
    plain, _, use = name.rpartition("#")
    return plain if plain and use.isdecimal() else name


def _counted(worker: Worker) -> Sequence[tuple[Metric, int]]:
    return (CLAIMED, worker.claiming.claimed), (HINTS, worker.hints)
