"""Replays recorded journals against today's code: would a run of yesterday still find its way?"""

from __future__ import annotations

import glob
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from perdure.core import guard
from perdure.core.ask import Ask, TimerAsk
from perdure.core.drift import Drift
from perdure.core.replay import Replay
from perdure.engine.app import Perdure
from perdure.model import codec, failure
from perdure.model.errors import SerializationError, UsageError
from perdure.model.record import Outcome, Record
from perdure.testing.journal import Recording, read_journal

_SHOWN = 200
"""Characters of a value in a report."""


class ReplayReport(msgspec.Struct, frozen=True):
    """What became of one replay; `str` tells it.

    Attributes:
        source: where the journal came from.
        run_id, workflow, version: the recorded run.
        records: how many records it has.
        problems: how journal and today's code differ, in sentences; empty for no difference.
    """

    source: str
    run_id: str
    workflow: str
    version: str
    records: int
    problems: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether today's code replays the journal without a difference."""
        return not self.problems

    def __str__(self) -> str:
        head = f"{self.source}: run {self.run_id} of workflow {self.workflow!r}, {self.records} records: "
        return head + ("replays" if self.is_clean else "\n  ".join(["has drifted", *self.problems]))


class DriftError(AssertionError):
    """Recorded journals and today's code differ. `reports` are those of the journals that do."""

    def __init__(self, reports: Sequence[ReplayReport]) -> None:
        super().__init__("\n".join(str(report) for report in reports))
        self.reports = tuple(reports)


def replay(paths: str | Path | Iterable[str | Path], app: Perdure, *, strict: bool = True) -> list[ReplayReport]:
    """Replay exported journals against an application's code, as one line of a test: `replay("histories/*.json", app)`.

    Args:
        paths: one or several paths or patterns (`**` stands for folders), relative to the working directory.
        app: today's code; it is not opened, and no step runs.
        strict: see `replay_journal`.

    Raises:
        DriftError: at least one differs. UsageError: a pattern matches nothing, or a file is no exported journal.
    """
    reports = []
    for pattern in [paths] if isinstance(paths, str | Path) else paths:
        found = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not found:
            raise UsageError(f"replay: {str(pattern)!r} matches no file in {Path.cwd()}")
        reports += [replay_journal(path, app, strict=strict) for path in found]
    drifted = [report for report in reports if not report.is_clean]
    if drifted:
        raise DriftError(drifted)
    return reports


def replay_journal(source: str | Path | bytes, app: Perdure, *, strict: bool = True) -> ReplayReport:
    """Replay one exported journal against an application's code, without side effects: no step runs.

    Args:
        source: a path, or what `export_journal` returned.
        app: today's code; it is not opened.
        strict: report also what a worker would go along with: steps, timers, events and values that the code asks for
            and the recording lacks, and another end of a finished run. Without it, only what would park a run.

    Raises:
        UsageError: it is no exported journal.
    """
    recording = read_journal(source)
    run = recording.run
    return ReplayReport(
        "journal" if isinstance(source, bytes) else str(source),
        run.id,
        run.workflow,
        run.version,
        len(recording.journal),
        tuple(_problems(recording, app, is_strict=strict)),
    )


class _Recorded(Replay):
    """A replay of a recording; in a finished one, everything lies in the past."""

    is_finished = False

    @property
    def is_replaying(self) -> bool:
        """Whether records are still to be delivered, the end of a finished run among them."""
        return self.is_finished or super().is_replaying


def _problems(recording: Recording, app: Perdure, *, is_strict: bool) -> Iterator[str]:
    workflow = app.registry.workflows.get(recording.run.workflow)
    if workflow is None:
        known = ", ".join(sorted(app.registry.workflows)) or "none"
        yield f"no workflow {recording.run.workflow!r} is registered any more; registered: {known}"
        return
    if workflow.leaf is not None:  # no code of its own, that could find another way
        try:
            workflow.arguments(recording.journal[0].payload or "{}")
        except SerializationError as error:
            yield str(Drift.unreadable(recording.journal[0], error))
        return
    guard.install()
    journal = list(recording.journal)
    end = journal.pop() if journal[-1].kind == "output" else None
    chance = random.Random(recording.run.id)  # noqa: S311  # what it gives away goes nowhere
    replayed = _Recorded(workflow, recording.run, journal, app.settings.limits, chance.randbytes)
    replayed.is_finished = end is not None
    try:
        replayed.start(recording.journal[-1].at)
        if replayed.drift is not None:
            yield str(replayed.drift)
        else:
            if replayed.outcome is not None and replayed.outcome[0] == "error" and end is None:
                yield f"the code now fails here: {_outcome(*replayed.outcome)}"
            if replayed.cause is not None and not any(_is_turned_back(record) for record in journal):
                yield f"the code now fails here, and what it did would be undone: {_outcome('error', replayed.cause)}"
            if is_strict:
                yield from _beyond(replayed, end)
                yield from _other_end(replayed, end)
    finally:
        replayed.close()


def _is_turned_back(record: Record) -> bool:
    """Return whether a record says that the code was left, to be undone."""
    return record.kind == "undo" and record.state != "open"


def _beyond(replayed: Replay, end: Record | None) -> Iterator[str]:
    """Yield what the code asked for that the recording lacks."""
    left = replayed.history.next()
    for record in replayed.records:
        if record.kind == "value" and (end is not None or record.before is not None):
            yield f"the code asked for value {record.key!r}, which was not recorded"
    if replayed.is_over or (end is None and left is None):
        return
    recorded = replayed.history.keys_left() | replayed.history.opened.keys()
    for ask in replayed.asks.values():
        if ask.key in recorded or (isinstance(ask, TimerAsk) and ask.is_guard):
            continue
        if left is not None:
            where = f"ahead of record {left.position}, {left.kind} {left.key!r}"
        else:
            assert end is not None
            where = f"beyond record {end.position}, where the recorded run ended"
        yield f"the code asked for {_asked(ask)} {where}"


def _other_end(replayed: Replay, end: Record | None) -> Iterator[str]:
    """Yield how the end of a finished run differs."""
    if end is None:
        return
    recorded = _outcome("ok" if end.state == "ok" else "error", end.payload or "null")
    if replayed.renewal is not None:
        yield f"the recorded run ended with {recorded}, but the code begins anew"
    elif replayed.outcome is not None and (ended := _outcome(*replayed.outcome)) != recorded:
        yield f"the recorded run ended with {recorded}, but the code ends with {ended}"


def _asked(ask: Ask) -> str:
    return f"{ask.kind} {ask.key!r}"


def _outcome(state: Outcome, payload: str) -> str:
    if state == "error":
        error = failure.decode_error(payload)
        return f"{error.type.rpartition(':')[2]}: {error.message}"
    told = repr(codec.decode_any(payload))
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}…"
