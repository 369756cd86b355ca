"""Step bodies that have to stand at module level, because a process imports them by name."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def product(a: int, b: int) -> int:
    return a * b


def own_pid() -> int:
    return os.getpid()


def note_and_hang(path: str) -> None:
    """Write the process's id, then never come back."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def complain(text: str) -> None:
    raise ValueError(text)


def dies() -> None:
    os._exit(3)


def exits() -> None:
    sys.exit(3)


def runs_out() -> None:
    next(iter(()))
