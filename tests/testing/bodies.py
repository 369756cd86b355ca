"""Steps that run in processes have to stand at module level."""

from __future__ import annotations

import os


def in_a_process(number: int) -> tuple[int, int]:
    return number * 2, os.getpid()
