"""The `engine` fixture where nothing runs async tests: plain test functions say `engine.run(...)`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perdure.engine.app import Perdure
from perdure.testing.engine import Engine
from perdure.testing.engine import engine as make_engine


@pytest.fixture
def engine(perdure_app: Perdure) -> Iterator[Engine]:
    """An engine with the application of `perdure_app`, in virtual time; see `perdure.testing.engine`."""
    with asyncio.Runner() as runner:
        opened = make_engine(perdure_app)
        runner.run(opened.open())
        try:
            yield opened
        finally:
            runner.run(opened.close())
