"""The `engine` fixture where pytest-asyncio runs the tests, in its auto mode or its strict one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from perdure.engine.app import Perdure
from perdure.testing.engine import Engine
from perdure.testing.engine import engine as make_engine


@pytest_asyncio.fixture
async def engine(perdure_app: Perdure) -> AsyncIterator[Engine]:
    """An engine with the application of `perdure_app`, in virtual time; see `perdure.testing.engine`."""
    async with make_engine(perdure_app) as opened:
        yield opened
