"""Says, in sentences, which limit of its queue keeps a due run back."""

from __future__ import annotations

from perdure.core.admission import allowed_at
from perdure.model.queue import QueueView
from perdure.model.run import Run, RunStatus
from perdure.store.contract import Store

KEYS = 1_000
"""How many limit keys of a queue are looked at for the pace of one of them."""

_MS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms"))


async def held_back(store: Store, run: Run, now: int) -> tuple[str, ...]:
    """Return why its queue keeps a run back; nothing where the run is not due, or nothing does.

    Args:
        store: where the run is.
        run: any run.
        now: the present, in milliseconds since the epoch.
    """
    may_be_begun = run.status in (RunStatus.QUEUED, RunStatus.WAITING) and run.worker is None
    if not may_be_begun or run.due_at is None or run.due_at > now:
        return ()
    view = await store.look_into(run.queue, now, KEYS, 1, None)
    return () if view is None else reasons(run, view, now)


def reasons(run: Run, view: QueueView, now: int) -> tuple[str, ...]:
    """Return which limits of its queue keep a run back, in sentences.

    Args:
        run: a due run of the queue.
        view: what is in the queue.
        now: the present, in milliseconds since the epoch.
    """
    name, limits, key = run.queue, view.state.limits, run.limit_key
    if view.state.is_paused:
        return (f"queue {name!r} is paused: resume it to go on",)
    found = []
    admitted = sum(view.admitted.values())
    if limits.concurrency is not None and admitted >= limits.concurrency:
        found.append(f"queue {name!r} is at its limit: workers have {admitted} of its runs, of {limits.concurrency}")
    own, held = limits.of(key), view.admitted.get(key, 0)
    if own.is_paused:
        found.append(f"limit key {key!r} is paused in queue {name!r}: resume it to go on")
    if own.concurrency is not None and held >= own.concurrency:
        found.append(f"limit key {key!r} is at its limit in queue {name!r}: {held} runs, of {own.concurrency}")
    if own.rate is not None and run.started_at is None:
        at = allowed_at(view.paces.get(key), own.rate, now)
        if at > now:
            of = f" for limit key {key!r}" if key else ""
            rate = f"{own.rate.count:,} per {_span(own.rate.period_ms)}"
            found.append(f"queue {name!r} begins {rate}{of}, and the next one in {_span(at - now)}")
    return tuple(found)


def _span(ms: int) -> str:
    unit, name = next((unit, name) for unit, name in _MS if ms >= unit)
    return f"{ms / unit:.3g} {name}"
