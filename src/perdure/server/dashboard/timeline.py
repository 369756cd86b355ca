"""The picture of a run: what it did and waited for, as bars over time, one lane for each step, wait and child.

A journal tells of a step when an attempt has ended, and of a wait when it is over. When a wait began is not recorded:
it is drawn from the settlement before it on, which is what led to it wherever code does one thing after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from perdure.core.wait import Wait, decode_waits
from perdure.model import failure
from perdure.model.duration import in_words
from perdure.model.errors import PerdureError
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.server.dashboard.scale import Scale

LANES = 200
"""How many lanes a picture has; the rest is counted."""

QUEUED_FROM = 100
"""Milliseconds in the queue from which on they have a lane."""

MESSAGE = 160
LEAST_WIDTH = 0.35
"""The width of a bar at least, in percent, so that it is seen."""

Look = Literal["ok", "error", "wait", "retry", "open", "child"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: where it is, in percent, how it looks, and what it says when it is pointed at."""

    x: float
    width: float
    look: Look
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of the picture.

    Attributes:
        key: the record key.
        name: what it is called, without what it stands below.
        depth: how many lanes it stands below.
        kind: of its records; `queue` for the time before the run was begun.
        bars: in their order.
        took: how long it took from the first bar to the end of the last, in words.
        attempts: how often it was tried.
        is_over: it was settled.
        is_error: by an error.
        run_id: the child's.
    """

    key: str
    name: str
    depth: int
    kind: str
    bars: tuple[Bar, ...]
    took: str
    attempts: int
    is_over: bool
    is_error: bool
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The picture.

    Attributes:
        lanes: from above.
        ticks: where labels stand, in percent, and what they say.
        breaks: shortened waits: where they begin, how wide they are, and what they say.
        more: how many lanes are left out.
        took: from its left to its right edge, in words.
    """

    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[float, str], ...]
    breaks: tuple[tuple[float, float, str], ...]
    more: int
    took: str


@dataclass(slots=True)
class _Span:
    since: int
    until: int
    look: Look
    title: str
    is_busy: bool


@dataclass(slots=True)
class _Row:
    key: str
    kind: str
    spans: list[_Span] = field(default_factory=list)
    attempts: int = 0
    is_over: bool = False
    is_error: bool = False
    run_id: str | None = None
    failed: tuple[int, int | None] | None = None
    """Since when the next attempt is waited for, and until when."""
    begun_at: int | None = None


