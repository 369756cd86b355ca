"""Has spans made with ids that are worked out beforehand (see `perdure.engine.traces`)."""

from __future__ import annotations

import threading

from opentelemetry.sdk.trace.id_generator import IdGenerator


class GivenIds(IdGenerator):
    """Gives the next span the ids that it was told, in the thread that told it."""

    def __init__(self) -> None:
        self._next = threading.local()

    def give(self, trace: int, span: int) -> None:
        """Say which ids the next span has; that of the trace counts where it has no parent."""
        self._next.trace, self._next.span = trace, span

    def generate_trace_id(self) -> int:
        """Return the trace's id that was given."""
        trace: int = self._next.trace
        return trace

    def generate_span_id(self) -> int:
        """Return the span's id that was given."""
        span: int = self._next.span
        return span
