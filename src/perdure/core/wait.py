"""What a run waits for, as it is stored with the run and told by `run.explain()`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from perdure.core.ask import Ask, ChildAsk, EventAsk, TimerAsk
from perdure.model import failure
from perdure.model.record import Record

SHOWN = 20
"""How many of the things a run waits for are stored; the rest is counted."""

DEADLOCK = (
    "its code waits for itself: for a future, lock or queue of its own, while no step, timer, event or child of it "
    "is under way"
)
"""Why a run is parked that nothing can move."""

WaitKind = Literal["timer", "event", "child", "retry", "parked", "undo", "push"]


class Wait(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing a run waits for.

    Attributes:
        kind: see `WaitKind`; `parked` needs somebody's help, and so does `undo`: one that failed. `push`: whoever
            serves its workflow over HTTP did not take it.
        key: the record key; empty for the run as a whole.
        due_at: when the wait ends by itself, in milliseconds since the epoch; None for never.
        detail: the event's type, the child's run id, the last error, or why the run is parked.
        attempt: for a retry and a push, how many attempts failed; for an undo, how often it was begun; for a run that
            is parked because it took its workers down, how many it did.
    """

    kind: WaitKind
    key: str = ""
    due_at: int | None = None
    detail: str = ""
    attempt: int = 0


class Waits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first of the things a run waits for, and how many more there are."""

    waits: list[Wait]
    more: int = 0


_DECODER = msgspec.json.Decoder(Waits)


def waits_of(asks: Iterable[Ask], opened: Mapping[str, Record]) -> Iterable[Wait]:
    """Return what a run waits for: what its code asked for, and which of that is to be tried again."""
    for ask in asks:
        if isinstance(ask, TimerAsk):
            yield Wait("timer", ask.key, ask.due_at)
        elif isinstance(ask, EventAsk):
            yield Wait("event", ask.key, ask.due_at, ask.type)
        elif isinstance(ask, ChildAsk):
            yield Wait("child", ask.key, detail=ask.run_id)
        elif (failed := opened.get(ask.key)) is not None:
            message = failure.decode_error(failed.payload or "{}").message
            yield Wait("retry", ask.key, failed.due_at, message, failed.attempt)


def encode_waits(waits: Iterable[Wait]) -> str:
    """Return waits as `Run.wait` holds them."""
    every = list(waits)
    return msgspec.json.encode(Waits(every[:SHOWN], max(0, len(every) - SHOWN))).decode()


def parked(reason: str, crashes: int = 0) -> str:
    """Return `Run.wait` of a run that needs somebody's help, and how many workers it took down if that is why."""
    return encode_waits([Wait("parked", detail=reason, attempt=crashes)])


def took_workers_down(crashes: int) -> str:
    """Return why a run is parked that did so that often."""
    return f"it took its worker down {crashes} times in a row, without a commit in between"


def decode_waits(text: str | None) -> Waits:
    """Return the waits of `Run.wait`."""
    return Waits([]) if text is None else _DECODER.decode(text)


def crashes_of(text: str | None) -> int:
    """Return how many workers a run took down, if `Run.wait` says that it is parked because of that; else 0."""
    return next((wait.attempt for wait in decode_waits(text).waits if wait.kind == "parked"), 0)