class _Drawing:
    """Reads a journal into rows."""

    def __init__(self, run: Run, now: int) -> None:
        self._run = run
        self._now = now
        self._rows: dict[str, _Row] = {}
        self._settled_at = run.started_at or run.created_at

    def draw(self, journal: Iterable[Record]) -> Timeline:
        run = self._run
        begun = run.started_at if run.started_at is not None else self._now
        if begun - run.created_at >= QUEUED_FROM or run.started_at is None:
            self._span("", "queue", run.created_at, begun, "wait", "in the queue")
        for record in journal:
            self._read(record)
        end = run.finished_at
        if end is None:
            end = max(self._now, self._settled_at)
            self._go_on(end)
        return self._picture(run.created_at, end)

    def _row(self, key: str, kind: str) -> _Row:
        if key not in self._rows:
            self._rows[key] = _Row(key, kind)
        return self._rows[key]

    def _span(
        self, key: str, kind: str, since: int, until: int, look: Look, title: str, *, is_busy: bool = False
    ) -> _Row:
        row = self._row(key, kind)
        row.spans.append(_Span(since, max(since, until), look, f"{title} ({in_words(max(0, until - since))})", is_busy))
        return row

    def _read(self, record: Record) -> None:
        kind = record.kind
        if kind == "step":
            self._read_step(record)
        elif kind == "child":
            self._read_child(record)
        elif kind in ("timer", "event"):
            look: Look = "wait" if record.state == "ok" else "error"
            told = "a timer" if kind == "timer" else "an event" if record.state == "ok" else "no event in time"
            row = self._span(record.key, kind, self._settled_at, record.at, look, told)
            row.is_over, row.is_error = True, record.state == "error"
        if record.state != "open":
            self._settled_at = record.at

    def _read_step(self, record: Record) -> None:
        row = self._row(record.key, "undo" if record.key.startswith("undo") else "step")
        since = record.started_at if record.started_at is not None else self._settled_at
        if row.failed is not None:
            row.spans.append(self._retry(row, since))
            row.failed = None
        row.attempts = record.attempt
        title = f"attempt {record.attempt}" + ("" if record.state == "ok" else f": {_error(record)}")
        look: Look = "ok" if record.state == "ok" else "error"
        self._span(record.key, row.kind, since, record.at, look, title, is_busy=True)
        if record.state == "open":
            row.failed = record.at, record.due_at
        else:
            row.is_over, row.is_error = True, record.state == "error"

    def _read_child(self, record: Record) -> None:
        row = self._row(record.key, "child")
        row.run_id = record.ref or row.run_id
        if record.state == "open":
            row.begun_at = record.at
            return
        since = row.begun_at if row.begun_at is not None else self._settled_at
        look: Look = "child" if record.state == "ok" else "error"
        title = "a child run" if record.state == "ok" else f"a child run: {_error(record)}"
        self._span(record.key, "child", since, record.at, look, title, is_busy=True)
        row.is_over, row.is_error = True, record.state == "error"

    def _retry(self, row: _Row, until: int) -> _Span:
        assert row.failed is not None
        since = row.failed[0]
        title = f"waited for attempt {row.attempts + 1} ({in_words(max(0, until - since))})"
        return _Span(since, max(since, until), "retry", title, is_busy=False)

    def _go_on(self, end: int) -> None:
        """Draw what has not ended, up to the present."""
        run = self._run
        for row in self._rows.values():
            if row.failed is not None:
                row.spans.append(self._retry(row, end))
            elif row.kind == "child" and not row.is_over:
                since = row.begun_at if row.begun_at is not None else self._settled_at
                row.spans.append(_Span(since, end, "open", "a child run, under way", is_busy=False))
        for wait in decode_waits(run.wait).waits:
            self._wait_on(wait, end)
        if run.worker is not None and run.status in (RunStatus.RUNNING, RunStatus.COMPENSATING):
            for key in _working(run.progress) or ("…",):
                self._span(key, "step", self._settled_at, end, "open", f"worker {run.worker} is at it", is_busy=True)

    def _wait_on(self, wait: Wait, end: int) -> None:
        if wait.kind in ("timer", "event"):
            told = f"waits for an event of type {wait.detail!r}" if wait.kind == "event" else "sleeps"
            self._span(wait.key, wait.kind, self._settled_at, end, "open", told)

    def _picture(self, start: int, end: int) -> Timeline:
        rows = [row for row in self._rows.values() if row.spans]
        scale = Scale(start, end, [(span.since, span.until) for row in rows for span in row.spans if span.is_busy])
        ordered = _ordered(rows)
        lanes = tuple(_lane(row, name, depth, scale) for row, name, depth in ordered[:LANES])
        breaks = tuple(
            (scale.place(since), scale.place(until) - scale.place(since), f"{in_words(until - since)} of waiting")
            for since, until in scale.breaks
        )
        ticks = tuple((place, f"+{in_words(after)}" if after else "0") for place, after in scale.ticks())
        return Timeline(lanes, ticks, breaks, max(0, len(ordered) - LANES), in_words(end - start))


def timeline(run: Run, journal: Sequence[Record], now: int) -> Timeline:
    """Return the picture of a run.

    Args:
        run: the run.
        journal: its records, or those of them that are shown.
        now: the present, in milliseconds since the epoch.
    """
    return _Drawing(run, now).draw(journal)


def _lane(row: _Row, name: str, depth: int, scale: Scale) -> Lane:
    bars = []
    for span in row.spans:
        x = scale.place(span.since)
        width = max(LEAST_WIDTH, scale.place(span.until) - x)
        bars.append(Bar(round(min(x, 100 - LEAST_WIDTH), 3), round(width, 3), span.look, span.title))
    whole = row.spans[-1].until - row.spans[0].since
    return Lane(
        row.key,
        name,
        depth,
        row.kind,
        tuple(bars),
        in_words(whole),
        row.attempts,
        row.is_over,
        row.is_error,
        row.run_id,
    )


def _ordered(rows: Sequence[_Row]) -> list[tuple[_Row, str, int]]:
    """Return the rows by when they began, those of steps inside a step below it, with their names and depths."""
    known = {row.key: row for row in rows}
    below: dict[str, list[_Row]] = {}
    for row in rows:
        above = row.key.rpartition("/")[0]
        while above and above not in known:
            above = above.rpartition("/")[0]
        below.setdefault(above, []).append(row)
    for group in below.values():
        group.sort(key=lambda row: (row.kind != "queue", row.spans[0].since))
    found: list[tuple[_Row, str, int]] = []
    waiting = [(row, 0, "") for row in reversed(below.get("", []))]
    while waiting:
        row, depth, above = waiting.pop()
        found.append((row, row.key.removeprefix(f"{above}/") if above else row.key, depth))
        if row.key:
            waiting += [(inner, depth + 1, row.key) for inner in reversed(below.get(row.key, []))]
    return found


def _working(progress: str | None) -> tuple[str, ...]:
    """Return the keys of the steps that say how far they are."""
    try:
        return () if progress is None else tuple(msgspec.json.decode(progress, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError:
        return ()


def _error(record: Record) -> str:
    try:
        told = failure.decode_error(record.payload or "{}").told
    except (msgspec.DecodeError, PerdureError):
        return "an error that cannot be read"
    return told if len(told) <= MESSAGE else told[: MESSAGE - 1] + "…"
