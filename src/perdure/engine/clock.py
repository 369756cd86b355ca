"""Keeps this process on the store's time, so that machines whose clocks differ agree on what is due and whose lease."""

from __future__ import annotations

import asyncio
import logging

from perdure.engine.env import SystemEnv
from perdure.model.errors import StoreError
from perdure.store.contract import Store

EVERY = 30.0
"""Seconds between two looks at the store's clock."""

LOOKS = 3
"""How often it is asked in one look; the quickest answer counts, as it says best when it was given."""

WORTH_TELLING_MS = 1_000
"""From how many milliseconds on a difference is logged."""

_log = logging.getLogger("perdure.engine")


class StoreClock:
    """Sets an environment's clock by the store's, at once and then every `EVERY` seconds.

    Args:
        store: open; one on this machine has no clock of its own, and nothing is done.
        env: whose clock is set.
    """

    def __init__(self, store: Store, env: SystemEnv) -> None:
        self._store = store
        self._env = env
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def started(cls, store: Store, env: SystemEnv) -> StoreClock:
        """Set the clock, and keep on setting it.

        Raises:
            StoreError: the store does not answer.
        """
        clock = cls(store, env)
        if await clock.set():
            clock._task = asyncio.get_running_loop().create_task(clock._keep())
        return clock

    async def stop(self) -> None:
        """Leave the clock as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.set()
            except StoreError as error:
                _log.debug("the store's clock could not be read: %s", error)

    async def set(self) -> bool:
        """Set the clock, unless it is as right as can be told; return whether there is one to set it by."""
        looks = []
        for _ in range(LOOKS):
            asked = self._env.local()
            found = await self._store.clock()
            if found is None:
                return False
            took = self._env.local() - asked
            looks.append((took, found - asked - took // 2))
        took, ahead = min(looks)
        if abs(ahead - self._env.ahead) > took // 2 + 1:
            if abs(ahead - self._env.ahead) >= WORTH_TELLING_MS:
                _log.warning("the store's clock is %+.1f s from this machine's; the store's counts", ahead / 1000)
            self._env.ahead = ahead
        return True
