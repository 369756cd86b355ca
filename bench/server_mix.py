"""A store as it is after months: mostly runs that are complete, and beside them a few of every other kind.

What is rare is as rare as it may be: one run in ten thousand is of another workflow, in another queue, or has a tag.
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.core.wait import Wait, encode_waits, parked
from perdure.model import failure
from perdure.model.archive import Archive
from perdure.model.record import ErrorInfo, Record
from perdure.model.run import Run, RunStatus
from perdure.store import Store

DAY_MS = 86_400_000
DAYS = 60
"""The runs were created over so many days."""

RARE = 10_000
"""One run in so many is of the rare workflow, in the rare queue, has the rare tag, or an id that begins with `rare`."""

WORKFLOWS, QUEUES = 12, 5
LOADED = 2_000
"""Runs that are loaded with one call, which bounds the memory it takes."""

_OF_A_THOUSAND = {
    **dict.fromkeys(range(20), RunStatus.ERRORED),
    **dict.fromkeys(range(20, 25), RunStatus.WAITING),
    25: RunStatus.PAUSED,
    26: RunStatus.TERMINATED,
    27: RunStatus.COMPENSATED,
}
"""The states of some of a thousand runs; the others are complete, but for one that is running in ten thousand each."""

_SELDOM = {
    28: RunStatus.RUNNING,
    1_028: RunStatus.QUEUED,
    2_028: RunStatus.COMPENSATION_FAILED,
    3_028: RunStatus.COMPENSATING,
}
"""The states of some of ten thousand runs."""


def mix(runs: int, now: int) -> Iterator[Archive]:
    """Return so many runs, first created first, over the last days before `now` (milliseconds since the epoch)."""
    for n in range(runs):
        at, parent = (now - DAYS * DAY_MS + m * DAYS * DAY_MS // (runs + 1) for m in (n, n - n % 100))
        status = _OF_A_THOUSAND.get(n % 1_000) or _SELDOM.get(n % RARE, RunStatus.COMPLETE)
        yield _archive(n, at, status, now, run_id(n - n % 100, parent) if n % 1_000 in range(301, 306) else None)


def rare(n: int) -> bool:
    """Whether a run, by its number, is one of the rare."""
    return n % RARE == 5_555


def run_id(n: int, at: int) -> str:
    """Return the id of a run."""
    return f"rare-{n}" if rare(n) else f"{at:012x}{n:020x}"


def _archive(n: int, at: int, status: RunStatus, now: int, parent_id: str | None) -> Archive:
    ended = status.is_finished
    leased = status in (RunStatus.RUNNING, RunStatus.COMPENSATING)
    records = [
        Record(0, "input", "input", "ok", at, f'{{"order":{n},"note":"{"x" * 40}"}}'),
        Record(1, "charge", "step", "ok", at + 1, f'{{"message":"hello","n":{n}}}', 1, at),
    ]
    if status is RunStatus.COMPLETE:
        records.append(Record(2, "output", "output", "ok", at + 2, '{"message":"hello"}'))
    elif ended:
        message = f"order {n}: {('card declined', 'address unknown', 'out of stock')[n % 3]}"
        error = failure.encode_error(ErrorInfo("shop.orders:Declined", message, traceback="line\n" * 40, attempts=3))
        records.append(Record(2, "output", "output", "error", at + 2, error))
    run = Run(
        id=run_id(n, at),
        workflow="seldom" if rare(n) else f"order{n * 7 % WORKFLOWS}",
        queue="aside" if rare(n) else ("default", "mail", "pdf", "import", "slow")[n * 3 % QUEUES],
        status=status,
        created_at=at,
        updated_at=at + 2,
        started_at=None if status is RunStatus.QUEUED else at,
        finished_at=at + 2 if ended else None,
        # so far away that nobody can claim it meanwhile
        due_at=None if ended or status is RunStatus.PAUSED else now + 30 * DAY_MS + n,
        expires_at=now + 90 * DAY_MS + n if ended else None,
        epoch=0 if status is RunStatus.QUEUED else 1,
        seq=1,
        journal_length=len(records),
        worker="bench" if leased else None,
        parent_id=parent_id,
        fingerprint=f"{n:024x}",
        tags={"customer": f"c{n % 1_000}", **({"vip": "yes"} if rare(n) else {})} if n % 10 == 5 else {},
        wait=_wait(status),
    )
    return Archive(run, records, [])


def _wait(status: RunStatus) -> str | None:
    if status is RunStatus.WAITING:
        return encode_waits([Wait("event", "paid", None, "payment")])
    if status is RunStatus.PAUSED:
        return parked("its step `charge` was renamed")
    if status is RunStatus.COMPENSATION_FAILED:
        return encode_waits([Wait("undo", "charge", None, "card gone", 3)])
    return None


async def fill(store: Store, runs: int, now: int) -> None:
    """Load a store with the mix."""
    batch: list[Archive] = []
    for archive in mix(runs, now):
        batch.append(archive)
        if len(batch) == LOADED:
            await store.load(batch)
            batch = []
    await store.load(batch)
