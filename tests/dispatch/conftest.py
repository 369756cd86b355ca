"""The fixtures of engines under virtual time."""

from tests.engine.conftest import memory, url, world

__all__ = ["memory", "url", "world"]
