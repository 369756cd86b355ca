"""Metrics for Prometheus: kept in this process, and fetched from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from perdure.model.errors import UsageError
from perdure.telemetry.metrics import METRICS, Measures, Metric

if TYPE_CHECKING:
    from perdure.engine.worker.worker import Worker


class Prometheus(Measures):
    """Measures workers for Prometheus.

    Args:
        port: where `/metrics` is served while a worker works, over HTTP; None leaves that to you: serve `registry`.
        host: the address that it listens at; only this machine reaches the default.
        registry: what the metrics are registered with; a new one by default, with the process's memory and CPU time.
    """

    def __init__(
        self, port: int | None = None, host: str = "127.0.0.1", *, registry: CollectorRegistry | None = None
    ) -> None:
        super().__init__(self)
        self.port = port
        self.host = host
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        self.registry = registry
        self._counters = {
            metric: Counter(metric.exported, metric.text, metric.labels, registry=registry)
            for metric in METRICS
            if metric.kind == "counter" and metric.labels
        }
        self._histograms = {
            metric: Histogram(metric.exported, metric.text, metric.labels, registry=registry, buckets=metric.bounds)
            for metric in METRICS
            if metric.kind == "histogram"
        }
        registry.register(_Read(self))
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def listen(self) -> None:
        """Serve the metrics, unless that is done already.

        Raises:
            UsageError: the address cannot be listened at.
        """
        if self.port is None or self._server is not None:
            return
        try:
            self._server = start_http_server(self.port, self.host, self.registry)
        except (OSError, OverflowError) as error:
            raise UsageError(f"metrics: nobody can listen at {self.host}:{self.port}: {error}") from None

    def close(self) -> None:
        """Serve them no longer."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()

    def opened(self, worker: Worker) -> None:
        """A worker begins to claim runs."""
        super().opened(worker)
        self.listen()

    def closed(self, worker: Worker) -> None:
        """A worker has stopped."""
        super().closed(worker)
        if not self._workers:
            self.close()

    def add(self, metric: Metric, labels: tuple[str, ...], amount: int = 1) -> None:
        """Count so many more; with 0, have it told that there were none."""
        self._counters[metric].labels(*labels).inc(amount)

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Take in a value of a histogram."""
        histogram = self._histograms[metric]
        (histogram.labels(*labels) if labels else histogram).observe(value)


class _Read(Collector):
    """What is looked at when Prometheus asks."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Family]:
        """Yield it."""
        for metric, value in self._measures.read():
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            yield family(metric.exported, metric.text, value=value)
