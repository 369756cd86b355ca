from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perdure import Perdure
from tests.engine.world import World
from tests.store.making import STORES


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path, world: World) -> Callable[..., Perdure]:
    """Make engines on one store of each kind."""
    url = STORES[request.param](tmp_path)
    return lambda **options: world.app(url, **options)


@pytest.fixture
def app(world: World, tmp_path: Path) -> Perdure:
    """An engine on a memory store, where the kind of store makes no difference."""
    return world.app(STORES["memory"](tmp_path))
