"""`perdure schedules` and `perdure events`: what starts runs at certain times, and when something happens."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from perdure.cli import pictures
from perdure.cli.command import Group, command
from perdure.cli.session import Session
from perdure.cli.style import QUIET, ago, clean, count, moment, pairs, short, status_text, table
from perdure.cli.values import typed_json
from perdure.engine.triggers.schedule_summary import ScheduleSummary
from perdure.model.errors import UsageError

NEXT_SHOWN = 5
"""How many of a schedule's next times `show` tells."""

schedules = typer.Typer(cls=Group, help="Look at schedules, and move them.", rich_markup_mode="rich")
events = typer.Typer(cls=Group, help="Start what is subscribed to an event.", rich_markup_mode="rich")

Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's name.")]


def register(app: typer.Typer) -> None:
    """Add the groups."""
    app.add_typer(schedules, name="schedules")
    app.add_typer(events, name="events")


@command(schedules, "list", examples=["perdure schedules list --store sqlite:///shop.db"])
async def list_schedules(session: Session) -> None:
    """List schedules by name, with when they fire next."""
    async with session.client() as app:
        now = app.world.now()
        found = await app.schedules.list()
    if not found:
        session.note("no schedules")
    rows = [
        (
            Text(clean(each.name)),
            Text(short(each.workflow, pictures.NAME_CHARACTERS)),
            _state(each),
            Text(clean(each.timing)),
            Text(ago(_milliseconds(each.next_at), now)),
            Text(f"{each.started:,}"),
            Text(_remark(each), QUIET),
        )
        for each in found
    ]
    columns = ("schedule", "workflow", "status", "when", "next", "started", "")
    pictured = table(columns, rows, right=["started"], folds=["schedule"], cuts=["workflow"])
    session.show({"schedules": [_document(each) for each in found]}, *([pictured] if rows else []))


@command(schedules, "show", examples=["perdure schedules show nightly"])
async def show(session: Session, name: Name) -> None:
    """Show a schedule: what it starts and when, what became of its fires, and its next times."""
    async with session.client() as app:
        now = app.world.now()
        found = await app.schedules.get(name)
        following = await app.schedules.next(name, NEXT_SHOWN)
    rows: list[tuple[str, Text | str]] = [
        ("schedule", Text(clean(found.name), "bold")),
        ("starts", clean(found.workflow)),
        ("input", pictures.value(found.input)),
        ("when", clean(found.timing)),
        ("overlap", found.overlap),
        ("status", _state(found)),
        ("next", f"{moment(_milliseconds(found.next_at))} ({ago(_milliseconds(found.next_at), now)})"),
        ("then", "\n".join(time.strftime("%a %Y-%m-%d %H:%M %Z") for time in following) or "–"),
        ("last run", found.last_run or "–"),
        ("fires", f"{found.started:,} started" + (f", {_remark(found)}" if _remark(found) else "")),
    ]
    if found.error is not None:
        rows.append(("last error", Text(clean(found.error), "red")))
    document = {**_document(found), "following": [_milliseconds(time) for time in following]}
    session.show(document, pairs(rows))


@command(schedules, "pause", examples=["perdure schedules pause nightly"])
async def pause(session: Session, name: Name) -> None:
    """Have a schedule fire no more until it is resumed; what becomes due meanwhile is not made up for."""
    async with session.client() as app:
        await app.schedules.pause(name)
    session.show({"schedule": name, "is_paused": True}, Text(f"schedule {name} is paused"))


@command(schedules, "resume", examples=["perdure schedules resume nightly"])
async def resume(session: Session, name: Name) -> None:
    """Have a paused schedule go on from now."""
    async with session.client() as app:
        await app.schedules.resume(name)
        found = await app.schedules.get(name)
    said = f"schedule {name} goes on, next at {moment(_milliseconds(found.next_at))}"
    session.show({"schedule": name, "is_paused": False, "next_at": _milliseconds(found.next_at)}, Text(said))


@command(schedules, "trigger", examples=["perdure schedules trigger nightly"])
async def trigger(session: Session, name: Name) -> None:
    """Start what a schedule starts now, and print the run's id."""
    async with session.client() as app:
        run = await app.schedules.trigger(name)
    session.show({"schedule": name, "run": run.id}, Text(run.id))


@command(
    schedules,
    "backfill",
    examples=["perdure schedules backfill nightly --from 2026-03-01T00:00Z --until 2026-03-08T00:00Z"],
)
async def backfill(
    session: Session,
    name: Name,
    *,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="The first time, as in 2026-03-01T00:00Z.")],
    end: Annotated[str, typer.Option("--until", metavar="TIME", help="The first time that is not meant any more.")],
) -> None:
    """Start the runs of past fires that have none, and print their ids."""
    first, last = _time(start, "--from"), _time(end, "--until")
    if last <= first:
        raise UsageError(f"--until: {end!r} must be after --from, {start!r}")
    async with session.client() as app:
        runs = await app.schedules.backfill(name, first, last)
    session.note(count(len(runs), "fire"))
    session.show({"schedule": name, "runs": [run.id for run in runs]}, *(Text(run.id) for run in runs))


@command(schedules, "delete", examples=["perdure schedules delete nightly"])
async def delete(session: Session, name: Name) -> None:
    """Remove a schedule; runs that it started go on. One that is declared in code comes back with the next worker."""
    async with session.client() as app:
        await app.schedules.delete(name)
    session.show({"schedule": name, "is_deleted": True}, Text(f"schedule {name} is deleted"))


@command(
    events,
    "emit",
    examples=["perdure events emit order.created '{\"number\": 1042}' --id evt-1", "perdure events emit tick"],
)
async def emit(
    session: Session,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type.")],
    payload: Annotated[
        str, typer.Argument(metavar="JSON", help="Its payload; @file reads a file, - standard input.")
    ] = "null",
    *,
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="Each workflow is started once for an id.")
    ] = None,
) -> None:
    """Start every workflow that is subscribed to an event, and print the ids of the runs."""
    given = typed_json(payload, "the payload")
    async with session.client() as app:
        runs = await app.emit(kind, given, id=event_id)
    if not runs:
        session.note(f"nothing is subscribed to {kind}, or its conditions do not hold")
    session.show({"event": kind, "runs": [run.id for run in runs]}, *(Text(run.id) for run in runs))


def _time(text: str, option: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no time; write it as in 2026-03-01T00:00Z") from None
    if time.tzinfo is None:
        raise UsageError(
            f"{option}: {text!r} has no time zone; write it as in 2026-03-01T00:00Z or 2026-03-01T00:00+01:00"
        )
    return time


def _state(found: ScheduleSummary) -> Text:
    return Text("● paused", "yellow") if found.is_paused else status_text(found.status)


def _remark(found: ScheduleSummary) -> str:
    counts = {
        "queued": found.queued,
        "skipped": found.skipped,
        "missed": found.missed,
        "failed": found.failed,
    }
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def _document(found: ScheduleSummary) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(found)
    fields["next_at"] = _milliseconds(found.next_at)
    return fields


def _milliseconds(time: dt.datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1000)
