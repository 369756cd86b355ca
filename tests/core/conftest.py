from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from perdure.core import loop
from tests.core.driver import DRIVERS


@pytest.fixture(autouse=True)
def drop_what_is_left() -> Iterator[None]:
    """Every run is dropped at the end of its test, which neither hangs nor leaves a warning or a coroutine behind."""
    yield
    for driver in DRIVERS:
        driver.drop()
    DRIVERS.clear()
    gc.collect()
    assert not loop._UNCLOSABLE
