"""A worker's end of the line between it and the supervisor that keeps it.

The line is a socket that both inherit nothing else through. The supervisor writes one line for each signal that it
was sent, with its number, so that a signal that came to all processes of a group counts once. The worker writes what
it works, or why it cannot. When the supervisor is gone, by `kill -9` too, the socket says so, and the worker stops in
order: none is left behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

PLACE = "PERDURE_WORKER_PROCESS"
"""The variable that says which process of several this is, and where its end of the line is: `2:5`."""

LAST_RESORT = 10.0
"""Seconds that a worker without its supervisor has beside its drains, then it ends, whatever hangs."""

_log = logging.getLogger("perdure.worker")


class Failure(msgspec.Struct):
    """Why a worker ended: the error's type, and what it said in one line."""

    type: str
    message: str


class News(msgspec.Struct):
    """What a worker tells its supervisor: what it works, once it does, or why it ended."""

    working: dict[str, Any] | None = None
    failed: Failure | None = None


class Line:
    """The worker's end.

    Attributes:
        number: which of the supervisor's processes this is, from 1 on; 0 where there is no other.
    """

    def __init__(self, number: int, end: socket.socket) -> None:
        self.number = number
        self._end = end

    @classmethod
    def found(cls) -> Line | None:
        """Return the line that this process was started with, once; None where no supervisor keeps it."""
        place = os.environ.pop(PLACE, None)  # what is started from here is not kept by that supervisor
        if place is None:
            return None
        number, _, descriptor = place.partition(":")
        end = socket.socket(fileno=int(descriptor))
        end.set_inheritable(False)
        return cls(int(number), end)

    def tell(self, news: News) -> None:
        """Tell the supervisor, if it is still there."""
        try:
            self._end.sendall(msgspec.json.encode(news) + b"\n")
        except OSError:
            pass

    def listen(self, hear: Callable[[signal.Signals, int], object], drain: float) -> None:
        """Hear what the supervisor says from now on.

        Args:
            hear: called on this event loop with each signal, and how many there were with it.
            drain: how many seconds the worker's running steps may take.
        """
        loop = asyncio.get_running_loop()
        arguments = (loop, hear, drain)
        threading.Thread(target=self._listen, args=arguments, name="perdure-supervisor", daemon=True).start()

    def _listen(
        self, loop: asyncio.AbstractEventLoop, hear: Callable[[signal.Signals, int], object], drain: float
    ) -> None:
        try:
            with self._end.makefile("r", encoding="ascii") as lines:
                for line in lines:
                    name, times = line.split()
                    loop.call_soon_threadsafe(hear, signal.Signals[name], int(times))
            _log.warning("the supervisor is gone")
            loop.call_soon_threadsafe(hear, signal.SIGTERM, 1)
        except RuntimeError:  # the loop is closed: this process ends by itself
            return
        time.sleep(2 * drain + LAST_RESORT)  # the end of this process ends this thread before, unless something hangs
        os._exit(1)
