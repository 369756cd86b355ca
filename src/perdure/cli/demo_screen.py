"""What `perdure demo` shows: a moving picture on a terminal, lines elsewhere, and a table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from perdure.cli.demo_account import Rejected, Summary

STAGES = {
    "queued": "waiting for a worker",
    "charging": "charging the card",
    "paying": "waiting for the payment",
    "packing": "reserving, confirming",
    "cancelling": "giving money back",
    "follow-up": "asleep until the follow-up",
    "done": "done",
}
BAR = 34
EVENTS = 6
PLAIN_EVERY = 2.0
"""Seconds between two lines of progress where there is no terminal."""
SHOWN_PROBLEMS = 15


class WorkerView(msgspec.Struct):
    """A worker as it is shown."""

    pid: int
    in_hand: int = 0
    is_killed: bool = False


class View(msgspec.Struct):
    """Everything that is shown while the demo runs."""

    total: int = 0
    stages: Counter[str] = msgspec.field(default_factory=Counter)
    workers: list[WorkerView] = []
    charges: int = 0
    charge_requests: int = 0
    seconds: float = 0.0


class Screen:
    """Shows the demo on a console.

    Args:
        console: where.
        is_quiet: show nothing at all.
    """

    def __init__(self, console: Console, *, is_quiet: bool) -> None:
        self._console = console
        self._is_quiet = is_quiet
        self._live: Live | None = None
        self._events: list[Text] = []
        self._view = View()
        self._told_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._is_quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def intake(self, lines: int, rejected: Sequence[Rejected], where: str) -> None:
        """Show what became of the file's lines when they were read."""
        self._say(Text(f"{where}: {lines} lines, {lines - len(rejected)} orders, {len(rejected)} rejected", "bold"))
        for line in rejected:
            self._say(Text.assemble((f"  line {line.line:>4}  ", "red"), line.reason))

    def show(self, view: View) -> None:
        """Show how far everything is."""
        self._view = view
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif view.seconds - self._told_at >= PLAIN_EVERY:
            self._told_at = view.seconds
            told = ", ".join(f"{view.stages[stage]} {stage}" for stage in STAGES if view.stages[stage])
            self._say(Text(f"{view.seconds:5.1f} s  {told or 'nothing yet'}"))

    def event(self, text: str, style: str = "") -> None:
        """Show that something happened."""
        told = Text.assemble((f"{self._view.seconds:5.1f} s  ", "bright_black"), (text, style))
        self._events.append(told)
        if self._live is None:
            self._say(told)

    def end(self, summary: Summary) -> None:
        """Show the sums."""
        if self._live is not None:  # the picture is gone; what happened stays
            self._live.stop()
            self._live = None
            for event in self._events:
                self._say(event)
        self._say(Text())
        self._say(_sums(summary))
        self._say(Text())
        self._say(_facts(summary))
        self._say(Text())
        if summary.is_ok:
            self._say(Text("Everything adds up: no order lost, none charged twice.", "bold green"))
            return
        count = len(summary.problems)
        self._say(Text("1 thing does not add up:" if count == 1 else f"{count} things do not add up:", "bold red"))
        for problem in summary.problems[:SHOWN_PROBLEMS]:
            self._say(Text(f"  {problem}", "red"))
        if count > SHOWN_PROBLEMS:
            self._say(Text(f"  and {count - SHOWN_PROBLEMS} more", "red"))

    def _say(self, what: RenderableType) -> None:
        if not self._is_quiet:
            self._console.print(what, soft_wrap=not self._console.is_terminal)

    def _picture(self) -> RenderableType:
        view = self._view
        bars = Table.grid(padding=(0, 2))
        for stage, title in STAGES.items():
            count = view.stages[stage]
            style = "green" if stage == "done" else "cyan"
            bar = ProgressBar(
                max(1, view.total), count, BAR, style="grey23", complete_style=style, finished_style=style
            )
            bars.add_row(Text(title), bar, Text(f"{count:>4}", style))
        workers = Table.grid(padding=(0, 2))
        for worker in view.workers:
            state = Text("✗ killed", "bold red") if worker.is_killed else Text("● works", "green")
            workers.add_row(Text(f"worker {worker.pid}"), state, Text(f"{worker.in_hand:>4} runs in hand"))
        workers.add_row(
            Text("payments"),
            Text("● serves", "green"),
            Text(f"{view.charges:>4} charges, {view.charge_requests} requests"),
        )
        head = Text.assemble((f"{view.total} orders", "bold"), (f"   {view.seconds:.1f} s", "bright_black"))
        return Group(Text(), head, Text(), bars, Text(), workers, Text(), *self._events[-EVENTS:])


def _sums(summary: Summary) -> Table:
    """Return the table that accounts for every line of the file."""
    table = Table(title="Every line of the file", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", min_width=44)
    table.add_column("lines", justify="right")
    table.add_row("completed", str(summary.completed), style="green")
    for reason, count in sorted(summary.cancelled.items()):
        table.add_row(f"cancelled: {reason}", str(count), style="yellow")
    for reason, count in sorted(Counter(line.reason.partition(": ")[0] for line in summary.rejected).items()):
        table.add_row(f"rejected: {reason}", str(count), style="red")
    told = summary.completed + sum(summary.cancelled.values()) + len(summary.rejected)
    table.add_row("", "─" * 5)
    table.add_row(f"accounted for, of {summary.lines}", str(told), style="bold")
    return table


def _facts(summary: Summary) -> Text:
    facts = [
        (str(summary.charges), "charges in the payment service's own ledger, one for each order"),
        (str(summary.charge_requests), "requests for them: the rest were repeated, with the same key"),
        (str(summary.webhooks), "webhooks delivered, some of them twice"),
        (str(sum(summary.mails.values())), "mails in the outbox"),
        (str(summary.in_hand), f"runs that worker {summary.killed_pid} had in hand when it was killed"),
        (str(summary.taken_over), "of them taken over by the other worker"),
        (f"{summary.seconds:.1f} s", f"in all, {summary.runs_per_second:.0f} runs a second, as fast as orders come in"),
    ]
    return Text("\n").join(
        [Text("Under a killed worker", "bold"), *(Text(f"{count:>7}  {what}") for count, what in facts)]
    )
