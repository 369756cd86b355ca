"""SAQ on Valkey."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from done import done
from saq import Queue

queue = Queue.from_url(os.environ["STORE"], max_concurrent_ops=100)


async def say(ctx: dict[str, Any], *, number: int) -> None:
    """Do nothing but say so."""
    done(number)


settings = {"queue": queue, "functions": [say], "concurrency": 100}


async def prepare() -> None:
    """Connect."""
    await queue.connect()


async def enqueue(numbers: Sequence[int]) -> None:
    """Fifty at once: it has no call for many."""
    for first in range(0, len(numbers), 50):
        await asyncio.gather(*[queue.enqueue("say", number=number) for number in numbers[first : first + 50]])
