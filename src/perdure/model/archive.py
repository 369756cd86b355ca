"""A run with everything that belongs to it, as it is moved from one store to another."""

from __future__ import annotations

import hashlib

import msgspec

from perdure.model.decision import Message
from perdure.model.record import Record
from perdure.model.run import Run


class ArchivedMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message of a run's inbox.

    One that was read is kept only to know it again: of it there are the run, `id`, `kind` and `seq`, and for the rest
    `type` "", no payload, `at` 0, `state` "ok" and no `ref`.
    """

    message: Message
    is_read: bool = False


class Archive(msgspec.Struct, frozen=True, gc=False):
    """One run whole.

    Attributes:
        run: its row, without the output, which is the last record.
        journal: every record, in order.
        messages: every message it was ever sent and that is not forgotten, by `seq`.
    """

    run: Run
    journal: list[Record]
    messages: list[ArchivedMessage]

    def digest(self) -> bytes:
        """Return 32 bytes that two runs share only if nothing about them differs (SHA-256 of their JSON)."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).digest()


class ArchivePage(msgspec.Struct, frozen=True, gc=False):
    """Runs in the order of their creation, and the cursor of the next page; None when this was the last."""

    archives: list[Archive]
    cursor: str | None
