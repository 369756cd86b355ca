from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.engine.world import World
from tests.store.making import STORES

_numbers = itertools.count()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh store of each kind; two engines of one URL share it."""
    return STORES[request.param](tmp_path)


@pytest.fixture
def memory() -> str:
    """The URL of a fresh memory store, where the kind of store makes no difference."""
    return f"memory://telemetry-{next(_numbers)}"
