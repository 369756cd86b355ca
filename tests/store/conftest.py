from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.store import Store
from tests.store.making import ENCRYPTED, STORES, store_at


@pytest.fixture(params=[*STORES, *ENCRYPTED])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open, empty store of each kind."""
    opened = store_at(request.param, tmp_path)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(params=[*STORES, *ENCRYPTED])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Four stores of each kind, open at one place, as those of four processes are."""
    opened = [store_at(request.param, tmp_path) for _ in range(4)]
    for each in opened:
        await each.open()
    yield opened
    for each in opened:
        await each.close()
