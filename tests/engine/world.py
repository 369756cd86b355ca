"""A world whose clock a test moves by hand, and engines that live in it.

Nothing here sleeps: `advance` puts the clock forward from timer to timer and lets everything that follows from each
happen before it goes on. A store that works on threads, and steps that do, are waited for; that is all the real time
a test takes.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from perdure import Perdure
from perdure.model.errors import StoreUnavailableError

NOW = 1_700_000_000_000
"""When every world begins, in milliseconds since the epoch."""

PATIENCE = 10.0
"""Real seconds after which something that should have happened counts as never happening."""

TELLING = ("create", "post", "commit", "control")
"""Operations that other engines are told of."""

IN_THREADS = ("Executor._in_thread", "Executor._in_process")


class VirtualTimer:
    """A callback that waits for the virtual clock."""

    def __init__(self, callback: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self.callback = callback
        self.loop = loop
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """See `perdure.engine.env.Env`. `dice` is what every roll gives: 0 shortens no delay."""

    def __init__(self) -> None:
        self.at = NOW
        self.dice = 0.0
        self.apps: list[Perdure] = []
        self.stores: list[Watched] = []
        self._random = random.Random(7)
        self._timers: list[tuple[int, int, VirtualTimer]] = []
        self._count = 0
        self._lock = threading.Lock()

    def app(self, url: str, **options: Any) -> Perdure:
        """An engine of this world."""
        app = Perdure(url, world=self, **options)
        app.store = Watched(app.store, self)  # type: ignore[assignment]  # passes every operation on
        self.stores.append(app.store)  # type: ignore[arg-type]
        self.apps.append(app)
        return app

    # What the engine asks of its world.

    def now(self) -> int:
        return self.at

    def entropy(self, count: int) -> bytes:
        with self._lock:
            return self._random.randbytes(count)

    def roll(self) -> float:
        return self.dice

    def call_later(self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]) -> VirtualTimer:
        timer = VirtualTimer(callback, loop)
        with self._lock:
            self._count += 1
            heapq.heappush(self._timers, (self.at + max(0, round(delay * 1000)), self._count, timer))
        return timer

    # What a test does with it.

    async def settle(self) -> None:
        """Let everything happen that can happen without time going on."""
        loop: Any = asyncio.get_running_loop()
        quiet, until = 0, time.monotonic() + PATIENCE
        while quiet < 3:
            await asyncio.sleep(0)
            if self._fire():
                quiet = 0
            elif any(store.in_flight for store in self.stores) or _bodies_elsewhere():
                quiet = 0
                await asyncio.sleep(0.0002)
            elif loop._ready:
                quiet = 0
            else:
                quiet += 1
            assert time.monotonic() < until, f"the engine does not come to rest: {_bodies_elsewhere()}"

    async def advance(self, seconds: float) -> None:
        """Put the clock forward, from timer to timer."""
        await self.settle()
        target = self.at + round(seconds * 1000)
        while self.at < target:
            self.at = max(self.at, min(target, await self._next()))
            await self._beat()
            await self.settle()

    async def crash(self, app: Perdure) -> None:
        """Take an engine away as if its process had died: its leases stay behind, nothing is handed back."""
        worker, app._worker, app._client = app._worker, None, None
        assert worker is not None
        worker.is_stopping = True
        worker.commits._is_closed = True
        for task in worker._tasks:
            task.cancel()
        await asyncio.gather(*worker._tasks, return_exceptions=True)
        for runner in list(worker.turns.values()):
            runner.lost()
        worker.lookout.close()
        worker.keeper.stop()
        worker.executor.close()
        await app.store.close()
        self.apps.remove(app)

    async def _next(self) -> int:
        """The next moment at which anything can change."""
        timers = [at for at, _, timer in self._timers if not timer.is_cancelled]
        if any(app.worker is not None and app.worker.turns for app in self.apps):
            lease = min(app.settings.lease_ms for app in self.apps) // 4
            return min([self.at + lease, *timers])
        working = [app for app in self.apps if app._client is not None and app.settings.mode != "client"]
        dues = [await app.store.store.next_due(app.settings.served) for app in working]
        later = [due for due in dues if due is not None and due > self.at]
        overdue = any(due is not None and due <= self.at for due in dues)
        return min([self.at + 1_000_000_000_000, *later, *(timers if overdue else [])])

    async def _beat(self) -> None:
        """Keep the leases in virtual time, as the workers' threads do in real time."""
        for app in self.apps:
            if app.worker is not None and app.worker.turns:
                try:
                    await app.worker.keeper._beat()
                except StoreUnavailableError:
                    pass

    def _fire(self) -> bool:
        has_fired = False
        with self._lock:
            while self._timers and self._timers[0][0] <= self.at:
                _, _, timer = heapq.heappop(self._timers)
                if not timer.is_cancelled and not timer.loop.is_closed():
                    timer.loop.call_soon_threadsafe(timer.callback)
                    has_fired = True
        return has_fired


class Watched:
    """A store that says how many operations are under way, and lets a test step in.

    Nothing is handed over: what is on its way from the store to a worker is no operation that a test could wait for.
    """

    handing = None

    def __init__(self, store: Any, world: World) -> None:
        self.store = store
        self.world = world
        self._told = asyncio.Event()
        self.in_flight = 0
        self.calls: list[str] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.after: Callable[[str], Awaitable[None]] | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if not callable(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.in_flight += 1
                self.calls.append(name)
            try:
                if self.before is not None:
                    await self.before(name)
                answer = await method(*args, **kwargs)
                if name in TELLING:
                    self._tell_others()
                if self.after is not None:
                    await self.after(name)
                return answer
            finally:
                with self._lock:
                    self.in_flight -= 1

        return call

    def hold(self, operation: str) -> asyncio.Event:
        """Have an operation never reach the store; once the event is set, it fails."""
        release = asyncio.Event()

        async def before(name: str) -> None:
            if name == operation:
                with self._lock:
                    self.in_flight -= 1
                try:
                    await release.wait()
                    raise StoreUnavailableError("the store is gone")
                finally:
                    with self._lock:
                        self.in_flight += 1

        self.before = before
        return release

    async def wait(self, timeout: float) -> bool:
        """Return as soon as another engine of this world has written, which stores notice in their own good time."""
        try:
            async with asyncio.timeout(timeout):
                await self._told.wait()
        except TimeoutError:
            return False
        self._told.clear()
        return True

    def _tell_others(self) -> None:
        for other in self.world.stores:
            if other is not self:
                other._told.set()


async def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait, in real time, until something holds: for what threads and processes do."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.002)


def _bodies_elsewhere() -> list[str]:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks() if not task.done()]
    return [name for name in names if name in IN_THREADS]
