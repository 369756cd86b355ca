from __future__ import annotations

from tests.cli.conftest import _quiet_logs
from tests.engine.conftest import memory, url, world

__all__ = ["_quiet_logs", "memory", "url", "world"]
