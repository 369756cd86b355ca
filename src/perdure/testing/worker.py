"""A worker in virtual time: it looks for due runs when they are due and keeps its leases as the clock moves."""

from __future__ import annotations

from perdure.authoring.registry import Registry
from perdure.engine.ending import Endings
from perdure.engine.settings import Settings
from perdure.engine.worker.claiming import MIN_DELAY_MS, Claiming
from perdure.engine.worker.keeper import Keeper
from perdure.engine.worker.worker import Worker
from perdure.model.decision import Claim, Lease, RunFilter
from perdure.model.run import RunStatus
from perdure.store.contract import Store
from perdure.testing.executor import WatchedExecutor
from perdure.testing.mocks import Mocks
from perdure.testing.world import VirtualWorld

PAGE = 500
"""How many runs are looked up at a time."""


class VirtualKeeper(Keeper):
    """Keeps leases without a thread: `beat` is called whenever the clock has moved."""

    def start(self) -> None:
        """Start nothing."""

    def stop(self) -> None:
        """Keep the leases no longer."""
        self._is_stopping = True
        self._leases.clear()
        self._progress.clear()

    async def beat(self) -> None:
        """Extend the leases that are due for it, and write the progress of steps."""
        if not self._is_stopping:
            await self._beat()

    def _nudge(self) -> None:
        self._loop.call_soon_threadsafe(self._write_progress)

    def _write_progress(self) -> None:
        if not self._is_stopping:
            self._writing = self._loop.create_task(self._beat())


class VirtualClaiming(Claiming):
    """Looks for due runs when they are due, to the millisecond, and leaves none to workers that are not there.

    It hardly looks at the store without a reason: under a clock that jumps over days that would be all it does.
    """

    idle_check = 10 * 365 * 86_400.0
    change_check = 10 * 365 * 86_400.0

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.gate_check = worker.settings.lease_ms / 1000  # what a dead worker had ends then

    def _moment(self, due_at: int) -> int:
        now = self._env.now()
        return due_at if due_at > now else now + MIN_DELAY_MS


class VirtualWorker(Worker):
    """A worker of a test; it has no round of housekeeping every half minute.

    Args:
        mocks: what stands in for steps.
    """

    env: VirtualWorld
    keeper: VirtualKeeper
    executor: WatchedExecutor

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: Settings,
        world: VirtualWorld,
        endings: Endings,
        mocks: Mocks,
    ) -> None:
        super().__init__(store, registry, settings, world, endings)
        self.executor.close()
        self.executor = WatchedExecutor(world, settings, mocks)
        self.keeper = VirtualKeeper(store, world, settings, self.loop, self._extended)
        self.claiming = VirtualClaiming(self)
        self.is_dead = False

    async def stop(self) -> None:
        """End it as a crash does: under a clock that stands still nothing can be waited for."""
        self.die()

    def die(self) -> None:
        """Drop everything, as the end of a process does: nothing is written, handed back or told."""
        if self.is_dead:
            return
        self.is_dead = self.is_stopping = True
        self.claiming.stop()
        for task in self._tasks:
            task.cancel()
        self.commits.drop()
        for runner in list(self.turns.values()):
            runner.lost()
        self.keeper.stop()
        self.executor.close()

    async def give_back(self) -> None:
        """Let a dead worker's leases run out at once, without moving the clock."""
        now = self.env.now()
        cursor: str | None = None
        while True:
            page = await self.store.find(RunFilter((RunStatus.RUNNING, RunStatus.COMPENSATING)), PAGE, cursor)
            mine = [Lease(run.id, run.epoch, now) for run in page.runs if run.worker == self.id]
            if mine:
                await self.store.extend(mine, now)
            cursor = page.cursor
            if cursor is None:
                return

    def _begin(self, claim: Claim) -> None:
        if not self.is_dead:
            super()._begin(claim)

    async def _require_transactions(self) -> None:
        """Let transactional steps be registered: they are mocked here."""

    async def _listen(self) -> None:
        """Nobody else uses this store."""

    async def _maintain(self) -> None:
        """See the class."""

    async def _report(self) -> None:
        """Say nothing of itself: a clock that jumps over days would have it write all the time."""
