"""How values look on a terminal: times, durations, payloads and states. Nothing that was stored is taken for markup."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from perdure.model.duration import in_words
from perdure.model.run import RunStatus

STATUS_STYLE: dict[RunStatus, str] = {
    RunStatus.QUEUED: "bright_black",
    RunStatus.RUNNING: "cyan",
    RunStatus.WAITING: "blue",
    RunStatus.PAUSED: "yellow",
    RunStatus.COMPLETE: "green",
    RunStatus.ERRORED: "red",
    RunStatus.TERMINATED: "magenta",
    RunStatus.COMPENSATING: "cyan",
    RunStatus.COMPENSATED: "red",
    RunStatus.COMPENSATION_FAILED: "yellow",
}
QUIET = "bright_black"

FOLDED = 32
"""How narrow a column becomes that goes on below itself: the ids that Perdure makes up stay on one line."""

CUT = 12
"""How narrow a column becomes that is cut."""

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def clean(text: str) -> str:
    """Return text on one line, without the characters that move cursors and change colours."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def short(text: str, length: int = 200) -> str:
    """Return the first line of a text, cut where it is too long to be looked at."""
    line = clean(text.strip().partition("\n")[0])
    return line if len(line) <= length else line[: length - 1] + "…"


def ago(moment: int | None, now: int) -> str:
    """Return how far a moment is from now: `just now`, `5 s ago`, `in 3 h 20 min`; `–` for no moment."""
    if moment is None:
        return "–"
    apart = abs(moment - now)
    size, unit = next(((size, unit) for size, unit in _UNITS if apart >= size), (0, ""))
    if not size:
        return "just now" if moment <= now else "now"
    return f"in {in_words(apart - apart % 1000)}" if moment > now else f"{apart // size} {unit} ago"


def moment(at: int | None) -> str:
    """Return a moment in UTC, to the second; `–` for none."""
    if at is None:
        return "–"
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `1,200 runs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def status_text(status: RunStatus) -> Text:
    """Return a state with its dot, in its colour."""
    return Text(f"● {status}", STATUS_STYLE[status])


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Text]],
    *,
    right: Sequence[str] = (),
    folds: Sequence[str] = (),
    cuts: Sequence[str] = (),
    wraps: bool = False,
) -> Table:
    """Return a table in the house's style: no lines, quiet headings, and the last column gives way.

    Args:
        columns: the headings, any of them empty; all empty for none.
        rows: the cells.
        right: the columns of numbers.
        folds: columns that go on below themselves on a narrow terminal, such as ids, which are of no use in part.
        cuts: columns that are cut on a narrow terminal.
        wraps: the last column goes on below itself, instead of being cut.
    """
    made = Table(box=None, show_header=any(columns), header_style=QUIET, pad_edge=False, padding=(0, 2, 0, 0))
    listed = list(rows)
    for index, column in enumerate(columns):
        is_last = index == len(columns) - 1
        width = max([len(column), *(row[index].cell_len for row in listed)])
        is_whole = not column or column not in (*folds, *cuts)
        least = width if is_whole else min(width, FOLDED if column in folds else CUT)
        made.add_column(
            column,
            justify="right" if column and column in right else "left",
            no_wrap=is_whole and not is_last,
            overflow="ellipsis",
            min_width=None if is_last else least,
        )
    for row in listed:
        for index, cell in enumerate(row):
            goes_on = wraps if index == len(columns) - 1 else bool(columns[index]) and columns[index] in folds
            # Columns that may not wrap are never narrowed; so those that give way may, and their cells may not.
            cell.no_wrap, cell.overflow = not goes_on, "fold" if goes_on else "ellipsis"
        made.add_row(*row)
    return made


def pairs(rows: Iterable[tuple[str, Text | str]]) -> Table:
    """Return names and values, one pair on a line."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style=QUIET, no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value if isinstance(value, Text) else Text(value))
    return made
