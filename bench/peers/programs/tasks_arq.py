"""arq on Valkey."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from done import done

pools: list[Any] = []


async def say(ctx: dict[str, Any], number: int) -> None:
    """Do nothing but say so."""
    done(number)


class WorkerSettings:
    """How `arq` works."""

    functions = (say,)
    redis_settings = RedisSettings.from_dsn(os.environ["STORE"])
    max_jobs = 200
    poll_delay = 0.01


async def prepare() -> None:
    """Connect."""
    pools.append(await create_pool(WorkerSettings.redis_settings))


async def enqueue(numbers: Sequence[int]) -> None:
    """Fifty at once: it has no call for many."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*[pools[0].enqueue_job("say", number) for number in numbers[first : first + 50]])
