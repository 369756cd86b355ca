"""What operators do, and what retention does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.model.decision import Action, Control, Controlled
from perdure.store.redis.arrivals import inserted
from perdure.store.redis.keys import Shard
from perdure.store.redis.rows import STATUS_OF
from perdure.store.redis.shards import Shards, are_too_long, in_halves

PRUNED = 100
"""How many runs one script removes, and how many records and messages; a run that has more goes in pieces."""
PRUNED_RECORDS = 5000


async def control(shards: Shards, actions: Sequence[Control], now: int) -> list[Controlled]:
    """Do each action where it is allowed."""

    async def ask(shard: Shard, some: Sequence[Control]) -> list[Controlled]:
        texts: list[bytes] = []
        there = await _settled(shards, shard, some)
        asked = (now, [_asked(action, there, texts) for action in some])
        if are_too_long(texts, some):
            return await in_halves(shard, some, ask)
        restarts = any(action.action is Action.RESTART for action in some)
        done = await shards.calls.run(shard, "control", asked, texts, writes=True, is_only_one=restarts)
        return [
            Controlled(action.run_id)
            if told is None
            else Controlled(
                action.run_id,
                STATUS_OF[told[0].decode()],
                STATUS_OF[told[1].decode()],
                tuple(run_id.decode() for run_id in told[3]),
                told[2],
                tuple(run_id.decode() for run_id in told[4]),
            )
            for action, told in zip(some, done, strict=True)
        ]

    if shards.are_many:
        await shards.look_up(shards.unknown(action.run_id for action in actions if action.told))
    return await shards.each(actions, lambda action: action.run_id, ask, lambda done: done.before is None)


async def _settled(shards: Shards, shard: Shard, actions: Sequence[Control]) -> set[str]:
    """Find a place beside the runs that may be ended for what is then created; return the ids that have one."""
    ids = [new.id for action in actions for news in (action.told or {}).values() for new in news]
    if not shards.are_many:
        return set(ids)
    places = await shards.settle([(run_id, shard) for run_id in ids])
    return {run_id for run_id, place in zip(ids, places, strict=True) if place is shard}


def _asked(action: Control, there: set[str], texts: list[bytes]) -> tuple[Any, ...]:
    """Return what the script takes for an action, and add what goes with it to `texts`."""
    plain = (action.run_id, action.action.value, action.notice)
    if action.told is None:
        return plain
    told = action.told.items()
    return (*plain, [(run_id, [inserted(new, texts) for new in news if new.id in there]) for run_id, news in told])


async def prune(shards: Shards, before: int, limit: int) -> int:
    """Remove expired runs."""
    pruned = 0
    for shard in shards.all:
        is_unfinished = False
        while is_unfinished or pruned < limit:
            asked = (before, min(limit - pruned, PRUNED), PRUNED_RECORDS)
            removed, is_unfinished = await shards.calls.run(shard, "prune", asked, writes=True)
            pruned += removed
            if removed == 0 and not is_unfinished:
                break
        if shards.are_many:
            await shards.forget_unused(shard)
    return pruned
