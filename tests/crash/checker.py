"""Judges what a crash test left behind. It knows nothing of the engine: it reads the store by itself.

The evidence comes from four sides: what was acknowledged and what has to come out of it (the driver), which step bodies
really ran (the ledger, which they write themselves), who was killed (whoever killed them), and what the store says.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.crash.kept import Row, Stored
from tests.crash.reading import read

SETTLED = ("ok", "error")


@dataclass
class Evidence:
    """What the judgement rests on.

    Attributes:
        store: the store's URL.
        ledger: the file that the step bodies wrote.
        expected: what every acknowledged run has to end with, by its id.
        children: what every run that one of those starts has to end with.
        events: the ids of the acknowledged events, by run.
        killed: the processes that were killed.
        stopped: those that were stopped for longer than their leases, and may have come back.
        in_order: runs whose steps follow each other, so that the next one begins once the last one's result is safe.
        goes_back: whether the store may have forgotten what it had acknowledged, claims among it.
        least_hits: how many of all these must have been at work in a step.
    """

    store: str
    ledger: Path
    expected: Mapping[str, object]
    children: Mapping[str, object] = field(default_factory=dict)
    events: Mapping[str, Sequence[str]] = field(default_factory=dict)
    killed: Sequence[int] = ()
    stopped: Sequence[int] = ()
    in_order: Sequence[str] = ()
    goes_back: bool = False
    least_hits: int = 0


@dataclass
class Verdict:
    violations: list[str]
    figures: dict[str, int]


class Execution:
    """One time that a step's body ran, as the ledger has it."""

    def __init__(self, pid: int, line: int) -> None:
        self.pid = pid
        self.line = line
        self.end: dict[str, Any] | None = None


Executions = dict[tuple[str, str, int], list[Execution]]


def check(evidence: Evidence) -> Verdict:
    """Judge."""
    runs, contradictions = read(evidence.store)
    executions, strays = _read_ledger(evidence.ledger)
    violations = [
        *contradictions,
        *strays,
        *_starts(evidence, runs),
        *(told for run_id, run in runs.items() for told in _journal(run_id, run, goes_back=evidence.goes_back)),
        *_executed(runs, executions),
        *(() if evidence.goes_back else _fenced(evidence.ledger)),
        *_repeated(executions, set(evidence.killed), set(evidence.stopped)),
        *(told for run_id in evidence.in_order for told in _in_order(run_id, runs, executions)),
        *_events(evidence.events, runs),
        *_families(runs),
    ]
    figures = _figures(evidence, runs, executions)
    if figures["kills_that_hit"] < evidence.least_hits:
        violations.append(
            f"vacuous: {figures['kills_that_hit']} of {figures['kills']} kills hit a step at work, "
            f"of {evidence.least_hits} that it takes"
        )
    return Verdict(violations, figures)


# Reading.


def _read_ledger(path: Path) -> tuple[Executions, list[str]]:
    """Pair begins with ends; return what cannot be paired, too."""
    executions: Executions = defaultdict(list)
    strays: list[str] = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        line = json.loads(text)
        step = (line["run"], line["key"], line["attempt"])
        if line["what"] == "begin":
            executions[step].append(Execution(line["pid"], number))
        elif line["what"] in ("end", "fail"):
            open_one = next((one for one in executions[step] if one.pid == line["pid"] and one.end is None), None)
            if open_one is None:
                strays.append(f"{_name(step)} ended in process {line['pid']} without a begin there")
            else:
                open_one.end = line
    return executions, strays


# Judging.


def _starts(evidence: Evidence, runs: Mapping[str, Stored]) -> Iterator[str]:
    """What was acknowledged is there and ended as it has to; nothing else is there."""
    for run_id, output in {**evidence.expected, **evidence.children}.items():
        run = runs.get(run_id)
        if run is None:
            yield f"{run_id} was acknowledged and is gone"
        elif run.status != "complete":
            yield f"{run_id} is {run.status}, not complete"
        elif not run.journal or run.journal[-1].kind != "output" or run.journal[-1].payload is None:
            yield f"{run_id} is complete without an output"
        elif json.loads(run.journal[-1].payload) != output:
            yield f"{run_id} ended with {run.journal[-1].payload}, not with {output}"
    for run_id in runs.keys() - evidence.expected.keys() - evidence.children.keys():
        yield f"{run_id} is there and nobody started it"


def _journal(run_id: str, run: Stored, *, goes_back: bool) -> Iterator[str]:
    """Positions have no gaps, times do not go back, and nothing is settled twice.

    A store that forgets a claim gives its epoch away a second time, and takes what either of the two has to say next.
    """
    positions = [row.position for row in run.journal]
    if positions != list(range(run.length)):
        yield f"{run_id} has records at {positions}, and says it has {run.length}"
    if not goes_back and any(late.at < early.at for early, late in pairwise(run.journal)):
        yield f"{run_id} has a record that is older than the one before it"
    settled = Counter(row.key for row in run.journal if row.state in SETTLED)
    yield from (f"{run_id}:{key} is settled {count} times" for key, count in settled.items() if count > 1)
    failed: Counter[str] = Counter()
    for row in run.journal:
        if row.kind == "step":
            failed[row.key] += 1
            if row.attempt != failed[row.key]:
                yield f"{run_id}:{row.key} has attempt {row.attempt} where {failed[row.key]} is due"
        if settled[row.key] and row.state == "open" and not _is_settled_after(run, row):
            yield f"{run_id}:{row.key} is open again after it was settled"


