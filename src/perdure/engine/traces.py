"""The ids of traces and spans: worked out from what they are about, so that every worker comes to the same ones.

A run's spans are made by whichever worker commits what they tell, over months perhaps. None of them knows the others,
but a parent's id follows from the run, and a span that was made twice would be the same span.
"""

from __future__ import annotations

from hashlib import blake2b

from perdure.engine.telemetry import TRACE, TRACEPARENT
from perdure.model.run import Run


def trace_id(run_id: str) -> int:
    """Return the id of the trace of a run that was started outside of any."""
    return int.from_bytes(_digest(16, "trace", run_id)) or 1


def run_span_id(run_id: str, incarnation: int) -> int:
    """Return the id of a run's own span, which is another one each time that the run begins anew."""
    return int.from_bytes(_digest(8, "run", run_id, str(incarnation))) or 1


def attempt_span_id(run_id: str, incarnation: int, key: str, attempt: int) -> int:
    """Return the id of the span of one attempt of a step."""
    return int.from_bytes(_digest(8, "attempt", run_id, str(incarnation), key, str(attempt))) or 1


def event_span_id(run_id: str, incarnation: int, message_id: str) -> int:
    """Return the id of the span of an event on its way to a run."""
    return int.from_bytes(_digest(8, "event", run_id, str(incarnation), message_id)) or 1


def own_place(run: Run) -> str | None:
    """Return the place of a run's own span, as a `traceparent`; None for a run that was started in no trace."""
    given = run.tags.get(TRACE, "")
    if TRACEPARENT.fullmatch(given) is None:
        return None
    version, whole, _, flags = given.split("-")
    return f"{version}-{whole}-{run_span_id(run.id, run.incarnation):016x}-{flags}"


def _digest(size: int, *parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=size).digest()
