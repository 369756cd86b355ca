"""Traces and metrics for OpenTelemetry."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterable
from typing import Self

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    MeterProvider,
    Observation,
    get_meter_provider,
    set_meter_provider,
)
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from perdure.engine.telemetry import Commit
from perdure.engine.worker.worker import Worker
from perdure.model.errors import UsageError
from perdure.telemetry.metrics import METRICS, Measures, Metric
from perdure.telemetry.tracing import Tracing

_log = logging.getLogger("perdure.telemetry")

FLUSH_MS = 5_000
"""Milliseconds that a stopping worker gives to the export of what is left."""

SERVICE = "perdure-worker"
"""The service's name, where `OTEL_SERVICE_NAME` names none."""


class OpenTelemetry(Tracing):
    """Makes one trace for each run, and measures workers.

    Args:
        tracer_provider: what makes the spans; the global one by default.
        meter_provider: what takes in the measurements; the global one by default.

    Raises:
        UsageError: there is no tracer provider of the SDK.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        provider = tracer_provider or trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            raise UsageError(
                "OpenTelemetry: no tracer provider is set: give tracer_provider, call trace.set_tracer_provider "
                "before, or use OpenTelemetry.exporting()"
            )
        super().__init__(provider)
        self._sink = _Sink(meter_provider or get_meter_provider())
        self._measures = Measures(self._sink)
        self._sink.read(self._measures)
        self._flushes: list[Callable[[int], object]] = []

    @classmethod
    def exporting(cls, *, traces: bool = True, metrics: bool = True) -> Self:
        """Return one that exports by OTLP over HTTP as the variables `OTEL_…` say; its providers become the global.

        Args:
            traces, metrics: what is exported.
        """
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        if protocol != "http/protobuf":
            _log.warning(
                "OTEL_EXPORTER_OTLP_PROTOCOL is %r, and Perdure exports by http/protobuf: name the collector's port "
                "for that, mostly 4318",
                protocol,
            )
        known = OTELResourceDetector().detect().attributes
        about = {SERVICE_NAME: SERVICE, SERVICE_INSTANCE_ID: f"{platform.node()}:{os.getpid()}"}
        resource = Resource.create({name: value for name, value in about.items() if name not in known})
        tracers = TracerProvider(resource=resource)
        if traces:
            tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if metrics else []
        meters = SdkMeterProvider(readers, resource)
        trace.set_tracer_provider(tracers)
        set_meter_provider(meters)
        made = cls(tracers, meters)
        made._flushes = [tracers.force_flush, meters.force_flush]
        return made

    def opened(self, worker: Worker) -> None:
        """A worker begins to claim runs."""
        super().opened(worker)
        self._measures.opened(worker)

    def closed(self, worker: Worker) -> None:
        """A worker has stopped: export what is left."""
        super().closed(worker)
        self._measures.closed(worker)
        for flush in self._flushes:
            flush(FLUSH_MS)

    def committed(self, commit: Commit) -> None:
        """End the spans of what a decision tells, and count it."""
        super().committed(commit)
        self._measures.committed(commit)

    def wrote(self, decisions: int, seconds: float) -> None:
        """Take in a write of decisions."""
        self._measures.wrote(decisions, seconds)


class _Sink:
    """The instruments."""

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter("perdure")
        self._counters: dict[Metric, Counter] = {
            metric: self._meter.create_counter(metric.name, metric.unit, metric.text)
            for metric in METRICS
            if metric.kind == "counter" and metric.labels
        }
        self._histograms: dict[Metric, Histogram] = {
            metric: self._meter.create_histogram(
                metric.name,
                metric.unit,
                metric.text,
                explicit_bucket_boundaries_advisory=metric.bounds,
            )
            for metric in METRICS
            if metric.kind == "histogram"
        }

    def read(self, measures: Measures) -> None:
        """Make the instruments of what is looked at when it is exported."""
        for metric in METRICS:
            about = metric.name, [_reading(measures, metric)], metric.unit, metric.text
            if metric.kind == "gauge":
                self._meter.create_observable_gauge(*about)
            elif metric.kind == "counter" and not metric.labels:
                self._meter.create_observable_counter(*about)

    def add(self, metric: Metric, labels: tuple[str, ...], amount: int = 1) -> None:
        """Count so many more; with 0, have it told that there were none."""
        self._counters[metric].add(amount, dict(zip(metric.labels, labels, strict=True)))

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Take in a value of a histogram."""
        self._histograms[metric].record(value, dict(zip(metric.labels, labels, strict=True)))


def _reading(measures: Measures, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value) for each, value in measures.read() if each is metric]

    return read