def _is_settled_after(run: Stored, row: Row) -> bool:
    return any(late.key == row.key and late.state in SETTLED for late in run.journal[row.position + 1 :])


def _executed(runs: Mapping[str, Stored], executions: Executions) -> Iterator[str]:
    """Every recorded attempt ran, with the result that is recorded; every attempt that ran is recorded."""
    recorded: set[tuple[str, str, int]] = set()
    for run_id, run in runs.items():
        for row in run.journal:
            if row.kind != "step":
                continue
            step = (run_id, row.key, row.attempt)
            recorded.add(step)
            ran = executions.get(step, [])
            if not ran:
                yield f"{_name(step)} is recorded and never ran"
            elif row.state == "ok" and json.loads(row.payload or "null") not in [
                one.end["result"] for one in ran if one.end is not None and one.end["what"] == "end"
            ]:
                yield f"{_name(step)} is recorded with {row.payload}, which no execution of it returned"
    yield from (f"{_name(step)} ran and has no record" for step in executions.keys() - recorded)


def _repeated(executions: Executions, killed: set[int], stopped: set[int]) -> Iterator[str]:
    """A step runs again only where the process that ran it before was killed, and never twice in one process.

    What was stopped and came back may run what others run or have run; that it changes nothing shows elsewhere.
    """
    for step, ran in executions.items():
        honest = [one for one in ran if one.pid not in stopped]
        for one in honest[:-1]:
            if one.pid not in killed:
                yield f"{_name(step)} ran again although process {one.pid} was not killed"
        for pid, count in Counter(one.pid for one in honest).items():
            if count > 1:
                yield f"{_name(step)} ran {count} times in process {pid}"


def _fenced(ledger: Path) -> Iterator[str]:
    """A commit that is sent after somebody else has claimed its run is refused."""
    claims: dict[str, list[tuple[int, int]]] = defaultdict(list)
    kept: list[tuple[str, int, int]] = []
    for line in map(json.loads, ledger.read_text().splitlines()):
        if line["what"] == "claimed":
            claims[line["run"]].append((line["epoch"], line["at"]))
        elif line["what"] == "kept":
            kept.append((line["run"], line["epoch"], line["at"]))
    for run_id, epoch, sent_at in kept:
        if any(later > epoch and at < sent_at for later, at in claims[run_id]):
            yield f"{run_id} took a commit under epoch {epoch}, which was over when it was sent"
    for run_id, claimed in claims.items():
        yield from (
            f"{run_id} was claimed {count} times under epoch {epoch}"
            for epoch, count in Counter(epoch for epoch, _ in claimed).items()
            if count > 1
        )


def _in_order(run_id: str, runs: Mapping[str, Stored], executions: Executions) -> Iterator[str]:
    """A step that follows another does not begin before the other's result is safe, so the other never runs again."""
    steps = (
        [(run_id, row.key, row.attempt) for row in runs[run_id].journal if row.kind == "step"] if run_id in runs else []
    )
    for early, late in pairwise(steps):
        if executions.get(early) and executions.get(late) and executions[early][-1].line > executions[late][0].line:
            yield f"{_name(early)} ran again after {_name(late)} had begun, which follows from it"


def _events(events: Mapping[str, Sequence[str]], runs: Mapping[str, Stored]) -> Iterator[str]:
    """An acknowledged event is in the inbox once, is read, and is recorded once."""
    for run_id, ids in events.items():
        run = runs.get(run_id)
        for event_id in ids if run is not None else ():
            assert run is not None
            found = [is_read for message_id, is_read in run.inbox if message_id == event_id]
            records = sum(row.ref == event_id for row in run.journal)
            if found != [True]:
                yield f"{run_id} has event {event_id} in its inbox {len(found)} times, {sum(found)} of them read"
            elif records != 1:
                yield f"{run_id} has {records} records of event {event_id}"


def _families(runs: Mapping[str, Stored]) -> Iterator[str]:
    """A child's parent is there, began it once, and heard of its end once."""
    for run_id, run in runs.items():
        if run.parent is None:
            continue
        if run.parent not in runs:
            yield f"{run_id} has no parent {run.parent}"
            continue
        told = Counter(row.state for row in runs[run.parent].journal if row.kind == "child" and row.ref == run_id)
        if told != {"open": 1, "ok": 1}:
            yield f"{run.parent} has {dict(told)} records of its child {run_id}"


def _figures(evidence: Evidence, runs: Mapping[str, Stored], executions: Executions) -> dict[str, int]:
    killed = {*evidence.killed, *evidence.stopped}
    ran = [one for ones in executions.values() for one in ones]
    repeated = [one for ones in executions.values() for one in ones[:-1]]
    interrupted = [one for one in ran if one.end is None and one.pid in killed]
    hit = {one.pid for one in (*interrupted, *repeated) if one.pid in killed}
    return {
        "runs": len(runs),
        "records": sum(len(run.journal) for run in runs.values()),
        "step_records": sum(row.kind == "step" for run in runs.values() for row in run.journal),
        "executions": len(ran),
        "executed_again": len(repeated),
        "interrupted": len(interrupted),
        "ended_unrecorded": sum(one.end is not None for one in repeated),
        "kills": len(killed),
        "kills_that_hit": len(hit),
        "claims": sum(run.epoch for run in runs.values()),
    }


def _name(step: tuple[str, str, int]) -> str:
    run_id, key, attempt = step
    return f"{run_id}:{key} (attempt {attempt})"
