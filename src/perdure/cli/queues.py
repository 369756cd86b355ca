"""`perdure queues`: how full queues are, what they bound, and what failed in them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli import pictures
from perdure.cli.command import PROBLEM, Group, command
from perdure.cli.session import Session
from perdure.cli.style import QUIET, ago, clean, count, table
from perdure.cli.values import run_document
from perdure.engine.app import Perdure
from perdure.engine.queues import DEAD_AT_ONCE, DEAD_MOST, QueueOverview
from perdure.model.duration import in_words
from perdure.model.errors import UsageError
from perdure.model.queue import QueueLimits, Rate

group = typer.Typer(
    cls=Group, help="Look at queues, pause and limit them, and see to what failed in them.", rich_markup_mode="rich"
)

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]
RunIds = Annotated[list[str] | None, typer.Argument(metavar="[RUN]", help="Ids of failed runs.")]
All = Annotated[bool, typer.Option("--all", help="All failed runs but those that a workflow started, instead of ids.")]
Most = Annotated[
    int, typer.Option("--limit", "-n", min=1, max=DEAD_MOST, help="With --all, how many at most, latest first.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@command(group, "list", examples=["perdure queues list", "perdure queues list --json"])
async def list_queues(session: Session) -> None:
    """List queues: how many runs are due, due later and in the hands of workers, and what they bound."""
    async with session.client() as app:
        now = app.world.now()
        found = await app.queues()
    rows = [
        (
            Text(clean(queue.name)),
            *(Text(f"{number:,}", "" if number else QUIET) for number in (queue.due, queue.later, queue.leased)),
            Text(ago(queue.oldest_due_at, now), QUIET),
            Text("paused", "yellow") if queue.is_paused else Text(),
            Text(_told(queue.limits)),
        )
        for queue in found
    ]
    if not rows:
        session.note("no queues")
    columns = ("queue", "due", "later", "leased", "oldest due", "", "limits")
    session.show(
        {"queues": [_document(queue) for queue in found]},
        *([table(columns, rows, right=["due", "later", "leased"], folds=["queue"], wraps=True)] if rows else []),
    )


@command(group, "pause", examples=["perdure queues pause pdf"])
async def pause(session: Session, queue: Name) -> None:
    """Have no run of a queue begun or gone on with; what workers have goes on."""
    async with session.client() as app:
        await _doubt(session, app, queue)
        await app.queue(queue).pause()
        await _show(session, app, queue)


@command(group, "resume", examples=["perdure queues resume pdf"])
async def resume(session: Session, queue: Name) -> None:
    """Let a paused queue be worked again."""
    async with session.client() as app:
        await app.queue(queue).resume()
        await _show(session, app, queue)


@command(
    group,
    "limit",
    examples=[
        "perdure queues limit pdf --concurrency 20 --per-key 2",
        "perdure queues limit mail --rate 100/1m --fair",
        "perdure queues limit pdf --none",
    ],
)
async def limit(
    session: Session,
    queue: Name,
    *,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", metavar="N", help="How many of its runs workers have at once.")
    ] = None,
    per_key: Annotated[
        int | None, typer.Option("--per-key", metavar="N", help="How many of each limit key at once.")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="N/DURATION", help="How many of each limit key are begun, as in 100/1m."),
    ] = None,
    fair: Annotated[bool, typer.Option("--fair", help="Take from the limit keys in turn.")] = False,
    none: Annotated[bool, typer.Option("--none", help="Bound nothing.")] = False,
) -> None:
    """Set what a queue bounds, on all workers together; what is not given is not bounded any more.

    It holds until the application declares something else than it did.
    """
    given = concurrency is not None or per_key is not None or rate is not None or fair
    if given == none:
        raise UsageError("which limits? give --concurrency, --per-key, --rate or --fair, or --none alone")
    limits: dict[str, Any] = {"concurrency": concurrency, "per_key": per_key, "fair": fair}
    limits["rate"] = None if rate is None else _rate(rate)
    async with session.client() as app:
        await _doubt(session, app, queue)
        await app.queue(queue).set_limits(**limits)
        await _show(session, app, queue)


@command(group, "dead", examples=["perdure queues dead pdf", "perdure queues dead pdf --limit 10 --json"])
async def dead(
    session: Session,
    queue: Name,
    *,
    most: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="How many at most.")] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="TEXT", help="Go on behind the page that gave this.")
    ] = None,
) -> None:
    """List the runs of a queue that failed for good, or took one worker after the other down, latest first."""
    async with session.client() as app:
        now = app.world.now()
        page = await app.queue(queue).dead(most, cursor)
        found = await app.store.get([run.id for run in page.runs])
    outputs = {run.id: run.output for run in found if run is not None}
    if not page.runs:
        session.note(f"nothing failed in queue {queue}")
    session.show(
        {"runs": [run_document(run) for run in page.runs], "cursor": page.cursor},
        *([pictures.runs(page.runs, outputs, now)] if page.runs else []),
    )
    if page.cursor is not None:
        session.note(f"\nthere are more: --cursor {page.cursor}")


def _mover(verb: str, about: str) -> Callable[..., Coroutine[Any, Any, int]]:
    """Return the command that does something to failed runs, which its help says."""

    async def move(
        session: Session,
        queue: Name,
        run_ids: RunIds = None,
        *,
        every: All = False,
        most: Most = DEAD_AT_ONCE,
        dry_run: DryRun = False,
        yes: Yes = False,
    ) -> int:
        if bool(run_ids) == every:
            raise UsageError("which runs? give ids, or --all alone")
        async with session.client() as app:
            named = app.queue(queue)
            ask = named.retry_dead if verb == "retry" else named.discard_dead
            if every and not (dry_run or yes):
                number = await ask(limit=most, dry_run=True)
                if session.as_json:
                    raise UsageError(f"--json cannot ask whether to {verb} {count(number, 'run')}; add --yes")
                if number and not _is_confirmed(f"{verb} {count(number, 'run')}?"):
                    session.note("nothing was done")
                    return PROBLEM
            number = await ask(None if every else run_ids, limit=most, dry_run=dry_run)
        told = f"{verb}: {count(number, 'run')}" + (", were it not for --dry-run" if dry_run else "")
        session.show({"queue": queue, "verb": verb, "runs": number, "is_dry": dry_run}, Text(told))
        return 0

    move.__doc__ = about
    return move


command(group, "retry", examples=["perdure queues retry pdf order-7", "perdure queues retry pdf --all --yes"])(
    _mover("retry", "Begin failed runs of a queue anew; one that is parked goes on where it was.")
)
command(
    group, "discard", examples=["perdure queues discard pdf order-7", "perdure queues discard pdf --all --dry-run"]
)(_mover("discard", "Have failed runs of a queue removed from the store; one that is parked is terminated first."))


def _is_confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        return False


async def _doubt(session: Session, app: Perdure, queue: str) -> None:
    """Say so where nothing speaks for a queue: a misspelt name would be paused or limited without a word."""
    if queue not in {each.name for each in await app.queues()}:
        session.note(f"no run is in queue {queue}, and nothing was set for it before: is that its name?")


async def _show(session: Session, app: Perdure, queue: str) -> None:
    overview = await app.queue(queue).stats()
    state = "paused" if overview.is_paused else "worked"
    session.show(_document(overview), Text(clean(f"queue {queue} is {state}; limits: {_told(overview.limits)}")))


def _document(queue: QueueOverview) -> dict[str, Any]:
    limits, rate = queue.limits, queue.limits.rate
    return {
        "queue": queue.name,
        "is_paused": queue.is_paused,
        "limits": {
            "concurrency": limits.concurrency,
            "per_key": limits.per_key,
            "rate": None if rate is None else {"count": rate.count, "period_ms": rate.period_ms},
            "is_fair": limits.is_fair,
        },
        "due": queue.due,
        "later": queue.later,
        "leased": queue.leased,
        "oldest_due_at": queue.oldest_due_at,
    }


def _told(limits: QueueLimits) -> str:
    """Return limits as one reads them."""
    said = []
    if limits.concurrency is not None:
        said.append(f"{limits.concurrency:,} at once")
    if limits.per_key is not None:
        said.append(f"{limits.per_key:,} per key")
    if limits.rate is not None:
        said.append(f"{limits.rate.count:,} per {in_words(limits.rate.period_ms)}")
    if limits.is_fair:
        said.append("fair")
    return ", ".join(said) or "none"


def _rate(text: str) -> Rate:
    number, slash, per = text.partition("/")
    if not slash or not number.strip().isdecimal():
        raise UsageError(f"--rate: {text!r} must be a number per duration, as in 100/1m")
    return Rate.of(int(number), per=per.strip())
