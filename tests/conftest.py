"""The gate tries the same examples each time, so that it fails for a change and not by chance.

To look for new ones: `pytest --hypothesis-profile=thorough`. What needs a server is marked `server`: `-m 'not server'`
leaves it out.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

SERVERS = {"postgres", "redis", "cluster"}
"""The kinds of store that are on a server, and what the files about one of them are named after."""

settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=2000, stateful_step_count=50, deadline=None)
settings.load_profile("gate")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "server: needs PostgreSQL or Valkey, which come from wheels")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        given: dict[str, Any] = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        named = set(item.path.stem.split("_")) | {value for value in given.values() if isinstance(value, str)}
        if named & SERVERS:
            item.add_marker("server")
