"""How code and journal differ, told so that an operator can mend it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.core.ask import Ask
from perdure.model.record import Record

_SHOWN = 10


class Drift(msgspec.Struct, frozen=True):
    """A difference between what is recorded and what today's code asked for.

    Attributes:
        position, recorded: the first record that the code did not ask for, and what it is (`step 'charge'`).
        asked: what the code asked for instead; empty when it ended or asked for nothing.
        has_ended: the code came to its end although records were left.
        detail: what the code ended with, or why a record cannot be read.
    """

    position: int
    recorded: str
    asked: tuple[str, ...]
    has_ended: bool = False
    detail: str = ""

    @classmethod
    def between(
        cls, record: Record, asked: Sequence[Ask], *, has_ended: bool, error: BaseException | None = None
    ) -> Drift:
        """Return the difference between a record and what was asked for, or what the code ended with, instead of it."""
        names = tuple(f"{ask.kind} {ask.key!r}" for ask in asked[:_SHOWN])
        detail = f"with {type(error).__name__}: {error}" if error is not None else ""
        return cls(record.position, f"{record.kind} {record.key!r}", names, has_ended, detail)

    @classmethod
    def unreadable(cls, record: Record, error: Exception) -> Drift:
        """Return the difference between a recorded result and today's type of it."""
        return cls(record.position, f"{record.kind} {record.key!r}", (), detail=str(error))

    def __str__(self) -> str:
        head = f"record {self.position} is {self.recorded}, but the code "
        if self.has_ended:
            return head + "came to its end without asking for it" + (f", {self.detail}" if self.detail else "")
        if self.detail:
            return f"record {self.position}, {self.recorded}, cannot be read any more: {self.detail}"
        return head + ("asked for " + ", ".join(self.asked) if self.asked else "asked for nothing")
