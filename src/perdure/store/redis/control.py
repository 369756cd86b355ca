"""What operators do, and what retention does."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.model.decision import Action, Control, Controlled
from perdure.store.redis.keys import Shard
from perdure.store.redis.rows import STATUS_OF
from perdure.store.redis.shards import Shards

PRUNED = 100
"""How many runs one script removes, and how many records and messages; a run that has more goes in pieces."""
PRUNED_RECORDS = 5000


async def control(shards: Shards, actions: Sequence[Control], now: int) -> list[Controlled]:
    """Do each action where it is allowed."""

    async def ask(shard: Shard, some: Sequence[Control]) -> list[Controlled]:
        asked = (now, [(action.run_id, action.action.value, action.notice) for action in some])
        restarts = any(action.action is Action.RESTART for action in some)
        done = await shards.calls.run(shard, "control", asked, writes=True, is_only_one=restarts)
        return [
            Controlled(action.run_id)
            if told is None
            else Controlled(
                action.run_id,
                STATUS_OF[told[0].decode()],
                STATUS_OF[told[1].decode()],
                tuple(run_id.decode() for run_id in told[3]),
                told[2],
            )
            for action, told in zip(some, done, strict=True)
        ]

    return await shards.each(actions, lambda action: action.run_id, ask, lambda done: done.before is None)


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
