"""A worker's process from its start to its end: work until a signal comes, then stop in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from perdure.engine.worker.worker import Worker
from perdure.model.errors import UsageError

if TYPE_CHECKING:
    from perdure.engine.app import Perdure

OK = 0
CUT_OFF = 1

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("perdure.engine")


class Shift:
    """One run of an engine from opening to closing; whoever speaks otherwise overrides what is told.

    Args:
        app: the closed engine.
    """

    def __init__(self, app: Perdure) -> None:
        if app.settings.mode not in ("all", "worker"):
            raise UsageError(f"mode={app.settings.mode!r} claims nothing, so there is nothing to run for ever")
        self.app = app
        self.signals: list[signal.Signals] = []
        self._stop = asyncio.Event()
        self._handlers: dict[signal.Signals, Any] = {}

    async def work(self) -> int:
        """Work until a signal comes or the worker breaks; return the exit code."""
        self._take_signals()
        try:
            await self.app.open()
            worker = self.app.worker
            assert worker is not None
            try:
                await self.opened(worker)
                await self._end(worker)
            finally:
                await self.app.close()
        finally:
            self._give_signals_back()
        self.stopped(worker)
        if len(self.signals) > 1 and worker.cut_off:
            return 128 + self.signals[1]
        return CUT_OFF if worker.cut_off or worker.broken.is_set() else OK

    def signalled(self, number: signal.Signals) -> None:
        """A signal came: the first asks to drain, the second to hurry, the third to end whatever hangs."""
        self.signals.append(number)
        self._stop.set()
        if len(self.signals) == 2:
            self.hurried(number.name)
            if self.app.worker is not None:
                self.app.worker.hurry()
        elif len(self.signals) > 2:
            self.insisted(number)

    # What is told.

    async def opened(self, worker: Worker) -> None:
        """The engine is open."""
        _log.info("worker %s is at work", worker.id)

    def stopping(self, worker: Worker, reason: str | None) -> None:
        """A signal came, or, with none as the reason, the worker broke."""
        _log.info("stopping (%s) with %d runs in hand", reason or "the worker is broken", len(worker.turns))

    def hurried(self, reason: str) -> None:
        """A second signal came: running steps are cut off."""
        _log.warning("stopping at once (%s)", reason)

    def insisted(self, number: signal.Signals) -> None:
        """A third signal came: do with it what would have been done without us."""
        self._give_signals_back()
        signal.raise_signal(number)

    def stopped(self, worker: Worker) -> None:
        """The engine is closed."""
        if worker.cut_off:
            _log.warning("stopped; %d runs were given back in the middle of a step", worker.cut_off)
        else:
            _log.info("stopped")

    # Inside.

    async def _end(self, worker: Worker) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, worker.broken)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.stopping(worker, self.signals[0].name if self.signals else None)

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise UsageError("run_forever takes signals, which only the main thread gets; elsewhere use open and close")
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            self._handlers[number] = signal.getsignal(number)
            loop.add_signal_handler(number, self.signalled, number)

    def _give_signals_back(self) -> None:
        loop = asyncio.get_running_loop()
        while self._handlers:
            number, handler = self._handlers.popitem()
            loop.remove_signal_handler(number)
            if handler is not None:  # None: not set by Python, and out of its reach
                signal.signal(number, handler)
