from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.store.postgres import PostgresStore
from tests.store.only.placing import postgres_at


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PostgresStore]:
    """An open, empty store in the `DATABASE` of the module; a module about another kind has a `store` of its own."""
    opened = postgres_at(request.module.DATABASE, tmp_path)
    await opened.open()
    yield opened
    await opened.close()
