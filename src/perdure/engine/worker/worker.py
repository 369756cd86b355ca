"""A worker: claims due runs, drives their turns, keeps their leases, and hands everything back when it stops."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from perdure.authoring.announcing import entry_of
from perdure.authoring.registry import Registry
from perdure.authoring.workflow import Workflow
from perdure.core import guard
from perdure.core.loop import LATEST
from perdure.engine.batch import Batch
from perdure.engine.ending import Endings, parked_reason
from perdure.engine.env import Env, new_id, pause
from perdure.engine.lifecycle import lifecycle_of
from perdure.engine.settings import Settings
from perdure.engine.telemetry import STUCK_LOGGER, Watchers
from perdure.engine.worker.claiming import IDLE_CHECK, Claiming
from perdure.engine.worker.executor import Executor
from perdure.engine.worker.gathering import Gathering
from perdure.engine.worker.keeper import Keeper
from perdure.engine.worker.lingering import Lingering
from perdure.engine.worker.lookout import Lookout
from perdure.engine.worker.reading import Reading
from perdure.engine.worker.runner import Runner
from perdure.engine.worker.status import Reporting
from perdure.engine.worker.transactional import require_transactions
from perdure.model.decision import Claim, Committed, Decision, Extended, Lease
from perdure.model.duration import seconds
from perdure.model.errors import StoreError
from perdure.model.run import NewRun, Run, RunStatus
from perdure.store.contract import Store

HINT_PACE = 0.025
"""Seconds between two hints that a worker follows while it has much in hand, or while they bring it nothing."""

MUCH, OFTEN = 8, 4
"""From how many runs in hand on that is, and from how many hints in vain in a row."""

MAINTENANCE_EVERY = 30.0
"""Seconds between two rounds of announcing workflows and removing expired runs."""

PRUNE_BATCH = 500
"""How many expired runs one removal takes."""

_log = logging.getLogger("perdure.engine")
_stuck_log = logging.getLogger(STUCK_LOGGER)


class Worker:
    """See the module's text.

    Attributes:
        id: new at every start, so that no two workers are ever taken for one.
        loop: the event loop that it lives on.
        commits: where decisions are written, many in one go.
        executor, keeper: where step bodies run, and what keeps the leases.
        lookout: what finds out what others did to its runs.
        turns: the runs it has, by id.
        claiming: how it comes by them.
        lingering: those that wait for children in its memory.
        definitions: how it comes to know of those in the store.
        gathering: what gathers the items of batched tasks.
        reporting: what says how it is.
        watchers: who watches what it does; None for nobody.
        hints: how many hints of the store it has heard.
        is_stopping: it claims nothing more.
        cut_off: once it has stopped, how many runs it gave back in the middle of a step.
        broken: set when it can claim no more because of a defect; its process had better end.
    """

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
        self.lifecycle = lifecycle_of(registry.triggers, settings, env)
        self.watchers: Watchers | None = None
        self.hints = 0
        self.client: Any = None
        self.is_stopping = False
        self.claiming = Claiming(self)
        self.lingering = Lingering(self)
        self.definitions = Reading(self, is_on=settings.definitions)
        self.gathering = Gathering(self)
        self.reporting = Reporting(self)
        self._empty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_hurried = False
        self.cut_off = 0
        self.broken = asyncio.Event()

    async def start(self) -> None:
        """Announce the workflows and begin to claim."""
        guard.install()
        _freeze()
        self.keeper.start()
        await self._require_transactions()
        await self.definitions.read()
        await self._announce()
        for work in (
            self.claiming.claim_for_ever,
            self.claiming.offering.take_for_ever,
            self._listen,
            self._maintain,
            self.definitions.keep_reading,
            self._report,
        ):
            task = self.loop.create_task(work())
            task.add_done_callback(self._work_ended)
            self._tasks.append(task)

    def watch(self, watchers: Watchers) -> None:
        """Have somebody watch what it does; before it starts."""
        self.watchers = self.executor.watchers = watchers
        self.commits.on_written = watchers.wrote
        watchers.tell(lambda each: each.opened(self))

    async def stop(self) -> None:
        """Claim nothing more; let running steps finish, up to `Settings.drain`; hand the rest back at once."""
        self.is_stopping = True
        self.gathering.hurry()
        self.claiming.stop()  # so that it ends by itself: what a claim under way brings must be handed back
        for task in self._tasks[1:-1]:  # the last one says that it is stopping
            task.cancel()
        timer = self.env.call_later(self.loop, seconds(self.settings.drain), self._cancel_tasks)
        await asyncio.gather(*self._tasks[:-1], return_exceptions=True)
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
        self._cancel_tasks()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reporting.end()
        await self.commits.close()
        await self.executor.finished()
        if self.lifecycle is not None:
            await self.lifecycle.close()
        self.lookout.close()
        self.lingering.close()
        self.keeper.stop()
        self.executor.close()
        if self.watchers is not None:
            self.watchers.tell(lambda each: each.closed(self))

    def hurry(self) -> None:
        """While stopping, wait for running steps no longer."""
        self._is_hurried = True
        self._cancel_tasks()
        self._empty.set()

    def wake(self) -> None:
        """Look for due runs now."""
        self.claiming.wake()

    def serve(self, queues: Sequence[str]) -> None:
        """Serve these queues from now on, and no others."""
        self.settings = replace(self.settings, queues=tuple(queues))

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("worker %s is broken and claims nothing more", self.id, exc_info=error)
            self.broken.set()

    # Runs that this process started itself.

    def reserve(self, new: NewRun) -> bool:
        """Keep a place for a run that is about to be created here; return whether there is one."""
        return self.claiming.reserve(new)

    def created(self, new: NewRun, *, is_ours: bool) -> None:
        """Begin a run that a place was kept for, or give the place up if the run was not created here."""
        if not is_ours:
            self.claiming.give_up(new.queue)
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
            limit_key=new.limit_key,
        )
        self.begin_claimed(Claim(run, list(new.records), []))

    # What turns say.

    def committed_end(self, runner: Runner, decision: Decision, answer: Committed) -> None:
        """A turn's last decision is durable."""
        status = decision.status
        if status.is_finished:
            self.reporting.ended(runner.turn.run.queue)
            self.endings.ended(runner.run_id, status, decision.records[-1].payload)
        elif status is RunStatus.PAUSED:
            run = Run(runner.run_id, "", status, 0, 0, wait=decision.wait)
            if (reason := parked_reason(run)) is not None:
                _stuck_log.error("run %s is parked: %s", runner.run_id, reason, extra={"run_id": runner.run_id})
                self.endings.ended(runner.run_id, status, reason)
        elif answer.arrived or status is RunStatus.QUEUED:
            self.wake()
        elif status is RunStatus.COMPENSATION_FAILED:
            told = "run %s could not be undone and needs an operator: see `perdure undos list`"
            _stuck_log.error(told, runner.run_id, extra={"run_id": runner.run_id})
            self.endings.ended(runner.run_id, status, None)
        elif decision.due_at is not None and decision.due_at < LATEST:
            self.claiming.look_at(decision.due_at)
        if decision.reaches_others:
            self.told_others(decision)

    def told_others(self, decision: Decision) -> None:
        """A durable decision made runs, ended some, or told its parent; those that are here hear of it at once."""
        self.wake()
        for post in decision.posts:
            self.deliver(post.run_id)
        if decision.terminate and self.turns:
            self.lookout.look(at_all=True)
        if self.lifecycle is not None:
            ended = decision.terminate + decision.unclaimed
            self.lifecycle.terminated(self.store, ended, self.wake, decision.at)

    def left(self, runner: Runner) -> None:
        """A run has left this worker."""
        self.keeper.remove(runner)
        self.lingering.end(runner)
        if self.turns.get(runner.run_id) is runner:
            del self.turns[runner.run_id]
        if not self.turns:
            self._empty.set()
        self.claiming.left(runner.turn.run.queue)
        if self.watchers is not None:
            self.watchers.tell(lambda each: each.left(runner.turn.run))

    def look_after_lease(self) -> None:
        """Look for due runs when a lease that was given up has run out, unless somebody took it over before."""
        if not self.is_stopping:
            self.claiming.look_at(self.env.now() + self.settings.lease_ms)

    # Turns.

    def begin_claimed(self, claim: Claim) -> None:
        """Begin a run that a place was kept for."""
        self.claiming.begun()
        self._begin(claim)

    def _begin(self, claim: Claim) -> None:
        run = claim.run
        if run.id in self.turns:  # an earlier claim of this worker, whose lease ended before it could be extended
            self.turns[run.id].lost()
        program = self.registry.program(run.workflow, run.version)
        if program is None:
            _log.error("run %s is left to its lease: its workflow, version %r, is not here", run.id, run.version)
            self.claiming.left(run.queue)
            return
        runner = self._runner_of(claim, program)
        self.turns[run.id] = runner
        self.keeper.add(runner)
        if self.watchers is not None:
            self.watchers.tell(lambda each: each.taken(claim))
        if self.is_stopping:
            runner.turn.hand_back()
        runner.begin()

    def _runner_of(self, claim: Claim, program: Workflow[..., Any]) -> Runner:
        """Return what drives a turn; another kind of worker has another one."""
        return Runner(self, claim, program)

    async def _listen(self) -> None:
        """Take the store's hints of what other processes did.

        At once while there is little, and unless the last ones brought nothing; else paced, so that many workers do
        not keep each other from work, and busy ones take much in one go.
        """
        heard_at, in_vain = 0.0, 0
        while True:
            try:
                if await self.claiming.offering.hint(IDLE_CHECK):
                    self.hints += 1
                    if len(self.turns) >= MUCH or in_vain >= OFTEN:
                        await asyncio.sleep(max(0.0, heard_at + HINT_PACE - self.loop.time()))
                    heard_at, before = self.loop.time(), self.claiming.claimed
                    self.wake()
                    self.lookout.look()
                    self.definitions.hint()
                    await self.claiming.rested()
                    in_vain = in_vain + 1 if self.claiming.claimed == before else 0
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
            entry_of(workflow, now, self.id, self.registry.triggers.announced(workflow.name))
            for workflow in self.registry.workflows.values()
        ]
        if entries:
            await self.store.publish(entries)

    async def _maintain(self) -> None:
        while True:
            await pause(self.env, MAINTENANCE_EVERY)
            try:
                await self.definitions.read()
                await self._announce()
                while await self.store.prune(self.env.now(), PRUNE_BATCH) == PRUNE_BATCH:
                    pass
            except StoreError as error:
                _log.warning("housekeeping is put off: %s", error)

    async def _report(self) -> None:
        await self.reporting.keep_telling()

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
