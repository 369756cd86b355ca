"""One trace for each run, over all workers and however long it takes.

The span of an attempt of a step begins when the attempt does, and is what the step's body finds as its current span;
it is ended, and so exported, once the decision that records the attempt is durable. A run's own span is made at its
end: it reaches back to the run's creation. See `perdure.engine.traces` for how they find each other.

What one run tells another does not put them into one trace, which might never end: an event that was sent in a trace
has a span with the run that took it, with a link to where it was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision as SamplingDecision
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from perdure.authoring.context import current_trace
from perdure.engine.telemetry import LINK, TRACE, Commit, Telemetry
from perdure.engine.traces import attempt_span_id, event_span_id, run_span_id, trace_id
from perdure.engine.triggers.events import PREFIX as BY_EVENT
from perdure.engine.triggers.scheduler import PREFIX as BY_SCHEDULE
from perdure.engine.triggers.scheduler import WORKFLOW as SCHEDULE
from perdure.engine.worker.attempt import StepRun
from perdure.model.decision import Claim, Message
from perdure.model.errors import UsageError
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.telemetry.failures import error_of
from perdure.telemetry.ids import GivenIds
from perdure.telemetry.metrics import step_name

if TYPE_CHECKING:
    from perdure.engine.worker.worker import Worker

EVENTS_KEPT = 128
"""How many of the latest things that happened to a run its span tells of: as many as are exported by default."""

_WAITS = {"timer": "timer fired", "event": "event received", "child": "child ended"}
_FAILED = frozenset({RunStatus.ERRORED, RunStatus.COMPENSATED})

_propagator = TraceContextTextMapPropagator()


class _Held:
    """What is known of a run that a worker has: where its spans belong, and what has happened to it."""

    def __init__(self, run: Run, journal: list[Record], parent: SpanContext | None, own: SpanContext) -> None:
        self.parent = parent
        self.own = own
        self.context = trace.set_span_in_context(NonRecordingSpan(own), Context())
        self.attempts: dict[tuple[str, int], Span] = {}
        self.events: dict[str, Message] = {}
        self.seen = 0
        self.happened: deque[Record] = deque((each for each in journal if _is_told(each)), EVENTS_KEPT)
        self.started_at = run.started_at if run.incarnation and run.started_at else run.created_at

    def note(self, messages: Iterable[Message]) -> None:
        """Take in the events among messages that come from a trace; those taken in before are passed over."""
        for message in messages:
            if message.seq > self.seen:
                self.seen = message.seq
                if message.kind == "event" and message.ref is not None:
                    self.events[message.id] = message


class Tracing(Telemetry):
    """Makes spans of runs and of attempts of steps.

    Args:
        provider: what they are made with.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._ids = GivenIds()
        tracer = provider.get_tracer("perdure")
        if not isinstance(tracer, Tracer):
            raise UsageError("OpenTelemetry: the tracer provider is switched off (OTEL_SDK_DISABLED); leave it out")
        tracer.id_generator = self._ids
        self._tracer = tracer
        self._held: dict[tuple[str, int], _Held] = {}
        self._worker = ""

    def opened(self, worker: Worker) -> None:
        """Note the worker's id, for the spans."""
        self._worker = worker.id

    def taken(self, claim: Claim) -> None:
        """Work out where the spans of a run belong."""
        run = claim.run
        if run.workflow == SCHEDULE:  # it lives for years, and no fire has to do with the one before
            return
        parent, own = self._contexts(run)
        held = self._held[run.id, run.epoch] = _Held(run, claim.journal, parent, own)
        held.note(claim.inbox)

    def arrived(self, run: Run, messages: Sequence[Message]) -> None:
        """Note where events come from."""
        held = self._held.get((run.id, run.epoch))
        if held is not None:
            held.note(messages)

    def left(self, run: Run) -> None:
        """Drop the spans of attempts that were not recorded: another worker makes them again."""
        self._held.pop((run.id, run.epoch), None)

    def attempt_begun(self, step: StepRun) -> None:
        """Begin the span of an attempt, and make it the current one where its body runs."""
        held = self._held.get((step.run.id, step.run.epoch))
        if held is None:  # what a schedule starts has nothing to do with where the worker was started
            contexts.attach(trace.set_span_in_context(INVALID_SPAN, contexts.get_current()))
            current_trace.set(None)
            return
        above = step.key.rpartition("/")[0]
        outer = [span for (key, _), span in held.attempts.items() if key == above] if above else []
        within = trace.set_span_in_context(outer[-1], Context()) if outer else held.context
        span = self._begin(step.run, within, step.key, step.attempt, step.started_at)
        held.attempts[step.key, step.attempt] = span
        contexts.attach(trace.set_span_in_context(span, contexts.get_current()))
        current_trace.set(_written(span.get_span_context()))

    def committed(self, commit: Commit) -> None:
        """End the spans of what a decision tells."""
        run, decision = commit.run, commit.decision
        if run.workflow == SCHEDULE:
            return
        held = self._held.get((run.id, run.epoch))
        if held is None:  # the run was lost, and the decision that hands it back got through
            parent, own = self._contexts(run)
            held = _Held(run, [], parent, own)
        for record in commit.attempts:
            span = held.attempts.pop((record.key, record.attempt), None)
            if span is None:
                within = self._under(run, held, commit, record.key)
                span = self._begin(run, within, record.key, record.attempt, record.started_at or record.at)
            _end_attempt(span, record)
        for message_id in decision.consumed:
            message = held.events.pop(message_id, None)
            if message is not None:
                self._received(run, held, message, decision.at)
        held.happened.extend(record for record in decision.records if _is_told(record))
        if decision.status.is_finished or decision.renew is not None:
            self._end_run(commit, held)

    def trace(self) -> str | None:
        """Return where the current span belongs."""
        found = trace.get_current_span().get_span_context()
        return _written(found) if found.is_valid else None

    def trace_of(self, run: Run) -> str | None:
        """Return the run's own span."""
        held = self._held.get((run.id, run.epoch))
        return None if held is None else _written(held.own)

    def _contexts(self, run: Run) -> tuple[SpanContext | None, SpanContext]:
        """Return what a run's span stands under, if anything, and its own place."""
        parent = _place(run.tags.get(TRACE))
        if parent is not None:
            whole, flags = parent.trace_id, parent.trace_flags
        else:
            whole = trace_id(run.id)
            sampled = self._provider.sampler.should_sample(None, whole, run.workflow, SpanKind.CONSUMER)
            is_sampled = sampled.decision is SamplingDecision.RECORD_AND_SAMPLE
            flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
        if run.incarnation:  # begun anew, under the span that it had at first
            parent = SpanContext(whole, run_span_id(run.id, 0), is_remote=True, trace_flags=flags)
        own = SpanContext(whole, run_span_id(run.id, run.incarnation), is_remote=True, trace_flags=flags)
        return parent, own

    def _under(self, run: Run, held: _Held, commit: Commit, key: str) -> Context:
        """Return what the span of a step stands under: its run's, or that of the step it stands in."""
        above = key.rpartition("/")[0]
        if not above:
            return held.context
        span = attempt_span_id(run.id, run.incarnation, above, commit.under_way.get(above, 1))
        place = SpanContext(held.own.trace_id, span, is_remote=True, trace_flags=held.own.trace_flags)
        return trace.set_span_in_context(NonRecordingSpan(place), Context())

    def _begin(self, run: Run, within: Context, key: str, attempt: int, started_at: int) -> Span:
        whole = trace.get_current_span(within).get_span_context().trace_id
        self._ids.give(whole, attempt_span_id(run.id, run.incarnation, key, attempt))
        attributes = {
            **_about(run),
            "perdure.step": key,
            "perdure.attempt": attempt,
            "perdure.worker.id": self._worker,
        }
        return self._tracer.start_span(
            step_name(key), within, attributes=attributes, start_time=_nanoseconds(started_at)
        )

    def _received(self, run: Run, held: _Held, message: Message, at: int) -> None:
        """Make the span of an event that a run took: from when it was sent, by somebody in another trace."""
        self._ids.give(held.own.trace_id, event_span_id(run.id, run.incarnation, message.id))
        span = self._tracer.start_span(
            f"receive {message.type}",
            held.context,
            kind=SpanKind.CONSUMER,
            attributes={**_about(run), "perdure.event.type": message.type, "perdure.event.id": message.id},
            links=_links(message.ref),
            start_time=_nanoseconds(min(message.at, at)),
        )
        span.end(_nanoseconds(at))

    def _end_run(self, commit: Commit, held: _Held) -> None:
        run, decision = commit.run, commit.decision
        self._ids.give(held.own.trace_id, held.own.span_id)
        within = (
            Context() if held.parent is None else trace.set_span_in_context(NonRecordingSpan(held.parent), Context())
        )
        attributes: dict[str, AttributeValue] = {**_about(run), "perdure.worker.id": self._worker}
        attributes["perdure.run.status"] = "continued" if decision.renew is not None else decision.status.value
        if run.parent_id is not None:
            attributes["perdure.run.parent_id"] = run.parent_id
        attributes |= _started_by(run)
        span = self._tracer.start_span(
            run.workflow,
            within,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[] if run.incarnation else _links(run.tags.get(LINK)),
            start_time=_nanoseconds(held.started_at),
        )
        if run.started_at is not None:
            span.add_event("begun", timestamp=_nanoseconds(run.started_at))
        for record in held.happened:
            name = _WAITS.get(record.kind) or f"undo {record.state}"
            told: dict[str, AttributeValue] = {"perdure.key": record.key}
            if record.ref is not None and record.kind == "child":
                told["perdure.run.id"] = record.ref
            span.add_event(name, told, _nanoseconds(record.at))
        if decision.status in _FAILED and decision.renew is None:
            payload = decision.records[-1].payload if decision.records else None
            _fail(span, payload, decision.at)
        span.end(_nanoseconds(decision.at))


