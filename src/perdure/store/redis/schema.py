"""What a store says of itself, and who may use it."""

from __future__ import annotations

import asyncio
import contextlib

from perdure.model.errors import SchemaTooNewError, StoreCorruptError, StoreUnavailableError, UsageError
from perdure.store.redis.calls import BRIEF, Calls
from perdure.store.redis.keys import Shard
from perdure.store.redis.settings import CLUSTER_SHARDS, MOST_SHARDS, Settings

SCHEMA = 3
"""The version of the keys and of what is in them. 2 and 3 have more keys, 2 more in a row; all of 1 is as it was."""


async def opened(calls: Calls, settings: Settings) -> list[Shard]:
    """Return the shards of the store at the prefix, which is made if there is none.

    Raises:
        SchemaTooNewError: a newer Perdure wrote it. StoreCorruptError: the keys are somebody else's.
        StoreReadOnlyError: the user lacks a right.
        UsageError: it has another number of shards than was asked for.
    """
    first = Shard(settings.prefix, 0, 1)
    by_default = CLUSTER_SHARDS if calls.server.is_cluster else 1
    schema, shards = await calls.command(first, "HMGET", first.meta, "schema", "shards")
    if schema is None:
        wanted = settings.shards or by_default
        await calls.command(first, "HSETNX", first.meta, "shards", wanted, writes=True)
        await calls.command(first, "HSETNX", first.meta, "schema", SCHEMA, writes=True)
        schema, shards = await calls.command(first, "HMGET", first.meta, "schema", "shards")
    place = f"{settings.url} (prefix {settings.prefix})"
    if not schema.isdigit() or shards is None or not shards.isdigit() or not 1 <= int(shards) <= MOST_SHARDS:
        raise StoreCorruptError(f"{place} holds something else: give another ?prefix=")
    if int(schema) > SCHEMA:
        raise SchemaTooNewError(
            f"{place} has schema {int(schema)}, and this Perdure knows up to {SCHEMA}: upgrade this program"
        )
    if settings.shards not in {None, int(shards)}:
        raise UsageError(f"store: {place} has {int(shards)} shards, and that stays: leave shards={settings.shards} out")
    found = [Shard(settings.prefix, index, int(shards)) for index in range(int(shards))]
    await calls.run(found[0], "check", None, writes=False)
    for key in (found[0].catalog, found[0].definitions):
        await calls.command(found[0], "HDEL", key, "\0")
    await asyncio.gather(*[_checked(calls, shard) for shard in found[1:]])
    if int(schema) < SCHEMA:
        await calls.command(first, "HSET", first.meta, "schema", SCHEMA, writes=True)
    return found


async def _checked(calls: Calls, shard: Shard) -> None:
    """Look whether a shard can be worked with; one that is out of reach now may be there later."""
    with contextlib.suppress(StoreUnavailableError, TimeoutError):
        async with asyncio.timeout(BRIEF):
            await calls.run(shard, "check", None, writes=False)
