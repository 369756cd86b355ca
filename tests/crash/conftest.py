"""The stores that the crash tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import servers


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store without runs, of the kind that the test is parametrised with."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path / 'crash.db'}"
        case "postgres":
            return servers.postgres(fsync=True).url(schema=servers.label(tmp_path))
        case "valkey":
            return servers.valkey(appendfsync="always").url(prefix=servers.label(tmp_path))
        case kind:
            raise ValueError(kind)
