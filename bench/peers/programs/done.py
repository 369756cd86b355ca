"""Says that a task was done: sixteen bytes into the pipe that `bench.queues` reads."""

from __future__ import annotations

import os
import struct
import time

_pipes: list[int] = []


def done(number: int) -> None:
    """Say that task `number` has been executed, and when."""
    if not _pipes:
        _pipes.append(os.open(os.environ["DONE"], os.O_WRONLY))
    os.write(_pipes[0], struct.pack("=qq", number, time.monotonic_ns()))
