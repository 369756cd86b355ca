from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure import Perdure
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
    return f"memory://engine-{next(_numbers)}"


@pytest.fixture
def app(world: World, memory: str) -> Perdure:
    """An engine on a memory store."""
    return world.app(memory)


@pytest.fixture
def make(world: World, url: str) -> Callable[..., Perdure]:
    """Make engines on one store of each kind."""
    return lambda **options: world.app(url, **options)
