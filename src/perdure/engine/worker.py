"""A worker: claims due runs, drives their turns, keeps their leases, and hands everything back when it stops."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import Sequence

import msgspec

from perdure.authoring.registry import Registry
from perdure.core import guard
from perdure.engine.batch import Batch
from perdure.engine.ending import Endings, parked_reason
from perdure.engine.env import Env, Timer, new_id, pause
from perdure.engine.executor import Executor
from perdure.engine.keeper import Keeper
from perdure.engine.lookout import Lookout
from perdure.engine.runner import Runner
from perdure.engine.settings import Settings
from perdure.engine.transactional import require_transactions
from perdure.model.decision import CatalogEntry, Claim, Committed, Decision, Extended, Lease
from perdure.model.duration import seconds
from perdure.model.errors import StoreError
from perdure.model.run import NewRun, Run, RunStatus
from perdure.store.contract import Store

CLAIM_BATCH = 250
"""How many runs one claim takes at most."""

IDLE_CHECK = 30.0
"""Seconds after which an idle worker looks for due runs even if nothing told it to."""

MIN_DELAY_MS = 5
"""Between two looks at the store, in milliseconds, however overdue a run is."""

MAINTENANCE_EVERY = 30.0
"""Seconds between two rounds of announcing workflows and removing expired runs."""

PRUNE_BATCH = 500
"""How many expired runs one removal takes."""

_log = logging.getLogger("perdure.engine")


class Worker:
    """See the module's text.

    Attributes:
        id: new at every start, so that no two workers are ever taken for one.
        loop: the event loop that it lives on.
        commits: where decisions are written, many in one go.
        executor, keeper: where step bodies run, and what keeps the leases.
        lookout: what finds out what others did to its runs.
        turns: the runs it has, by id.
        cut_off: once it has stopped, how many runs it gave back in the middle of a step.
        broken: set when it can claim no more because of a defect; its process had better end.
    """

    idle_check: float = IDLE_CHECK

    def __init__(self, store: Store, registry: Registry, settings: Settings, env: Env, endings: Endings) -> None:
        self.id = new_id(env)
        self.store = store
        self.registry = registry
        self.settings = settings
        self.env = env
        self.endings = endings
        self.loop = asyncio.get_running_loop()
        self.commits: Batch[Decision, Committed] = Batch(store.commit, env, insists=True, at_once=store.writes_at_once)
        self.executor = Executor(env, settings.threads, settings.processes)
        self.keeper = Keeper(store, env, settings, self.loop, self._extended)
        self.lookout = Lookout(store, env, self.loop, self._extended)
        self.turns = self.lookout.turns
        self._reserved = 0
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._timer: Timer | None = None
        self._timer_at = 0
        self._is_starved = False
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False
        self._is_hurried = False
        self.cut_off = 0
        self.broken = asyncio.Event()

    async def start(self) -> None:
        """Announce the workflows and begin to claim."""
        guard.install()
        _freeze()
        self.keeper.start()
        await self._require_transactions()
        await self._announce()
        for work in (self._claim_for_ever, self._listen, self._maintain):
            task = self.loop.create_task(work())
            task.add_done_callback(self._work_ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Claim nothing more; let running steps finish, up to `Settings.drain`; hand the rest back at once."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
        self.wake()  # so that claiming ends by itself: what a claim under way brings must be handed back
        for task in self._tasks[1:]:
            task.cancel()
        timer = self.env.call_later(self.loop, seconds(self.settings.drain), self._cancel_tasks)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        timer.cancel()
        for runner in list(self.turns.values()):
            runner.hand_back()
        if self.turns and not self._is_hurried:
            self._empty.clear()
            timer = self.env.call_later(self.loop, seconds(self.settings.drain), self._empty.set)
            await self._empty.wait()
            timer.cancel()
        self.cut_off = len(self.turns)
        await self._release()
        await self.commits.close()
        await self.executor.finished()
        self.lookout.close()
        self.keeper.stop()
        self.executor.close()

    def hurry(self) -> None:
        """While stopping, wait for running steps no longer."""
        self._is_hurried = True
        self._cancel_tasks()
        self._empty.set()

    def wake(self) -> None:
        """Look for due runs now."""
        self._wake.set()

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("worker %s is broken and claims nothing more", self.id, exc_info=error)
            self.broken.set()

    # Runs that this process started itself.

    def reserve(self, queue: str, workflow: str) -> bool:
        """Keep a place for a run that is about to be created here; return whether there is one."""
        if self._room() <= 0 or self._is_stopping:
            return False
        if queue not in self.settings.queues or workflow not in self.registry.workflows:
            return False
        self._reserved += 1
        return True

    def created(self, new: NewRun, *, is_ours: bool) -> None:
        """Give the reserved place up, and begin the run if it was created here."""
        self._reserved -= 1
        if not is_ours:
            if self._is_starved:
                self._has_room()
            return
        run = Run(
            id=new.id,
            workflow=new.workflow,
            status=RunStatus.RUNNING,
            created_at=new.created_at,
            updated_at=new.created_at,
            version=new.version,
            queue=new.queue,
            priority=new.priority,
            due_at=new.due_at,
            started_at=new.created_at,
            epoch=1,
            worker=self.id,
            fingerprint=new.fingerprint,
            tags=new.tags,
            retention=new.retention,
        )
        self._begin(Claim(run, list(new.records), []))

    # What turns say.

    def committed_end(self, runner: Runner, decision: Decision, answer: Committed) -> None:
        """A turn's last decision is durable."""
        status = decision.status
        if status.is_finished:
            self.endings.ended(runner.run_id, status, decision.records[-1].payload)
        elif status is RunStatus.PAUSED:
            run = Run(runner.run_id, "", status, 0, 0, wait=decision.wait)
            if (reason := parked_reason(run)) is not None:
                _log.error("run %s is parked: %s", runner.run_id, reason)
                self.endings.ended(runner.run_id, status, reason)
        elif answer.arrived or status is RunStatus.QUEUED:
            self.wake()
        elif decision.due_at is not None:
            self._look_at(decision.due_at)
        if decision.children or decision.terminate or decision.posts:
            self.told_others(decision)

    def told_others(self, decision: Decision) -> None:
        """A durable decision made runs, ended some, or told its parent; those that are here hear of it at once."""
        self.wake()
        for post in decision.posts:
            self.deliver(post.run_id)
        if decision.terminate and self.turns:
            self.lookout.look(at_all=True)

    def left(self, runner: Runner) -> None:
        """A run has left this worker."""
        self.keeper.remove(runner)
        if self.turns.get(runner.run_id) is runner:
            del self.turns[runner.run_id]
        if not self.turns:
            self._empty.set()
        if self._is_starved:
            self._has_room()

    def look_after_lease(self) -> None:
        """Look for due runs when a lease that was given up has run out, unless somebody took it over before."""
        if not self._is_stopping:
            self._look_at(self.env.now() + self.settings.lease_ms)

    # Claiming.

    async def _claim_for_ever(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            try:
                is_drained = await self._claim_once()
                if is_drained and not self._is_starved:
                    due = await self._next_due()
                    self._look_at(self.env.now() + round(self.idle_check * 1000) if due is None else due)
            except StoreError as error:
                _log.warning("no runs could be claimed, trying again: %s", error)
                self._look_at(self.env.now() + 1_000)
                is_drained = True
            if is_drained:
                await self._wake.wait()

    async def _claim_once(self) -> bool:
        """Claim once; return whether nothing more can be taken for now."""
        limit = min(self._room(), CLAIM_BATCH)
        self._is_starved = limit <= 0
        if self._is_starved:  # `_has_room` ends it
            return True
        workflows = tuple(self.registry.workflows)  # asked anew: some may have been registered since
        if not workflows:
            return True
        now, queues = self.env.now(), self.settings.queues
        claims = await self.store.claim(queues, limit, self.id, now, now + self.settings.lease_ms, workflows)
        self._reserved += len(claims)
        for claim in claims:
            self.loop.call_soon(self._begin_claimed, claim)
        return len(claims) < limit

    async def _next_due(self) -> int | None:
        workflows = tuple(self.registry.workflows)
        return await self.store.next_due(self.settings.queues, workflows) if workflows else None

    def _room(self) -> int:
        return self.settings.concurrency - len(self.turns) - self._reserved

    def _has_room(self) -> None:
        """Look for due runs after a time without room for any: at once if there is much of it, soon if little."""
        if self._is_stopping:
            return
        if self._room() >= min(CLAIM_BATCH, self.settings.concurrency // 2):
            self._is_starved = False
            self.wake()
        else:
            self._look_at(self.env.now())

    def _look_at(self, due_at: int) -> None:
        """Look for due runs at that moment, unless a look is planned before."""
        if self._timer is not None:
            if self._timer_at <= due_at:
                return
            self._timer.cancel()
        self._timer_at = due_at
        delay = min(max(MIN_DELAY_MS, due_at - self.env.now()) / 1000, self.idle_check)
        self._timer = self.env.call_later(self.loop, delay, self._look)

    def _look(self) -> None:
        self._timer = None
        self.wake()

    def _begin_claimed(self, claim: Claim) -> None:
        self._reserved -= 1
        self._begin(claim)

    def _begin(self, claim: Claim) -> None:
        run = claim.run
        if run.id in self.turns:  # an earlier claim of this worker, whose lease ended before it could be extended
            self.turns[run.id].lost()
        runner = Runner(self, claim, self.registry.workflows[run.workflow])
        self.turns[run.id] = runner
        self.keeper.add(runner)
        if self._is_stopping:
            runner.turn.hand_back()
        runner.begin()

    async def _listen(self) -> None:
        """Take the store's hints of what other processes did."""
        while True:
            try:
                if await self.store.wait(IDLE_CHECK):
                    self.wake()
                    self.lookout.look()
            except StoreError:
                await pause(self.env, 1.0)

    def _extended(self, answers: Sequence[tuple[Runner, Extended]]) -> None:
        for runner, answer in answers:
            turn = runner.turn
            if runner.is_over or turn.is_ended:  # the answer may have overtaken that of the turn's last commit
                continue
            if answer.is_lost:
                _log.warning("run %s was lost to another worker, or ended from outside", runner.run_id)
                runner.lost()
                continue
            if answer.inbox_seq > turn.inbox.seen:
                self.deliver(runner.run_id)
            if answer.is_pausing != turn.is_pausing:
                (runner.pause if answer.is_pausing else runner.resume)()

    def deliver(self, run_id: str) -> None:
        """Hand a run's new messages to its turn, if it is here."""
        if run_id in self.turns:
            self.lookout.fetch(self.turns[run_id])

    # Housekeeping.

    async def _require_transactions(self) -> None:
        await require_transactions(self.store, self.registry)

    async def _announce(self) -> None:
        now = self.env.now()
        entries = [
            CatalogEntry(
                workflow.name,
                workflow.version,
                workflow.queue,
                msgspec.json.encode(workflow.parameters.schema()).decode(),
                now,
                self.id,
            )
            for workflow in self.registry.workflows.values()
        ]
        if entries:
            await self.store.publish(entries)

    async def _maintain(self) -> None:
        while True:
            await pause(self.env, MAINTENANCE_EVERY)
            try:
                await self._announce()
                while await self.store.prune(self.env.now(), PRUNE_BATCH) == PRUNE_BATCH:
                    pass
            except StoreError as error:
                _log.warning("housekeeping is put off: %s", error)

    async def _release(self) -> None:
        """Give back what did not finish in time."""
        now = self.env.now()
        leases = [Lease(runner.run_id, runner.epoch, now) for runner in self.turns.values()]
        for runner in list(self.turns.values()):
            runner.lost()
        if leases:
            try:
                await self.store.extend(leases, now)
            except StoreError as error:
                _log.warning("%d runs could not be given back and wait for their leases to end: %s", len(leases), error)


@functools.cache
def _freeze() -> None:
    """Once in a process, leave what was there before its first worker out of all later garbage collections.

    Modules, classes and caches are most of what a full collection looks at, and short runs call for many.
    """
    gc.collect()
    gc.freeze()
