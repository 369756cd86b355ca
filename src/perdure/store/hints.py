"""Hints between processes: what one changed, the others hear of soon, however much it is, in few messages."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable

from perdure.model.errors import StoreError

REST = 4
"""How many times as long as a message took a process waits before the next one, if there was more to tell by its end:
the longer, the busier all are."""

LONGEST_REST = 0.02
"""Seconds that it waits at most."""


class Hints:
    """Sends and hears hints, for one store.

    Args:
        send: tells the other processes that something has changed; called on the loop that changed it.
        poll: after how many seconds without a hint `wait` says that something may have changed all the same; hints
            may be lost.
    """

    def __init__(self, send: Callable[[], Awaitable[None]], poll: float) -> None:
        self._send = send
        self._poll = poll
        self._sending: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._is_wanted: set[asyncio.AbstractEventLoop] = set()
        self._waiting: dict[asyncio.Future[None], tuple[asyncio.AbstractEventLoop, bool]] = {}
        self._heard = (0, 0)  # of everything, and without ends
        self._told: weakref.WeakKeyDictionary[asyncio.Task[object], tuple[int, int]] = weakref.WeakKeyDictionary()

    def changed(self) -> None:
        """Tell the others soon: at once if no message is on its way, else with all that comes up meanwhile."""
        loop = asyncio.get_running_loop()
        self._is_wanted.add(loop)
        if loop not in self._sending:
            self._sending[loop] = loop.create_task(self._tell(loop))

    def heard(self, *, is_end: bool = False) -> None:
        """Somebody else has changed something, or has only ended a run that concerns no other; from any thread."""
        everything, without_ends = self._heard
        self._heard = (everything + 1, without_ends + (not is_end))
        here = _running_loop()
        for future, (loop, is_for_ends) in list(self._waiting.items()):
            if is_end and not is_for_ends:
                continue
            if loop is here:
                _wake(future)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)

    async def wait(self, timeout: float, *, for_ends: bool = True) -> bool:
        """Return True as soon as there is a hint, or after `poll` seconds; False after `timeout` seconds.

        A hint that came since the same task's last wait counts; of an end only `for_ends`.
        """
        task = asyncio.current_task()
        assert task is not None
        of = 0 if for_ends else 1
        is_hinted = self._told.setdefault(task, self._heard)[of] != self._heard[of]
        is_hinted = is_hinted or await self._hinted(timeout, for_ends)
        if is_hinted:
            self._told[task] = self._heard
        return is_hinted

    async def _hinted(self, timeout: float, for_ends: bool) -> bool:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = (loop, for_ends)
        try:
            async with asyncio.timeout(min(timeout, self._poll)):
                await future
        except TimeoutError:
            return self._poll < timeout
        finally:
            del self._waiting[future]
        return True

    async def close(self) -> None:
        """Send what is to be sent on this loop, and nothing more on the others."""
        here = asyncio.get_running_loop()
        sending, self._sending = self._sending, {}
        for loop, task in sending.items():
            if loop is here:
                await asyncio.wait([task])
            elif not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

    async def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while loop in self._is_wanted:
                self._is_wanted.discard(loop)
                began = loop.time()
                try:
                    await self._send()
                except StoreError:  # only a hint: they will look by themselves
                    pass
                if loop in self._is_wanted:
                    await asyncio.sleep(min(REST * (loop.time() - began), LONGEST_REST))
        finally:
            self._sending.pop(loop, None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of this thread; None where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
