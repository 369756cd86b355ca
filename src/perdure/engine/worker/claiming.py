"""How a worker comes by its runs: from ordinary queues by one claim, from queues with limits by looking and choosing.

What can be claimed is found out in rounds. A round asks its sources one after the other, a different one first each
time, so that none of them takes all the room for good: the ordinary queues at once; each queue that this worker may
have only so many runs of; and each gated queue, of which `perdure.core.admission` chooses. A source that has nothing
more plans when it is asked next; one that nothing has happened to is left out, so that a queue costs nothing by another
one's bustle. A gated queue is looked into once a round, however many limit keys it has (see `walk`). Runs that a limit
keeps back go as soon as one of this worker's own has ended, and within `GATE_CHECK` if it was another worker's.

That a queue is gated, a worker reads from the store at its start, every `STATES_KEPT_MS` while it claims, and when runs
are due that a claim does not give it. Until it knows, it claims nothing of that queue: the store sees to that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.core.admission import Choice, admit
from perdure.engine.env import Timer, pause
from perdure.engine.worker.offering import Offering
from perdure.engine.worker.places import Places
from perdure.engine.worker.walk import KEYS_AT_ONCE, OUTRUN_CHECK, TRIES, Walk, is_at_its_limit
from perdure.model.decision import Claim
from perdure.model.errors import StoreError
from perdure.model.queue import QueueState
from perdure.model.run import NewRun

if TYPE_CHECKING:
    from perdure.engine.worker.worker import Worker

CLAIM_BATCH = 250
"""How many runs one claim takes at most."""

IDLE_CHECK, GATE_CHECK = 30.0, 1.0
"""Seconds after which a worker looks again, told to or not: when idle, and where a limit keeps runs back."""

STATES_KEPT_MS = 1_000
"""How long a worker that claims believes, in milliseconds, which queues are gated."""

FAILED_CHECK_MS = 1_000
"""After how many milliseconds a worker asks again where the store failed: a part of it may be out of reach."""

MIN_DELAY_MS = 5
"""Between two looks at the store for what is overdue, in milliseconds."""

ORDINARY = ""
"""Stands for the ordinary queues, which are asked at once, where a source is named by its queue."""

_log = logging.getLogger("perdure.engine")


class Claiming:
    """See the module's text.

    Attributes:
        idle_check: see `IDLE_CHECK`.
        gate_check, change_check: see `GATE_CHECK`: where runs wait for others' end, and where for time or a change.
        places: how many runs there is room for.
        gates: the queues that are gated.
        offering: how runs come by themselves.
        claimed: how many runs it has come by.
    """

    idle_check: float = IDLE_CHECK
    gate_check: float = GATE_CHECK
    change_check: float = GATE_CHECK

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._env = worker.env
        self._store = worker.store
        self.places = Places(worker.settings, worker.turns)
        self.offering = Offering(worker, self.places)
        self.gates: dict[str, QueueState] = {}
        self._read_at: int | None = None
        self._walks: dict[str, Walk] = {}
        self._rounds = 0
        self.claimed = 0
        self._wake = asyncio.Event()
        self._rest = asyncio.Event()
        self._is_asked_for_all = True
        self._asked: set[str] = set()
        self._planned: dict[str | None, int] = {}  # by source; None for all of them
        self._failed: dict[str, int] = {}  # by source: until when it is left alone
        self._timer: Timer | None = None
        self._timer_at = 0
        self._is_starved = False

    # When to look.

    def wake(self) -> None:
        """Look for due runs now."""
        self._is_asked_for_all = True
        self._wake.set()

    def look_at(self, due_at: int, source: str | None = None) -> None:
        """Look for due runs at that moment, in milliseconds since the epoch, unless a look is planned before.

        Args:
            due_at: when; at the next idle check if that comes before.
            source: where: a queue that is asked by itself, `ORDINARY`, or None for everywhere.
        """
        at = self._moment(due_at)
        if self._planned.get(source, at + 1) <= at:
            return
        self._planned[source] = at
        self._set_timer(at)

    def _moment(self, due_at: int) -> int:
        """Return when to look for what is due at a moment."""
        now = self._env.now()
        earliest = now + MIN_DELAY_MS if due_at <= now else due_at
        return min(earliest, now + round(self.idle_check * 1000))

    def _set_timer(self, at: int) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        delay = max(1, at - self._env.now()) / 1000
        self._timer = self._env.call_later(self._worker.loop, delay, self._look)

    def created(self, queue: str) -> None:
        """Look for due runs of a queue, of which one was created here."""
        if queue in self._worker.settings.served:
            self._ask(queue if queue in self.gates or queue in self._worker.settings.per_queue else ORDINARY)

    def forget_states(self) -> None:
        """Read anew which queues are gated, now: this process has changed one."""
        self._read_at = None
        self.wake()

    def stop(self) -> None:
        """Plan no further look, and end `claim_for_ever` once what it asked for has come."""
        if self._timer is not None:
            self._timer.cancel()
        self.wake()

    def _look(self) -> None:
        self._timer = None
        until = max(self._timer_at, self._env.now())
        for source in [source for source, at in self._planned.items() if at <= until]:
            del self._planned[source]
            self._ask(source)
        if self._planned:
            self._set_timer(min(self._planned.values()))

    def _ask(self, source: str | None) -> None:
        if source is None:
            self._is_asked_for_all = True
        else:
            self._asked.add(source)
        self._wake.set()

    # How much there is room for.

    def reserve(self, new: NewRun) -> bool:
        """Keep a place for a run that is about to be created here; return whether there is one."""
        worker, queue = self._worker, new.queue
        if (
            self.places.room(queue) <= 0
            or worker.is_stopping
            or queue in self.gates
            or queue not in self._worker.settings.served
        ):
            return False
        if worker.registry.program(new.workflow, new.version) is None:
            worker.definitions.hint()
            return False
        self.places.take(queue, 1)
        return True

    def give_up(self, queue: str) -> None:
        """Give the place of a run up that was not created here; its queue may have become a gated one."""
        self.places.reserved -= 1
        self.places.held[queue] -= 1
        self.forget_states()

    def begun(self) -> None:
        """A run for which a place was kept is in the worker's hands."""
        self.places.reserved -= 1

    def left(self, queue: str) -> None:
        """A run has left the worker."""
        self.places.held[queue] -= 1
        self.has_place(queue)
        self.offering.again()

    def has_place(self, queue: str) -> None:
        """A run of a queue takes its place no more: there may be room for another."""
        is_bounded = queue in self.gates and self.gates[queue].limits.bounds_places
        if self._is_starved:
            self._has_room()
        elif is_bounded or queue in self._worker.settings.per_queue:
            self._ask(queue)

    def _has_room(self) -> None:
        """Look for due runs after a time without room for any: at once if there is much of it, soon if little."""
        if self._worker.is_stopping:
            return
        if self.places.room() >= min(CLAIM_BATCH, self._worker.settings.concurrency // 2):
            self._is_starved = False
            self.wake()
        else:
            self.look_at(self._env.now())

    # Claiming.

    async def claim_for_ever(self) -> None:
        """Claim whatever is due and there is room for, until the worker stops."""
        while not self._worker.is_stopping:
            self._wake.clear()
            is_drained = True
            try:
                is_drained = await self._round()
            except StoreError as error:
                _log.warning("no runs could be claimed, trying again: %s", error)
                self._is_asked_for_all = True
                self.look_at(self._env.now() + FAILED_CHECK_MS)
            if is_drained and not self._wake.is_set() and not await self._is_due_at_offer():
                self._rest.set()
                await self._wake.wait()
                self._rest.clear()
        self._rest.set()
        await self.offering.end()

    async def _is_due_at_offer(self) -> bool:
        """Offer to take a run of the ordinary queues; return whether one is due instead, which is then asked for."""
        if ORDINARY in self._failed or self._is_starved:
            return False
        if is_due := await self.offering.offer(self._ordinary(), self._worker.registry.names()):
            self._asked.add(ORDINARY)
        return is_due

    def offer_again(self) -> None:
        """Offer to take a run, once what is to be looked into has been."""
        self._wake.set()

    async def rested(self) -> None:
        """Wait until everything that was to be looked into has been."""
        if self._wake.is_set():
            self._rest.clear()
        await self._rest.wait()

    async def _round(self) -> bool:
        """Ask every source that is to be asked once; return whether nothing more can be taken for now."""
        registry = self._worker.registry
        workflows = registry.names()  # asked anew: some may have been registered since
        if not registry.workflows:
            self._is_asked_for_all = True
            self.look_at(self._env.now() + round(self.idle_check * 1000))
            return True
        await self._read_states()
        sources = self._sources()
        self._rounds += 1
        first = self._rounds % max(1, len(sources))
        is_drained = True
        for source, queues in (*sources[first:], *sources[:first]):
            self._is_starved = not await self.offering.has_room()
            if self._is_starved:  # `_has_room` ends it
                self._is_asked_for_all = True
                return True
            if not await self._taken_of(source, queues, workflows):
                is_drained = False
                self._asked.add(source)
        self._is_starved = is_drained and self.places.room() <= 0
        return is_drained

    async def _taken_of(self, source: str, queues: tuple[str, ...], workflows: Sequence[str]) -> bool:
        """Take of one source what there is room for; return whether nothing more can be taken of it for now."""
        try:
            if source in self.gates:
                return await self._admit_of(source, workflows)
            return await self._claim_of(source, queues, workflows)
        except StoreError as error:  # the others may be where the store can be reached
            _log.warning("no runs of %s could be claimed, trying again: %s", ", ".join(map(repr, queues)), error)
            self._failed[source] = self._env.now() + FAILED_CHECK_MS
            self.look_at(self._failed[source], source)
            return True

    def _sources(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return what is to be asked now, each with its queues, and take it for asked."""
        is_for_all, self._is_asked_for_all = self._is_asked_for_all, False
        asked, self._asked = self._asked, set()
        ordinary = self._ordinary()
        alone = [queue for queue in self._worker.settings.served if queue not in ordinary]
        every = [*((queue, (queue,)) for queue in alone), (ORDINARY, ordinary)]
        wanted = [(source, queues) for source, queues in every if queues and (is_for_all or source in asked)]
        now = self._env.now()
        self._failed = {source: until for source, until in self._failed.items() if until > now}
        for source in self._failed.keys() & dict(wanted).keys():
            self.look_at(self._failed[source], source)
        return [(source, queues) for source, queues in wanted if source not in self._failed]

    def _ordinary(self) -> tuple[str, ...]:
        alone = self.gates.keys() | self._worker.settings.per_queue.keys()
        return tuple(queue for queue in self._worker.settings.served if queue not in alone)

    async def _read_states(self) -> None:
        now = self._env.now()
        if self._read_at is not None and 0 <= now - self._read_at < STATES_KEPT_MS:
            return
        self._read_at = now
        states = await self._store.queues()
        gates = {state.name: state for state in states if state.is_gated and state.name in self._worker.settings.served}
        if gates.keys() != self.gates.keys():  # a queue has become another source
            self._is_asked_for_all = True
        self.gates = gates

    async def _claim_of(self, source: str, queues: tuple[str, ...], workflows: Sequence[str]) -> bool:
        """Claim of queues without limits; return whether nothing more can be taken of them for now."""
        limit = min(self.places.room(source), CLAIM_BATCH)
        if limit <= 0:  # `left` looks again
            return True
        worker, now = self._worker, self._env.now()
        claims = await self._store.claim(queues, limit, worker.id, now, now + self._worker.settings.lease_ms, workflows)
        await worker.definitions.require(claims)
        self.hand_over(claims)
        if len(claims) == limit:
            return False
        if claims:  # what comes next is asked when these have begun, and once for all that is claimed until then
            self.look_at(now, source)
            return True
        due = await self._store.next_due(queues, workflows)
        if due is not None and due <= self._env.now():
            if due > now:  # it became due in between
                return False
            self._read_at = None  # the queue may have become a gated one
        self.look_at(self._env.now() + round(self.idle_check * 1000) if due is None else due, source)
        return True

    def hand_over(self, claims: Sequence[Claim]) -> None:
        """Have the worker begin runs that are leased to it."""
        self.claimed += len(claims)
        for claim in claims:
            self.places.take(claim.run.queue, 1)
            self._worker.loop.call_soon(self._worker.begin_claimed, claim)

    # Queues with limits.

    async def _admit_of(self, queue: str, workflows: Sequence[str]) -> bool:
        """Begin what the limits of a queue allow, and plan when to look into it again.

        Returns:
            Whether nothing more can be taken of it for now.
        """
        if self.gates[queue].is_paused:  # `_read_states` hears of its end
            await self._plan(queue, workflows, None, self.change_check)
            return True
        walk = self._walks.setdefault(queue, Walk())
        if (room := self.places.room(queue)) > 0:
            now = self._env.now()
            each = min(room, KEYS_AT_ONCE)
            view = await self._store.look_into(queue, now, KEYS_AT_ONCE, each, walk.after, workflows)
            if view is None or not view.state.is_gated:
                self._read_at = None
                self._is_asked_for_all = True
                return False
            choice = admit(view, min(self.places.room(queue), CLAIM_BATCH), now)
            begun = await self._begun_of(choice, now)
            if begun is None:
                walk.outrun += 1
                await pause(self._env, self._env.roll() * walk.outrun * MIN_DELAY_MS / 1000)
                is_over = walk.outrun == TRIES
            else:
                walk = self._walks[queue] = walk.gone_on(view, choice)
                is_over = walk.is_over or (choice.is_full and is_at_its_limit(view, choice))
            if not is_over:  # the other sources have their turn
                return False
        check = OUTRUN_CHECK if walk.outrun == TRIES else self.gate_check if walk.is_full else self.change_check
        self._walks[queue] = Walk(walk.start)
        await self._plan(queue, workflows, walk.again_at, check, has_due=walk.is_full)
        return True

    async def _begun_of(self, choice: Choice, now: int) -> int | None:
        """Begin what was chosen; return how many runs that were, None if others got ahead."""
        if choice.admission is None:
            return 0
        claims = await self._store.admit(choice.admission, self._worker.id, now, now + self._worker.settings.lease_ms)
        if claims is None:
            return None
        await self._worker.definitions.require(claims)
        self.hand_over(claims)
        return len(claims)

    async def _plan(
        self, queue: str, workflows: Sequence[str], again_at: int | None, check: float, *, has_due: bool = False
    ) -> None:
        """Look again when something becomes due; where it is, after `check` seconds or at `again_at`."""
        due = None if has_due else await self._store.next_due((queue,), workflows)
        now = self._env.now()
        if has_due or (due is not None and due <= now):
            due = now + round(check * 1000)
        if due is None:
            due = now + round(self.idle_check * 1000)
        self.look_at(due if again_at is None else min(due, again_at), queue)
