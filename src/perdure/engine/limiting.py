"""How queues are limited: what bounds make sense, and changing them while others do the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from perdure.authoring.enqueuing import check_limit_key
from perdure.model.errors import StoreConflictError, UsageError
from perdure.model.queue import KeyLimits, QueueLimits, QueueState, Rate
from perdure.store.contract import Store

LIMITED_KEYS = 10_000
"""How many limit keys of one queue may have bounds of their own."""

TRIES = 20
"""How often in a row others may change a queue while this process wants to."""


async def change_queue(store: Store, name: str, change: Callable[[QueueState], QueueState]) -> None:
    """Change how a queue is set; whoever changes it at the same time is not overwritten.

    Args:
        store: where the queue is.
        name: of the queue.
        change: from what it is (version 0 if it was never set) to what it is to be; asked again if others were faster.

    Raises:
        StoreConflictError: others changed it all the time.
    """
    for _ in range(TRIES):
        state = await state_of(store, name)
        wanted = change(state)
        if wanted == state:
            return
        if await store.set_queue(msgspec.structs.replace(wanted, version=state.version + 1)):
            return
    raise StoreConflictError(f"queue {name!r} could not be changed: others changed it {TRIES} times meanwhile")


def checked_limits(
    queue: str, concurrency: int | None, per_key: int | None, rate: Rate | None, fair: bool
) -> QueueLimits:
    """Return limits that make sense.

    Raises:
        UsageError: a bound is no whole number, or below 1.
    """
    for name, bound in (("concurrency", concurrency), ("per_key", per_key)):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 1):
            raise UsageError(f"queue {queue!r}, {name}: {bound!r} must be a whole number, at least 1; pause it instead")
    if rate is not None and not (isinstance(rate, Rate) and isinstance(rate.period_ms, int)):
        raise UsageError(f'queue {queue!r}, rate: {rate!r} is no rate; write Rate.of(100, per="1m")')
    return QueueLimits(concurrency, per_key, rate, bool(fair))


def checked_key_limits(queue: str, key: str, limits: KeyLimits) -> None:
    """Refuse bounds of a limit key that make no sense.

    Raises:
        UsageError: the key is empty or too long, or a bound is no whole number, or below 1.
    """
    if not check_limit_key(key, f"queue {queue!r}, limit key"):
        raise UsageError(f"queue {queue!r}, limit key: it is empty; runs without a key have the bounds of the queue")
    checked_limits(f"{queue}, limit key {key}", limits.concurrency, None, limits.rate, fair=False)


async def state_of(store: Store, name: str) -> QueueState:
    """Return how a queue is set; version 0 if it never was."""
    states: Sequence[QueueState] = await store.queues()
    return next((state for state in states if state.name == name), QueueState(name, version=0))


def with_keys(limits: QueueLimits, state: QueueState) -> QueueLimits:
    """Return limits with what the queue's limit keys bound of their own."""
    return msgspec.structs.replace(limits, own=state.limits.own)


def with_own(state: QueueState, limits: Mapping[str, KeyLimits | None]) -> QueueState:
    """Return a queue whose limit keys bound this of their own; None takes away what a key does.

    Raises:
        UsageError: too many keys would have bounds of their own.
    """
    own = {key: one for key, one in {**state.limits.own, **limits}.items() if one is not None}
    if len(own) > LIMITED_KEYS:
        raise UsageError(
            f"queue {state.name!r}: {len(own):,} limit keys have bounds of their own, over {LIMITED_KEYS:,}"
        )
    return msgspec.structs.replace(state, limits=msgspec.structs.replace(state.limits, own=own))
