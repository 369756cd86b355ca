"""The journal: what has been decided about one run, record by record."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["input", "step", "timer", "event", "child", "value", "patch", "undo", "output"]
"""What a record is about. A run's first record is its input; an ended run's last one is its output.

An open `undo` says that something can be undone once it has completed, and stands before it runs. A settled one says
that the run's code is over, and is undone: because of its error, or (`ok`) because an operator wished it.
"""

Outcome = Literal["ok", "error"]
"""How something that was asked for ended."""

State = Literal[Outcome, "open"]
"""`ok` and `error` settle what was asked, once. `open` does not settle it: a failed attempt, a started child."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One journaled fact of a run.

    Attributes:
        position: 0, 1, 2, … within the run, without gaps.
        key: what it is about: names joined by `/` for steps inside steps, with `#2`, `#3`, … from the second use on.
        kind: see `Kind`.
        state: see `State`.
        at: when it was decided, in milliseconds since the epoch; never less than an earlier record's.
        payload: the value or the error (an `ErrorInfo`) as JSON text; None for nothing.
        attempt: the number of the attempt that it reports, from 1; for an input, of the run itself, which is one more
            each time that it goes on as new.
        started_at: when that attempt began, in milliseconds; None where nothing ran.
        due_at: for a failed attempt, when the next one is due, in milliseconds; for an input, until when the run has to
            be begun, if that is bounded.
        ref: the id of the event message, or of the child run, it is about; for a failed attempt, the progress it had
            made, as JSON text.
        before: the position of the record that this one must be replayed ahead of; None for its own place. Set when
            newer code asked for something while older records were still waiting to be asked for.
    """

    position: int
    key: str
    kind: Kind
    state: State
    at: int
    payload: str | None = None
    attempt: int = 1
    started_at: int | None = None
    due_at: int | None = None
    ref: str | None = None
    before: int | None = None


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as it is stored.

    Attributes:
        type: the class, as `module:qualname`.
        message: `str(error)`.
        args: the constructor's arguments, where they can be stored as JSON; else None.
        traceback: the formatted traceback, bounded; empty for errors the engine itself decided.
        cause: the error it was raised from.
        attempts: how many attempts were made, for errors of steps.
        step: the step that failed, for errors of graphs; empty for others.
        is_undone: what a recalled child did was undone by its own undos; False for all else.
    """

    type: str
    message: str
    args: list[object] | None = None
    traceback: str = ""
    cause: ErrorInfo | None = None
    attempts: int = 0
    step: str = ""
    is_undone: bool = False

    @property
    def told(self) -> str:
        """The error in one line: its step, if it has one, its class and its message."""
        where = f"step {self.step!r}: " if self.step else ""
        return f"{where}{self.type.rpartition(':')[2]}: {self.message}"
