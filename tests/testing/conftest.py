from __future__ import annotations

from pathlib import Path

import pytest

from perdure import Perdure


@pytest.fixture
def app(tmp_path: Path) -> Perdure:
    """An application whose store cannot be opened: a test that did would fail."""
    return Perdure(f"sqlite:///{tmp_path}/there/is/no/such/folder/store.db")
