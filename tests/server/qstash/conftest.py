"""A server that is asked as QStash's clients ask it, and a destination of its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest_asyncio

from tests.dispatch.messages.destination import destination
from tests.server.conftest import Serve, Served
from tests.server.security.conftest import keyed

__all__ = ["keyed"]


@pytest_asyncio.fixture
async def there() -> Any:
    async with destination() as found:
        yield found


@pytest_asyncio.fixture
async def served(serve: Serve) -> Served:
    """A server on a store in memory, without keys."""
    return await serve()


async def until(condition: Callable[[], Any] | Callable[[], Awaitable[Any]]) -> Any:
    """Wait until something is so, and return it."""
    for _ in range(2_500):
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.004)
    raise AssertionError("it never happened")
