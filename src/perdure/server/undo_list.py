"""The undos of a run, whose journal may be too long to be read at once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.core.undos import UndoInfo, undos_of
from perdure.model.record import Record
from perdure.store.contract import Store

PAGE = 100
"""How many records are read at once."""


class Undos(msgspec.Struct, frozen=True):
    """The undos of a run.

    Attributes:
        found: them, as they were registered.
        read: how many records tell of them.
        is_cut: the journal is longer than that.
    """

    found: Sequence[UndoInfo] = ()
    read: int = 0
    is_cut: bool = False


async def find_undos(store: Store, run_id: str, most: int | None = None) -> Undos:
    """Return the undos of a run, as its journal tells of them.

    Args:
        store: where the run is.
        run_id: its id.
        most: how many records are looked at, the first ones; None for all.
    """
    kept: list[Record] = []
    read = 0
    while most is None or read < most:
        asked = PAGE if most is None else min(PAGE, most - read)
        records = await store.journal(run_id, read - 1, asked)
        read += len(records)
        kept += [_without_result(record) for record in records if record.kind in ("undo", "step", "child", "event")]
        if len(records) < asked:
            return Undos(undos_of(kept), read)
    return Undos(undos_of(kept), read, bool(await store.journal(run_id, read - 1, 1)))


def _without_result(record: Record) -> Record:
    """Return a record as far as it matters: thousands of results need not be held at once."""
    is_result = record.kind in ("step", "child") and record.state != "error"
    return msgspec.structs.replace(record, payload=None) if is_result else record
