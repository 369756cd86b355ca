from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.store import Store
from tests.store.making import STORES, store_at


@pytest.fixture(params=list(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open, empty store of each kind."""
    opened = store_at(request.param, tmp_path)
    await opened.open()
    yield opened
    await opened.close()
