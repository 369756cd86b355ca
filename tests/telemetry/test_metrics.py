"""What is counted, as Prometheus fetches it and as OpenTelemetry exports it."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from perdure import Perdure, Retry, UsageError, flow
from perdure.telemetry import OpenTelemetry, Prometheus
from perdure.telemetry.metrics import METRICS, OTHER, STEPS_TOLD_APART, step_name


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Samples:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def register(app) -> None:
    tries = [True]

    @app.step(name="work", retry=Retry(attempts=2, delay=1))
    async def work() -> None:
        if tries and tries.pop():
            raise ConnectionError

    @app.step(name="fails", retry=Retry(attempts=1))
    async def fails() -> None:
        raise ValueError

    @app.workflow(name="good")
    async def good() -> None:
        await work()
        await work()

    @app.workflow(name="bad")
    async def bad() -> None:
        await fails()

    @app.task(name="task")
    async def task() -> None: ...

    @app.workflow(name="parks")
    async def parks() -> None:
        await asyncio.get_running_loop().create_future()


async def test_runs_and_steps_are_counted(world, url):
    prometheus = Prometheus()
    value = Samples(prometheus.registry)
    app = world.app(url, telemetry=[prometheus], concurrency=50)
    register(app)
    async with app:
        for name in ("good", "bad", "task", "parks"):
            await app.start(name)
        await world.advance(2)
        await world.settle()
        assert value("perdure_concurrency") == 50
        assert value("perdure_runs_in_hand") == 0
        assert value("perdure_loop_lag_seconds") is not None
        assert value("perdure_hints_total") >= 0
    for name in ("good", "bad", "task", "parks"):
        assert value("perdure_runs_begun_total", workflow=name) == 1, name
    assert value("perdure_runs_ended_total", workflow="good", status="complete") == 1
    assert value("perdure_runs_ended_total", workflow="bad", status="errored") == 1
    assert value("perdure_runs_stuck_total", workflow="parks", why="parked") == 1
    assert value("perdure_attempts_total", workflow="good", step="work", outcome="ok") == 2
    assert value("perdure_attempts_total", workflow="good", step="work", outcome="retry") == 1
    assert value("perdure_attempts_total", workflow="bad", step="fails", outcome="error") == 1
    assert value("perdure_attempts_total", workflow="task", step="task", outcome="ok") == 1
    assert value("perdure_step_duration_seconds_count", workflow="good", step="work") == 3
    assert value("perdure_commit_duration_seconds_count") == value("perdure_commit_decisions_count") > 3
    assert value("perdure_commit_decisions_sum") >= 6
    assert value("perdure_runs_claimed_total") is not None, "it stays counted when the worker has stopped"


async def test_what_matters_is_there_as_zero_before_it_happens(world, memory):
    """Else nobody sees the first one: an increase is one from a value that was there before."""
    prometheus = Prometheus()
    value = Samples(prometheus.registry)
    app = world.app(memory, telemetry=[prometheus])
    register(app)
    async with app:
        for name in ("good", "bad", "task", "parks"):
            assert value("perdure_runs_stuck_total", workflow=name, why="parked") == 0
            assert value("perdure_runs_stuck_total", workflow=name, why="compensation_failed") == 0
            assert value("perdure_runs_ended_total", workflow=name, status="errored") == 0


async def test_a_replayed_run_is_counted_once(world, memory):
    prometheus = Prometheus()
    app = world.app(memory, telemetry=[prometheus])

    @app.step(name="work")
    async def work() -> None: ...

    @app.workflow(name="w")
    async def w() -> None:
        for _ in range(3):
            await work()
            await flow.sleep(60)

    async with app:
        run = await app.start(w)
        for _ in range(4):
            await world.advance(61)
        assert (await run.get()).epoch >= 3
        claimed = Samples(prometheus.registry)("perdure_runs_claimed_total")
    value = Samples(prometheus.registry)
    assert value("perdure_runs_begun_total", workflow="w") == 1
    assert value("perdure_attempts_total", workflow="w", step="work", outcome="ok") == 3
    assert value("perdure_runs_claimed_total") == claimed >= 2


async def test_names_that_are_made_up_share_one(world, memory):
    prometheus = Prometheus()
    app = world.app(memory, telemetry=[prometheus])

    async def nothing() -> None: ...

    @app.workflow(name="w")
    async def w() -> None:
        await asyncio.gather(*(flow.do(f"step-{n}", nothing) for n in range(STEPS_TOLD_APART + 7)))

    async with app:
        await app.start(w)
        await world.settle()
    value = Samples(prometheus.registry)
    assert value("perdure_attempts_total", workflow="w", step=OTHER, outcome="ok") == 7


async def test_workflows_that_are_published_by_the_thousand_share_one(world, memory, monkeypatch):
    monkeypatch.setattr("perdure.telemetry.metrics.WORKFLOWS_TOLD_APART", 6)
    prometheus = Prometheus()
    app = world.app(memory, telemetry=[prometheus])
    register(app)
    names = [f"w{n}" for n in range(9)]
    async with app:
        for name in names:
            await app.publish({"name": name, "steps": [{"name": "fails", "task": "task"}]})
        for name in names:
            await app.start(name)
        await world.advance(2)
    value = Samples(prometheus.registry)
    begun = [value("perdure_runs_begun_total", workflow=name) for name in (*names, OTHER)]
    assert [each for each in begun if each is not None] == [1, 1, 7]
    assert value("perdure_runs_ended_total", workflow=OTHER, status="complete") == 7


def test_prometheus_has_the_names_that_opentelemetrys_are_translated_to():
    assert [metric.exported for metric in METRICS] == [
        *("perdure_runs_begun_total", "perdure_runs_ended_total", "perdure_runs_stuck_total", "perdure_attempts_total"),
        *("perdure_step_duration_seconds", "perdure_commit_duration_seconds", "perdure_commit_decisions"),
        *("perdure_runs_claimed_total", "perdure_hints_total", "perdure_runs_in_hand", "perdure_concurrency"),
        "perdure_loop_lag_seconds",
    ]
    for metric in METRICS:
        assert metric.unit == "s" or metric.unit.startswith("{"), "a gauge of unit 1 would be called a ratio"


@pytest.mark.parametrize(
    ("key", "name"), [("a", "a"), ("a#2", "a"), ("a/b#12", "b"), ("a#b", "a#b"), ("#1", "#1"), ("a/#", "#")]
)
def test_the_name_of_a_step(key, name):
    assert step_name(key) == name


async def test_it_is_served_while_a_worker_works(memory):
    port = free_port()
    app = Perdure(memory, telemetry=[Prometheus(port)])
    register(app)
    url = f"http://127.0.0.1:{port}/metrics"
    for _ in range(2):  # it is opened anew, too
        async with app:
            await (await app.start("task")).result(timeout=10)
            text = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {metric.exported.removesuffix("_total") for metric in METRICS} <= families
        assert "process_resident_memory_bytes" in families
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(urllib.request.urlopen, url)


def test_a_port_that_is_taken_is_told():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with pytest.raises(UsageError, match="nobody can listen at 127.0.0.1"):
            Prometheus(listening.getsockname()[1]).listen()


async def test_opentelemetry_gets_the_same(world, memory):
    reader = InMemoryMetricReader()
    watcher = OpenTelemetry(TracerProvider(), MeterProvider([reader]))
    app = world.app(memory, telemetry=[watcher])
    register(app)
    async with app:
        await app.start("good")
        await world.advance(2)
        found = {
            metric.name: (metric.unit, list(metric.data.data_points))
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
    assert {name: unit for name, (unit, _) in found.items()} == {metric.name: metric.unit for metric in METRICS}
    (begun,) = found["perdure.runs.begun"][1]
    assert (begun.value, dict(begun.attributes)) == (1, {"workflow": "good"})
    assert {(point.attributes["outcome"], point.value) for point in found["perdure.attempts"][1]} == {
        ("ok", 2),
        ("retry", 1),
    }
    assert found["perdure.runs.in_hand"][1][0].value == 0


async def test_an_error_of_a_watcher_does_no_harm(world, memory, caplog):
    class Broken(Prometheus):
        def committed(self, commit) -> None:
            raise RuntimeError("it is broken")

        taken = attempt_begun = left = trace_of = committed

    app = world.app(memory, telemetry=[Broken()])
    register(app)
    async with app:
        await app.start("good", id="g")
        await world.advance(2)
        assert (await app.run("g").get()).status == "complete"
    assert "Broken failed; the run goes on" in caplog.text
