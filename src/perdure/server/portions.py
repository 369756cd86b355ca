"""What may be large, read from a store in portions: an answer ends early, and says so, rather than carry too much."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from perdure.model import failure
from perdure.model.errors import PerdureError
from perdure.model.record import ErrorInfo, Record
from perdure.model.redaction import Redaction
from perdure.model.run import Run
from perdure.server.masking import masked
from perdure.server.shown import FAILED
from perdure.store.contract import Store

CHARACTERS = 16_777_216
"""How many characters of values one answer may hold before it ends early; one item is always there."""

AT_ONCE = 100
"""How many records or runs are asked of a store in one go: each may hold values of a megabyte."""

MESSAGE = 2_000
"""How many characters of an error's message a list carries; the run itself has the whole."""


async def records_behind(store: Store, run_id: str, after: int, limit: int) -> tuple[list[Record], bool]:
    """Return records of a run, and whether there are more behind them.

    Args:
        store: where the run is.
        run_id: its id.
        after: the position of the record ahead of the first one; -1 for none.
        limit: how many at most; where their values are large, there are fewer.
    """
    found: list[Record] = []
    size = 0
    while True:
        wanted = min(AT_ONCE, limit + 1 - len(found))
        part = await store.journal(run_id, found[-1].position if found else after, wanted)
        for record in part:
            size += len(record.payload or "")
            if len(found) == limit or (found and size > CHARACTERS):
                return found, True
            found.append(record)
        if len(part) < wanted:
            return found, False


async def last_records(store: Store, run_id: str, length: int, limit: int) -> list[Record]:
    """Return the last records of a run.

    Args:
        store: where the run is.
        run_id: its id.
        length: how many records it has.
        limit: how many at most; where their values are large, there are fewer.
    """
    found: list[Record] = []
    size = 0
    while (left := min(limit, length) - len(found)) > 0 and (not found or size <= CHARACTERS):
        count = min(AT_ONCE, left)
        part = await store.journal(run_id, length - len(found) - count - 1, count)
        found[:0] = part
        size += sum(len(record.payload or "") for record in part)
        if len(part) < count:
            break
    return found


async def first_runs(store: Store, ids: Sequence[str]) -> list[Run | None]:
    """Return runs as `Store.get` does, the first of them alone where their values are large.

    Args:
        store: where they are.
        ids: which.
    """
    found: list[Run | None] = []
    size = 0
    while len(found) < len(ids):
        for run in await store.get(ids[len(found) : len(found) + AT_ONCE]):
            size += 0 if run is None else sum(len(text or "") for text in (run.output, run.state, run.progress))
            if found and size > CHARACTERS:
                return found
            found.append(run)
    return found


async def with_errors(store: Store, runs: Sequence[Run], redaction: Redaction) -> list[Run]:
    """Return runs of a list, those that failed with their errors, as far as a list carries them.

    Args:
        store: where they are.
        runs: as `Store.find` returns them.
        redaction: what is masked in errors.
    """
    failed = [run.id for run in runs if run.status in FAILED]
    whole: dict[str, Run] = {}
    for first in range(0, len(failed), AT_ONCE):
        part = await store.get(failed[first : first + AT_ONCE])
        whole |= {run.id: _listed(run, redaction) for run in part if run is not None}
    return [whole.get(run.id) or masked(run, redaction) for run in runs]


def _listed(run: Run, redaction: Redaction) -> Run:
    run = masked(replace(run, state=None, progress=None), redaction)
    try:
        error = failure.decode_error(run.output or "null")
    except (msgspec.DecodeError, PerdureError):
        return run
    return replace(run, output=failure.encode_error(_brief(error)))


def _brief(error: ErrorInfo) -> ErrorInfo:
    message = error.message if len(error.message) <= MESSAGE else f"{error.message[: MESSAGE - 1]}…"
    cause = None if error.cause is None else _brief(error.cause)
    return replace(error, message=message, args=None, traceback="", cause=cause)
