"""What a run waits for, as it is stored with the run and told by `run.explain()`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

SHOWN = 20
"""How many of the things a run waits for are stored; the rest is counted."""

WaitKind = Literal["timer", "event", "child", "retry", "parked"]


class Wait(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing a run waits for.

    Attributes:
        kind: see `WaitKind`; `parked` needs somebody's help.
        key: the record key; empty for the run as a whole.
        due_at: when the wait ends by itself, in milliseconds since the epoch; None for never.
        detail: the event's type, the child's run id, the last error, or why the run is parked.
        attempt: for a retry, how many attempts failed.
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


def encode_waits(waits: Iterable[Wait]) -> str:
    """Return waits as `Run.wait` holds them."""
    every = list(waits)
    return msgspec.json.encode(Waits(every[:SHOWN], max(0, len(every) - SHOWN))).decode()


def decode_waits(text: str | None) -> Waits:
    """Return the waits of `Run.wait`."""
    return Waits([]) if text is None else _DECODER.decode(text)
