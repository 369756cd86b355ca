"""Metrics of a server for Prometheus: what it is asked, and what its stores hold, as counted now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.authoring.context import current_trace
from perdure.engine.app import Perdure
from perdure.engine.telemetry import TRACE, TRACEPARENT
from perdure.engine.worker.status import WorkerStatus
from perdure.model.decision import QueueStats
from perdure.model.errors import StoreError
from perdure.model.run import RunStatus
from perdure.server.access import Metrics
from perdure.server.routing import router as routes
from perdure.server.sampling import Sample
from perdure.server.server import Server

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the buckets for how long requests took."""

NO_ROUTE = "(none)"
"""The route of a request for what there is not."""

QUEUES_TOLD_APART = 1_000
"""How many queues of a namespace have counts of their own, by name; those of further ones are added up."""

OTHERS = "(other)"
"""The name that they are added up under."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""The methods that are told apart; the others are `other`."""

router = routes("health")


class Measured:
    """Measures requests, and has what they start join the trace that they name (ASGI middleware)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("method", "route")
        self._requests = Counter(
            "perdure_requests", "Requests, by the status of the response.", (*labels, "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "perdure_request_duration_seconds",
            "How long it took until a response began.",
            labels,
            registry=self._registry,
            buckets=SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["metrics"] = self._registry
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", NO_ROUTE)
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.labels(method, route, str(message["status"])).inc()
                self._seconds.labels(method, route).observe(loop.time() - began)
            await send(message)

        trace = current_trace.set(_trace(scope))
        try:
            await self._app(scope, receive, told)
        finally:
            current_trace.reset(trace)


@router.get(
    "/metrics",
    operation_id="get_metrics",
    response_class=Response,
    responses={200: {"description": "Metrics in Prometheus's own format.", "content": {"text/plain": {}}}},
)
async def get_metrics(access: Metrics, request: Request) -> Response:
    """Return the server's metrics, and counts of the namespaces that the caller may see, for Prometheus."""
    found = _Counts()
    for name in access.principal.namespaces:
        await found.look(access.server, name)
    registry: CollectorRegistry = request.state.metrics
    text = generate_latest(_Together((registry, found)))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


class _Together:
    """Several collectors as one."""

    def __init__(self, each: Iterable[CollectorRegistry | _Counts]) -> None:
        self._each = tuple(each)

    def collect(self) -> Iterator[Metric]:
        for each in self._each:
            yield from each.collect()


class _Counts:
    """What the stores of some namespaces hold."""

    def __init__(self) -> None:
        space, queue = ("namespace",), ("namespace", "queue")
        self.is_up = GaugeMetricFamily("perdure_store_up", "Whether the store answers.", labels=space)
        self.age = GaugeMetricFamily("perdure_counted_seconds_ago", "How old the counts are.", labels=space)
        self.runs = GaugeMetricFamily("perdure_runs", "Runs in the store.", labels=("namespace", "status"))
        self.due = GaugeMetricFamily("perdure_queue_due", "Runs that wait for a worker.", labels=queue)
        self.later = GaugeMetricFamily("perdure_queue_later", "Runs that wait for time or events.", labels=queue)
        self.leased = GaugeMetricFamily("perdure_queue_leased", "Runs in the hands of workers.", labels=queue)
        self.oldest = GaugeMetricFamily(
            "perdure_queue_oldest_due_seconds", "For how long the first run in line has been due.", labels=queue
        )
        self.ended = CounterMetricFamily(
            "perdure_queue_ended", "Runs that workers ended since the first look at them.", labels=queue
        )
        self.workers = GaugeMetricFamily("perdure_workers", "Workers of the store.", labels=("namespace", "state"))

    def collect(self) -> Iterator[Metric]:
        yield from (self.is_up, self.age, self.runs, self.due, self.later, self.leased, self.oldest, self.ended)
        yield self.workers

    async def look(self, server: Server, name: str) -> None:
        """Take in the counts of a namespace, which are taken now and then, however often somebody asks."""
        app = server.namespaces.engine(name)
        if app is None:
            return
        try:
            sample = await server.sampler(name).latest()
            workers = await app.workers()
        except StoreError:
            self.is_up.add_metric((name,), 0)
            return
        self.is_up.add_metric((name,), 1)
        self._take(name, app, sample, workers)

    def _take(self, name: str, app: Perdure, sample: Sample, workers: list[WorkerStatus]) -> None:
        now = app.world.now()
        self.age.add_metric((name,), max(0, now - sample.at) / 1000)
        for status in RunStatus:
            self.runs.add_metric((name, status.value), sample.status.get(status, 0))
        for queue in _told_apart(sample.queues):
            place = name, queue.queue
            self.due.add_metric(place, queue.due)
            self.later.add_metric(place, queue.later)
            self.leased.add_metric(place, queue.leased)
            late = 0 if queue.oldest_due_at is None else max(0, now - queue.oldest_due_at)
            self.oldest.add_metric(place, late / 1000)
        ended = sorted(sample.ended_by_queue.items())
        for each, count in ended[:QUEUES_TOLD_APART]:
            self.ended.add_metric((name, each), count)
        if others := ended[QUEUES_TOLD_APART:]:
            self.ended.add_metric((name, OTHERS), sum(count for _, count in others))
        silent = sum(worker.is_silent(now) for worker in workers)
        self.workers.add_metric((name, "silent"), silent)
        self.workers.add_metric((name, "at_work"), len(workers) - silent)


def _told_apart(queues: Sequence[QueueStats]) -> list[QueueStats]:
    """Return the counts of queues, those of too many in one."""
    told, others = list(queues[:QUEUES_TOLD_APART]), queues[QUEUES_TOLD_APART:]
    if others:
        due, later, leased = (sum(getattr(each, count) for each in others) for count in ("due", "later", "leased"))
        oldest = min((each.oldest_due_at for each in others if each.oldest_due_at is not None), default=None)
        told.append(QueueStats(OTHERS, due, later, leased, oldest))
    return told


def _trace(scope: Scope) -> str | None:
    """Return the trace that a request names; None for none, or for what is no name of one."""
    found = next((value for name, value in scope["headers"] if name == TRACE.encode()), b"").decode("latin-1")
    return found if TRACEPARENT.fullmatch(found) else None
