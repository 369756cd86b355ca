"""What the contract means, as plain code over dictionaries: the inside of the memory store, measure of the others."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.model.decision import (
    Action,
    Claim,
    Committed,
    Control,
    Controlled,
    Decision,
    Extended,
    Lease,
    Message,
    Posted,
)
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.run import Created, Dedup, NewRun, Run, RunStatus
from perdure.store.journal import (
    is_unclaimed,
    news_of,
    queued_due_at,
    refusal,
    require_following,
    stands,
    untold,
)
from perdure.store.reference_queues import Queues
from perdure.store.reference_rows import Rows, copied

QUEUED, RUNNING, WAITING = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING
PAUSED, TERMINATED = RunStatus.PAUSED, RunStatus.TERMINATED
COMPENSATING, COMPENSATION_FAILED = RunStatus.COMPENSATING, RunStatus.COMPENSATION_FAILED


class Reference(Rows):
    """The operations that change something. One caller at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._queues = Queues()
        self._dedups: dict[str, tuple[str, Dedup]] = {}

    def create(self, new: NewRun) -> Created:
        """Create one run, or say who has its id."""
        there = self._runs.get(new.id)
        if there is not None:
            return Created(there.id, is_new=False, fingerprint=there.fingerprint)
        if new.dedup is not None:
            if (run := self._standing(new.dedup.key, new)) is not None:
                return self._stand(run, new, new.dedup)
            self._dedups[new.dedup.key] = (new.id, new.dedup)
        self._created += 1
        self._order[new.id] = self._created
        self._journals[new.id] = list(new.records)
        self._unread[new.id], self._read[new.id] = {}, {}
        is_leased = new.worker is not None and not self._queues.is_gated(new.queue)
        self._put(
            Run(
                id=new.id,
                workflow=new.workflow,
                version=new.version,
                queue=new.queue,
                priority=new.priority,
                status=RUNNING if is_leased else QUEUED,
                created_at=new.created_at,
                updated_at=new.created_at,
                started_at=new.created_at if is_leased else None,
                due_at=new.due_at if is_leased else queued_due_at(new),
                epoch=1 if is_leased else 0,
                journal_length=len(new.records),
                worker=new.worker if is_leased else None,
                parent_id=new.parent_id,
                parent_key=new.parent_key,
                is_detached=new.is_detached,
                depth=new.depth,
                fingerprint=new.fingerprint,
                tags=dict(new.tags),
                retention=new.retention,
                limit_key=new.limit_key,
            )
        )
        return Created(new.id, is_new=True, fingerprint=new.fingerprint, is_leased=is_leased)

    def _standing(self, key: str, new: NewRun) -> Run | None:
        """Return the run that stands for a new one with a dedup key."""
        if key not in self._dedups:
            return None
        run_id, dedup = self._dedups[key]
        run, first = self._runs[run_id], next(iter(self._journals[run_id]), None)
        return run if stands(run, dedup, new, first) else None

    def _stand(self, run: Run, new: NewRun, dedup: Dedup) -> Created:
        """Have a run stand for a new one, and begin with what that brings if it replaces."""
        if dedup.is_replacing and is_unclaimed(run):
            self._journals[run.id] = list(new.records)
            latest = self._dedups[dedup.key][1].latest_due_at
            due_at = queued_due_at(new) if latest is None else min(queued_due_at(new), latest)
            run = replace(run, fingerprint=new.fingerprint, updated_at=new.created_at, due_at=due_at)
            self._put(replace(run, journal_length=len(new.records)))
        return Created(run.id, is_new=False, fingerprint=run.fingerprint)

    def post(self, message: Message, now: int, capacity: int | None) -> Posted:
        """Put one message into its run's inbox."""
        run = self._runs.get(message.run_id)
        if run is None:
            return Posted.NO_RUN
        unread = self._unread[run.id]
        if message.id in unread or message.id in self._read[run.id]:
            return Posted.DUPLICATE
        if run.status.is_finished:
            return Posted.FINISHED
        if capacity is not None and len(unread) >= capacity:
            return Posted.FULL
        seq = run.inbox_seq + 1
        unread[message.id] = replace(message, seq=seq)
        due_at = _earliest(run.due_at, now) if run.worker is None else run.due_at
        self._put(replace(run, inbox_seq=seq, due_at=due_at, updated_at=now))
        return Posted.NEW

    def claim(
        self,
        queues: Sequence[str],
        workflows: Sequence[str] | None,
        limit: int,
        worker: str,
        now: int,
        until: int,
    ) -> list[Claim]:
        """Lease due runs to a worker."""
        ungated = [queue for queue in queues if not self._queues.is_gated(queue)]
        due = self._due(ungated, workflows, now)
        return [self._lease(run, worker, now, until) for run in due[:limit]]

    def _lease(self, run: Run, worker: str, now: int, until: int, *, is_admitted: bool = False) -> Claim:
        leased = replace(
            run,
            status=COMPENSATING if run.status in {COMPENSATING, COMPENSATION_FAILED} else RUNNING,
            worker=worker,
            is_admitted=is_admitted,
            due_at=until,
            updated_at=now,
            started_at=now if run.started_at is None else run.started_at,
            epoch=run.epoch + 1,
            seq=0,
            crashes=run.crashes + (run.worker is not None),
        )
        self._put(leased)
        return Claim(copied(leased), self.journal(run.id), self.inbox(run.id))

    def queues(self) -> list[QueueState]:
        """Return the state of every queue that has one."""
        return self._queues.states()

    def set_queue(self, state: QueueState) -> bool:
        """Keep a queue's state, if its version is the next one."""
        return self._queues.set(state)

    def look_into(
        self, queue: str, workflows: Sequence[str] | None, now: int, keys: int, each: int, after: str | None
    ) -> QueueView | None:
        """Return what to choose from in a queue."""
        timed = self._waiting_for_time([queue], None)
        admitted = [run for at, run in timed if run.is_admitted and at > now]
        due = self._due([queue], workflows, now)
        begun = [run for run in due if run.is_admitted]
        begun.sort(key=lambda run: (run.due_at, self._order[run.id]))
        return self._queues.view(queue, due, admitted, begun, (keys, each), after)

    def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """Lease what was chosen, if nobody else has chosen meanwhile."""
        if not self._queues.take_turn(admission, now):
            return None
        due = {run.id: run for run in self._due([admission.queue], None, now)}
        chosen = [due.pop(run_id) for run_id in admission.run_ids if run_id in due]
        return [self._lease(run, worker, now, until, is_admitted=True) for run in chosen]

    def commit(self, decision: Decision) -> Committed:
        """Carry one decision out, acknowledge it again, or refuse it."""
        run = self._runs.get(decision.run_id)
        if run is None or run.epoch != decision.epoch:
            return Committed(decision.run_id, is_lost=True)
        if run.seq < decision.seq:
            if run.worker is None or run.seq != decision.seq - 1:
                return Committed(decision.run_id, is_lost=True)
            require_following(decision, run.journal_length)
            self._carry_out(run, decision)
        arrived = tuple(message for message in self.inbox(run.id) if message.seq > decision.seen)
        return Committed(run.id, arrived=arrived, is_pausing=run.is_pausing)

    def _carry_out(self, run: Run, decision: Decision) -> None:
        journal, unread = self._journals[run.id], self._unread[run.id]
        if decision.renew is not None:
            journal[:] = decision.renew
            self._forget_children(run.id)
        journal.extend(decision.records)
        for message_id in decision.consumed:
            if (message := unread.pop(message_id, None)) is not None:
                known = replace(message, type="", payload=None, at=0, state="ok", ref=None)
                self._read[run.id][message_id] = known
        is_leased, is_finished = decision.keeps_lease, decision.status.is_finished
        is_paused = run.is_pausing and not is_leased and decision.status in {QUEUED, WAITING, COMPENSATING}
        due_at = run.due_at if is_leased else None if is_finished else decision.due_at
        if not is_leased and not is_finished and any(message.seq > decision.seen for message in unread.values()):
            due_at = _earliest(due_at, decision.at)
        self._put(
            replace(
                run,
                status=PAUSED if is_paused else decision.status,
                seq=decision.seq,
                crashes=0,
                due_at=due_at,
                updated_at=decision.at,
                finished_at=decision.at if is_finished else None,
                expires_at=_expiry(run, decision.status, decision.at) if is_finished else None,
                incarnation=run.incarnation + (decision.renew is not None),
                journal_length=len(journal),
                worker=run.worker if is_leased else None,
                is_admitted=run.is_admitted and (is_leased or (not is_paused and decision.gives_back)),
                is_pausing=run.is_pausing and is_leased,
                wait=decision.wait,
                state=run.state if decision.state is None else decision.state,
                progress=None if is_finished or decision.renew is not None else run.progress,
            )
        )
        for run_id in decision.unclaimed:
            if self._is_child(run_id, run.id) and self._runs[run_id].epoch == 0:
                self._terminate(run_id, decision.at, None)
        for child in decision.children:
            if not self.create(child).is_new:
                self.post(refusal(run.id, child, decision.at), decision.at, None)
        for message in decision.posts:
            self.post(message, decision.at, None)
        for run_id in decision.terminate:
            if self._is_child(run_id, run.id):
                self._terminate(run_id, decision.at, None)

    def extend(self, lease: Lease, now: int) -> Extended:
        """Move the end of one lease."""
        run = self._runs.get(lease.run_id)
        if run is None or run.worker is None or run.epoch != lease.epoch:
            return Extended(lease.run_id, is_lost=True)
        progress = run.progress if lease.progress is None else lease.progress
        if lease.until > now:
            self._put(replace(run, due_at=lease.until, updated_at=now, progress=progress))
        else:
            status = PAUSED if run.is_pausing else COMPENSATING if run.status is COMPENSATING else QUEUED
            back = replace(run, status=status, due_at=now, updated_at=now, progress=progress)
            is_admitted = run.is_admitted and status is QUEUED
            self._put(replace(back, worker=None, is_admitted=is_admitted, is_pausing=False))
        return Extended(run.id, is_pausing=run.is_pausing, inbox_seq=run.inbox_seq)

    def control(self, control: Control, now: int) -> Controlled:
        """Do one action, where the run's status allows it."""
        run = self._runs.get(control.run_id)
        if run is None:
            return Controlled(control.run_id)
        if left := untold(control, self._ending(run, control.action)):
            return Controlled(run.id, run.status, run.status, (), run.epoch, left)
        ended: tuple[str, ...] = ()
        match control.action:
            case Action.PAUSE if run.worker is not None:
                self._put(replace(run, is_pausing=True, updated_at=now))
            case Action.PAUSE if run.status in {QUEUED, WAITING, COMPENSATING}:
                self._put(replace(run, status=PAUSED, updated_at=now))
            case Action.RESUME if run.status is PAUSED:
                due_at = now if run.due_at is None else run.due_at
                self._put(replace(run, status=QUEUED, due_at=due_at, updated_at=now))
            case Action.RESUME if run.is_pausing:
                self._put(replace(run, is_pausing=False, updated_at=now))
            case Action.TERMINATE:
                ended = self._terminate(run.id, now, control.notice)
            case Action.RESTART:
                ended = self._restart(run, now)
            case Action.DISCARD if run.status.is_finished:
                self._put(replace(run, expires_at=now, updated_at=now))
            case _:
                pass
        for new in news_of(control, ended):
            self.create(new)
        after = self._runs[run.id]
        return Controlled(run.id, run.status, after.status, ended, after.epoch)

    def _ending(self, run: Run, action: Action) -> tuple[str, ...]:
        """Return the runs that an action would end."""
        if action is Action.RESTART:
            return self._unfinished_below(run.id)
        if action is Action.TERMINATE and not run.status.is_finished:
            return (run.id, *self._unfinished_below(run.id))
        return ()

    def _is_child(self, run_id: str, parent_id: str) -> bool:
        return run_id in self._runs and self._runs[run_id].parent_id == parent_id

    def _terminate(self, run_id: str, now: int, notice: str | None) -> tuple[str, ...]:
        run = self._runs.get(run_id)
        if run is None or run.status.is_finished:
            return ()
        ended = (run_id, *self._end_descendants(run_id, now))
        self._end(run, now)
        if run.parent_id is not None and run.parent_key is not None:
            message = Message(run.parent_id, run_id, "child", run.parent_key, notice, now, "error", ref=run_id)
            self.post(message, now, None)
        return ended

    def _restart(self, run: Run, now: int) -> tuple[str, ...]:
        ended = self._end_descendants(run.id, now)
        self._forget_children(run.id)
        self._forget_dedup(run.id)
        self._read[run.id] = {}
        del self._journals[run.id][1:]
        cleared = replace(run, started_at=None, finished_at=None, expires_at=None, wait=None, state=None, progress=None)
        self._put(
            replace(
                cleared,
                status=QUEUED,
                due_at=now,
                updated_at=now,
                epoch=run.epoch + 1,
                seq=0,
                incarnation=run.incarnation + 1,
                crashes=0,
                journal_length=len(self._journals[run.id]),
                worker=None,
                is_admitted=False,
                is_pausing=False,
            )
        )
        return ended

    def _forget_dedup(self, run_id: str) -> None:
        for key in [key for key, (standing, _) in self._dedups.items() if standing == run_id]:
            del self._dedups[key]

    def _forget_children(self, run_id: str) -> None:
        for box in (self._unread[run_id], self._read[run_id]):
            for message_id in [message.id for message in box.values() if message.kind == "child"]:
                del box[message_id]

    def _end_descendants(self, run_id: str, now: int) -> tuple[str, ...]:
        ended = self._unfinished_below(run_id)
        for below_id in ended:
            self._end(self._runs[below_id], now)
        return ended

    def _unfinished_below(self, run_id: str) -> tuple[str, ...]:
        family, fresh = {run_id}, {run_id}
        while fresh:
            children = {run.id for run in self._runs.values() if run.parent_id in fresh and not run.is_detached}
            fresh = children - family
            family |= fresh
        below = sorted(family - {run_id}, key=self._order.__getitem__)
        return tuple(below_id for below_id in below if not self._runs[below_id].status.is_finished)

    def _end(self, run: Run, now: int) -> None:
        expires_at = _expiry(run, TERMINATED, now)
        over = replace(run, status=TERMINATED, updated_at=now, finished_at=now, expires_at=expires_at, due_at=None)
        over = replace(over, epoch=run.epoch + 1, worker=None, is_admitted=False, is_pausing=False)
        self._put(replace(over, wait=None, progress=None))

    def prune(self, before: int, limit: int) -> int:
        """Remove expired runs."""
        expired = [
            (run.expires_at, self._order[run.id], run.id)
            for run in self._runs.values()
            if run.expires_at is not None and run.expires_at <= before
        ]
        gone = sorted(expired)[:limit]
        for _, _, run_id in gone:
            for rows in (self._runs, self._order, self._journals, self._unread, self._read):
                del rows[run_id]
            self._active.discard(run_id)
            self._forget_dedup(run_id)
        return len(gone)


def _earliest(due_at: int | None, now: int) -> int:
    return now if due_at is None else min(due_at, now)


def _expiry(run: Run, status: RunStatus, finished_at: int) -> int | None:
    kept = run.retention
    ages = {RunStatus.COMPLETE: kept.complete, TERMINATED: kept.terminated}
    age = ages.get(status, kept.errored)
    return None if age is None else finished_at + age
