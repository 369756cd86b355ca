"""The gate tries the same examples each time, so that it fails for a change and not by chance.

To look for new ones: `pytest --hypothesis-profile=thorough`. What needs a server is marked `server`: `-m 'not server'`
leaves it out. `contract` is what every store promises, where it needs a server, but for what random testing finds.
"""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest
from hypothesis import settings

SERVERS = {"postgres", "redis", "valkey", "cluster", "sentinel"}
"""What the parameters of tests that need a server are called, or the files they stand in."""

CONTRACT = Path(__file__).parent / "store"

settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=2000, stateful_step_count=50, deadline=None)
settings.load_profile("gate")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "server: needs PostgreSQL or Valkey, which come from wheels")
    config.addinivalue_line("markers", "contract: what a store on a server promises, as every store does")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        _, _, parameters = item.name.partition("[")
        named = re.split("[^a-z]+", f"{item.path.parent.name} {item.path.stem} {parameters}")
        if not SERVERS.isdisjoint(named):
            item.add_marker("server")
            if item.path.parent == CONTRACT and not item.get_closest_marker("slow"):
                item.add_marker("contract")


def pytest_collection_finish() -> None:
    """What is there before the first test stays: collections, which many tests ask for, need not walk through it."""
    gc.collect()
    gc.freeze()
