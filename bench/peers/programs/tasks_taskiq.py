"""Taskiq on Valkey's streams."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

import asyncio
import os
from collections.abc import Sequence

from done import done
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(os.environ["STORE"])


@broker.task
async def say(number: int) -> None:
    """Do nothing but say so."""
    done(number)


async def prepare() -> None:
    """Connect."""
    await broker.startup()


async def enqueue(numbers: Sequence[int]) -> None:
    """Fifty at once: it has no call for many."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*[say.kiq(number) for number in numbers[first : first + 50]])
