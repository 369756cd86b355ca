"""How flow-control keys stand: what waits, what is under way, and how much of their rates is used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

import msgspec

from perdure.dispatch.messages.flow_control import places
from perdure.engine.app import Perdure
from perdure.model.errors import StoreConflictError
from perdure.model.queue import Admission, QueueView

COUNTED, COUNTED_EACH = 1_000, 100
"""How many waiting messages of a queue are counted, of one key that is asked for, and of each of several."""

TRIES = 20
KEYS_AT_ONCE = 64


class FlowStanding(msgspec.Struct, frozen=True):
    """How a key stands, without a queue and in all queues.

    Attributes:
        waiting: how many messages are due and have to wait, up to a bound.
        under_way: how many are delivered at this moment.
        used: how many of the rate's are used of the period that begins at `since`.
        since: in milliseconds since the epoch.
    """

    waiting: int
    under_way: int
    used: int
    since: int


async def flow_standings(app: Perdure, keys: Collection[str]) -> dict[str, FlowStanding]:
    """Return how flow-control keys stand; what is used of their rates is known as long as messages wait."""
    now = app.world.now()
    waiting: Counter[str] = Counter()
    under_way: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for state in await places(app.store):
        wanted = state.limits.own.keys() & set(keys)
        last = max(wanted, default="")
        after = _before(min(wanted)) if wanted else None
        is_first = True
        each = COUNTED if len(keys) == 1 else COUNTED_EACH
        while after is not None and after < last:
            view = await app.store.look_into(state.name, now, min(len(wanted), KEYS_AT_ONCE), each, after)
            if view is None:
                break
            waiting.update(one.limit_key for one in view.candidates if one.limit_key in wanted)
            used.update({key: _used(view, key, now) for key in view.paces.keys() & wanted})
            if is_first:
                under_way.update({key: view.admitted.get(key, 0) for key in wanted})
            after, is_first = view.last_key, False
    return {key: FlowStanding(waiting[key], under_way[key], used[key], now) for key in keys}


async def reset_rate(app: Perdure, key: str) -> None:
    """Have the rate of a flow-control key begin anew, wherever it bounds anything.

    Raises:
        StoreConflictError: others began messages all the time.
    """
    for state in await places(app.store):
        if key in state.limits.own and not state.is_paused:
            await _reset(app, state.name, key)


async def _reset(app: Perdure, queue: str, key: str) -> None:
    for _ in range(TRIES):
        now = app.world.now()
        view = await app.store.look_into(queue, now, 1, 1, _before(key))
        if view is None or view.state.is_paused:
            return
        nothing = Admission(queue, view.state.turns, (), {key: now})
        if await app.store.admit(nothing, "", now, now) is not None:
            return
    raise StoreConflictError(f"flow-control key {key!r}: others were faster {TRIES} times; try again")


def _used(view: QueueView, key: str, now: int) -> int:
    rate = view.state.limits.of(key).rate
    if rate is None:
        return 0
    return min(rate.count, max(0, math.ceil((view.paces[key] - now) * rate.count / rate.period_ms)))


def _before(key: str) -> str:
    """Return what stands right ahead of a key, and behind all that are ahead of it."""
    return key[:-1] + chr(ord(key[-1]) - 1) + "\U0010ffff"