def _end_attempt(span: Span, record: Record) -> None:
    if record.state != "ok":
        _fail(span, record.payload, record.at)
    if record.state == "open" and record.due_at is not None:
        span.set_attribute("perdure.retry_at", record.due_at)
        span.add_event("retry", {"perdure.delay_ms": max(0, record.due_at - record.at)}, _nanoseconds(record.at))
    span.end(_nanoseconds(record.at))


def _fail(span: Span, payload: str | None, at: int) -> None:
    """Say on a span what it failed with."""
    error = error_of(payload)
    told: dict[str, AttributeValue] = {
        "exception.type": error.type.replace(":", "."),
        "exception.message": error.message,
    }
    if error.traceback:
        told["exception.stacktrace"] = error.traceback
    span.add_event("exception", told, _nanoseconds(at))
    span.set_status(Status(StatusCode.ERROR, error.told))


def _about(run: Run) -> dict[str, AttributeValue]:
    about: dict[str, AttributeValue] = {
        "perdure.run.id": run.id,
        "perdure.workflow": run.workflow,
        "perdure.queue": run.queue,
    }
    if run.version:
        about["perdure.workflow.version"] = run.version
    if run.incarnation:
        about["perdure.run.incarnation"] = run.incarnation
    return about


def _started_by(run: Run) -> dict[str, AttributeValue]:
    """Return which schedule or event started a run, if one did."""
    if run.id.startswith(BY_SCHEDULE):
        return {f"perdure.{name}": run.tags[name] for name in ("schedule", "fire") if name in run.tags}
    if run.id.startswith(BY_EVENT) and "event" in run.tags:
        return {"perdure.event.type": run.tags["event"]}
    return {}


def _place(given: str | None) -> SpanContext | None:
    """Return the place that a `traceparent` names; None for none."""
    if given is None:
        return None
    found = trace.get_current_span(_propagator.extract({TRACE: given}, Context())).get_span_context()
    return found if found.is_valid else None


def _links(given: str | None) -> list[Link]:
    place = _place(given)
    return [] if place is None else [Link(place)]


def _is_told(record: Record) -> bool:
    """Return whether a run's span tells of a record."""
    return (record.kind in _WAITS and record.state != "open") or record.kind == "undo"


def _written(place: SpanContext) -> str:
    return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}"


def _nanoseconds(at: int) -> int:
    return at * 1_000_000
