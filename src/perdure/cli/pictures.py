"""Runs and journals as they are drawn on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perdure.cli.style import (
    QUIET,
    STATUS_STYLE,
    ago,
    clean,
    count,
    moment,
    pairs,
    short,
    status_text,
    table,
)
from perdure.cli.values import error_line
from perdure.core.wait import Wait, decode_waits
from perdure.model import codec, failure
from perdure.model.decision import Message, RunPage
from perdure.model.duration import in_words
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import Run, RunStatus

PAYLOAD_CHARACTERS = 4_000
"""How much of an input or an output `runs show` prints; `--json` has all of it."""

NAME_CHARACTERS = 32
"""How much of a workflow's name, or of a record's key, stands in a table."""


def heading(run: Run) -> Text:
    """Return one line that says which run it is, and how it is."""
    return Text.assemble(
        (f"● {run.status}", f"bold {STATUS_STYLE[run.status]}"), "  ", (clean(run.workflow), "bold"), f"  {run.id}"
    )


def runs(found: Sequence[Run], outputs: Mapping[str, str | None], now: int) -> Table:
    """Return a list of runs.

    Args:
        found: the runs.
        outputs: the stored errors of those that errored, by id.
        now: the present, in milliseconds since the epoch.
    """
    rows = [
        (
            Text(run.id),
            Text(short(run.workflow, NAME_CHARACTERS)),
            status_text(run.status),
            Text(ago(run.created_at, now), QUIET),
            Text(_took(run, now), QUIET),
            Text(_remark(run, outputs.get(run.id), now), QUIET),
        )
        for run in found
    ]
    columns = ("run", "workflow", "status", "created", "took", "")
    return table(columns, rows, right=["took"], folds=["run"], cuts=["workflow"])


def _took(run: Run, now: int) -> str:
    if run.started_at is None:
        return ""
    if run.finished_at is None and run.worker is None:
        return ""
    return in_words((run.finished_at or now) - run.started_at)


def _remark(run: Run, output: str | None, now: int) -> str:
    if run.status in (RunStatus.ERRORED, RunStatus.COMPENSATED) and output is not None:
        return short(error_line(output), 120)
    if run.worker is not None:
        return "its lease has ended" if run.due_at is not None and run.due_at <= now else ""
    waits = [] if run.status.is_finished else decode_waits(run.wait).waits
    if waits:
        return short(_wait(waits[0], now), 120) + (f" and {len(waits) - 1} more" if len(waits) > 1 else "")
    if run.status is RunStatus.QUEUED and run.due_at is not None and run.due_at > now:
        return f"starts {ago(run.due_at, now)}"
    return ""


def _wait(wait: Wait, now: int) -> str:
    due = "" if wait.due_at is None else f", {ago(wait.due_at, now)}"
    match wait.kind:
        case "timer":
            return f"{wait.key}: a timer{due}"
        case "event":
            return f"{wait.key}: an event {wait.detail!r}" + (due and f", gives up{due[1:]}")
        case "child":
            return f"{wait.key}: child run {wait.detail}"
        case "retry":
            return f"{wait.key}: failed {wait.attempt}×, again{due[1:]}: {wait.detail}"
        case "push":
            return f"not taken {wait.attempt}×, pushed again{due[1:]}: {wait.detail}"
        case "undo":
            return f"{wait.key}: its undo failed: {wait.detail}"
        case "parked":
            return f"parked: {wait.detail}"
        case _:
            return wait.detail


def run(
    run: Run,
    given: str | None,
    failed_with: ErrorInfo | None,
    children: RunPage,
    unread: Sequence[Message],
    now: int,
) -> RenderableType:
    """Return everything about one run.

    Args:
        run: the run, with its output.
        given: its input payload.
        failed_with: the error of its code, where it is being undone.
        children: the runs it started.
        unread: events that it has not read.
        now: the present, in milliseconds since the epoch.
    """
    parts: list[RenderableType] = [heading(run), Text(), pairs(_facts(run, now))]
    parts += _section("input", _payload(given))
    if run.status is RunStatus.COMPLETE:
        parts += _section("output", _payload(run.output))
    if run.status in (RunStatus.ERRORED, RunStatus.COMPENSATED):
        parts += _section("error", _error(failure.decode_error(run.output or "{}")))
    if failed_with is not None:
        parts += _section("failed with", _error(failed_with))
    if run.state is not None:
        parts += _section("state", _payload(run.state))
    if run.progress is not None:
        parts += _section("progress", _payload(run.progress))
    waits = decode_waits(run.wait)
    if waits.waits and not run.status.is_finished:
        lines = [Text(_wait(wait, now)) for wait in waits.waits]
        more = [Text(f"and {waits.more:,} more", QUIET)] if waits.more else []
        parts += _section("waits for", Group(*lines, *more))
    if unread:
        lines = [Text(f"{clean(event.type)}  {short(event.payload or '', 100)}") for event in unread[:20]]
        parts += _section("unread events", Group(*lines))
    if children.runs:
        parts += _section("children", _children(children))
    return Group(*parts)


def _section(title: str, body: RenderableType) -> list[RenderableType]:
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 0, 0, 2))
    made.add_column(overflow="fold")
    made.add_row(body)
    return [Text(), Text(title, QUIET), made]


def _facts(run: Run, now: int) -> list[tuple[str, Text | str]]:
    def when(at: int) -> Text:
        return Text.assemble(moment(at), (f"  {ago(at, now)}", QUIET))

    facts: list[tuple[str, Text | str]] = [("created", when(run.created_at))]
    if run.started_at is not None:
        facts.append(("started", when(run.started_at)))
    if run.finished_at is not None:
        took = in_words(run.finished_at - (run.started_at or run.created_at))
        facts.append(("ended", Text.assemble(when(run.finished_at), (f", took {took}", QUIET))))
    elif run.due_at is not None:
        facts.append(("lease ends" if run.worker is not None else "due", when(run.due_at)))
    if run.worker is not None:
        facts.append(("worker", run.worker))
    facts.append(("queue", run.queue + (f", priority {run.priority}" if run.priority else "")))
    facts.append(("journal", count(run.journal_length, "record")))
    optional = {
        "version": run.version,
        "tags": ", ".join(f"{clean(name)}={clean(value)}" for name, value in run.tags.items()),
        "parent": run.parent_id and f"{run.parent_id} ({run.parent_key})",
        "restarts": run.incarnation and f"began anew {run.incarnation}×",
        "crashes": run.crashes and f"{run.crashes} in a row",
        "pausing": run.is_pausing and "as soon as its running steps have ended",
        "kept until": run.expires_at is not None and moment(run.expires_at),
    }
    return facts + [(name, clean(str(value))) for name, value in optional.items() if value]


def _payload(payload: str | None) -> Text:
    if payload is None:
        return Text("nothing", QUIET)
    pretty = msgspec.json.format(payload, indent=2)
    if len(pretty) <= 80:
        pretty = msgspec.json.format(payload, indent=0)
    cut = len(pretty) - PAYLOAD_CHARACTERS
    return Text.assemble(
        pretty[:PAYLOAD_CHARACTERS], (f"\n… {cut:,} more characters; --json has them", QUIET) if cut > 0 else ""
    )


def _error(error: ErrorInfo) -> RenderableType:
    where = f"step {error.step!r}: " if error.step else ""
    made = Text.assemble(where, (error.type.rpartition(":")[2], "red"), f": {error.message}")
    if error.traceback:
        made.append(f"\n\n{error.traceback.rstrip()}", QUIET)
    if error.cause is None:
        return made
    return Group(made, Text("\ncaused by", QUIET), _error(error.cause))


def _children(children: RunPage) -> RenderableType:
    rows = [
        (Text(child.id), Text(short(child.workflow, NAME_CHARACTERS)), status_text(child.status))
        for child in reversed(children.runs)
    ]
    made = table(("", "", ""), rows)
    return made if children.cursor is None else Group(made, Text("and more: perdure runs list --parent", QUIET))


def journal(records: Sequence[Record]) -> Table:
    """Return a timeline: for each record when it came, about what, and what it says."""
    rows = []
    began = records[0].at if records else 0
    opened: dict[str, int] = {}
    for record in records:
        sign, style, remark = _told(record)
        since = record.started_at if record.started_at is not None else opened.get(record.key)
        if record.state == "open":
            opened.setdefault(record.key, record.at)
        is_counted = (record.attempt > 1 and record.kind != "input") or (
            record.state == "open" and record.kind == "step"
        )
        rows.append(
            (
                Text(str(record.position), QUIET),
                Text(f"+{in_words(record.at - began)}", QUIET),
                Text(sign, style),
                Text.assemble(_name(record), (f" ({record.attempt})" if is_counted else "", QUIET)),
                Text("" if since is None or record.kind == "output" else in_words(record.at - since), QUIET),
                Text(remark, style if record.state != "ok" else ""),
            )
        )
    return table(("#", "at", "", "record", "took", ""), rows, right=["#", "at", "took"])


def _name(record: Record) -> str:
    """Return the key; nested steps stand below their step."""
    *above, last = clean(record.key).split("/")
    return "  " * len(above) + short(last, NAME_CHARACTERS)


def _told(record: Record) -> tuple[str, str, str]:
    """Return a record's sign, its style, and what it says."""
    if record.kind == "undo" and record.state == "open":
        return "·", QUIET, "can be undone"
    if record.kind == "undo" and record.state == "ok":
        return "↶", "yellow", "an operator has it undone"
    if record.state == "error":
        return "✗", "red", short(error_line(record.payload))
    if record.state == "open":
        if record.kind == "child":
            return "→", "blue", f"child run {record.ref}"
        again = "" if record.due_at is None else f"  again after {in_words(record.due_at - record.at)}"
        return "↻", "yellow", short(error_line(record.payload)) + again
    value = short(record.payload or "", 120)
    if record.kind in ("timer", "patch"):
        value = record.kind
    if record.kind == "input":
        return "▸", "blue", value
    return "✓", "green", value


def value(payload: object) -> Text:
    """Return a decoded value, as `start --wait` prints it."""
    return _payload(codec.encode(payload, "the output", 1 << 40))
