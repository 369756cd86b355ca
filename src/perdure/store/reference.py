"""What the contract means, as plain code over dictionaries: the inside of the memory store, measure of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from perdure.model.archive import Archive, ArchivedMessage, ArchivePage
from perdure.model.decision import (
    Action,
    CatalogEntry,
    Claim,
    Committed,
    Control,
    Controlled,
    Decision,
    Extended,
    Lease,
    Message,
    Posted,
    QueueStats,
    RunFilter,
    RunPage,
    Stats,
)
from perdure.model.record import Record
from perdure.model.run import Created, NewRun, Run, RunStatus
from perdure.store.finding import matches, place
from perdure.store.journal import refusal, require_following

QUEUED, RUNNING, WAITING = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING
PAUSED, TERMINATED = RunStatus.PAUSED, RunStatus.TERMINATED


class Reference:
    """Runs, journals and inboxes in dictionaries. One caller at a time.

    The values are frozen but for the tags of a run, which are copied on the way in and on the way out.
    """

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._order: dict[str, int] = {}
        self._active: set[str] = set()
        self._journals: dict[str, list[Record]] = {}
        self._unread: dict[str, dict[str, Message]] = {}
        self._read: dict[str, dict[str, Message]] = {}
        self._catalog: dict[tuple[str, str], CatalogEntry] = {}
        self._created = 0

    def create(self, new: NewRun) -> Created:
        """Create one run, or say who has its id."""
        there = self._runs.get(new.id)
        if there is not None:
            return Created(there.id, is_new=False, fingerprint=there.fingerprint)
        self._created += 1
        self._order[new.id] = self._created
        self._journals[new.id] = list(new.records)
        self._unread[new.id], self._read[new.id] = {}, {}
        is_leased = new.worker is not None
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
                due_at=new.due_at,
                epoch=1 if is_leased else 0,
                journal_length=len(new.records),
                worker=new.worker,
                parent_id=new.parent_id,
                parent_key=new.parent_key,
                is_detached=new.is_detached,
                depth=new.depth,
                fingerprint=new.fingerprint,
                tags=dict(new.tags),
                retention=new.retention,
            )
        )
        return Created(new.id, is_new=True, fingerprint=new.fingerprint)

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
        due_at = run.due_at if run.status is RUNNING else _earliest(run.due_at, now)
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
        waiting = self._waiting_for_time(queues, workflows)
        due = [(-run.priority, at, self._order[run.id], run) for at, run in waiting if at <= now]
        claims = []
        for _, _, _, run in sorted(due, key=lambda entry: entry[:3])[:limit]:
            leased = replace(
                run,
                status=RUNNING,
                worker=worker,
                due_at=until,
                updated_at=now,
                started_at=now if run.started_at is None else run.started_at,
                epoch=run.epoch + 1,
                seq=0,
                crashes=run.crashes + (run.status is RUNNING),
            )
            self._put(leased)
            claims.append(Claim(_copy(leased), self.journal(run.id), self.inbox(run.id)))
        return claims

    def commit(self, decision: Decision) -> Committed:
        """Carry one decision out, acknowledge it again, or refuse it."""
        run = self._runs.get(decision.run_id)
        if run is None or run.epoch != decision.epoch:
            return Committed(decision.run_id, is_lost=True)
        if run.seq < decision.seq:
            if run.status is not RUNNING or run.seq != decision.seq - 1:
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
        is_leased, is_finished = decision.status is RUNNING, decision.status.is_finished
        is_paused = run.is_pausing and decision.status in {QUEUED, WAITING}
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
                is_pausing=run.is_pausing and is_leased,
                wait=decision.wait,
                state=run.state if decision.state is None else decision.state,
                progress=None if is_finished or decision.renew is not None else run.progress,
            )
        )
        for child in decision.children:
            if not self.create(child).is_new:
                self.post(refusal(run.id, child, decision.at), decision.at, None)
        for message in decision.posts:
            self.post(message, decision.at, None)
        for run_id in decision.terminate:
            self._terminate(run_id, decision.at, None)

    def extend(self, lease: Lease, now: int) -> Extended:
        """Move the end of one lease."""
        run = self._runs.get(lease.run_id)
        if run is None or run.status is not RUNNING or run.epoch != lease.epoch:
            return Extended(lease.run_id, is_lost=True)
        progress = run.progress if lease.progress is None else lease.progress
        if lease.until > now:
            self._put(replace(run, due_at=lease.until, updated_at=now, progress=progress))
        else:
            status = PAUSED if run.is_pausing else QUEUED
            back = replace(run, status=status, due_at=now, updated_at=now, progress=progress, worker=None)
            self._put(replace(back, is_pausing=False))
        return Extended(run.id, is_pausing=run.is_pausing, inbox_seq=run.inbox_seq)

    def control(self, control: Control, now: int) -> Controlled:
        """Do one action, where the run's status allows it."""
        run = self._runs.get(control.run_id)
        if run is None:
            return Controlled(control.run_id)
        ended: tuple[str, ...] = ()
        match control.action:
            case Action.PAUSE if run.status is RUNNING:
                self._put(replace(run, is_pausing=True, updated_at=now))
            case Action.PAUSE if run.status in {QUEUED, WAITING}:
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
            case _:
                pass
        after = self._runs[run.id]
        return Controlled(run.id, run.status, after.status, ended, after.epoch)

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
                is_pausing=False,
            )
        )
        return ended

    def _forget_children(self, run_id: str) -> None:
        for box in (self._unread[run_id], self._read[run_id]):
            for message_id in [message.id for message in box.values() if message.kind == "child"]:
                del box[message_id]

    def _end_descendants(self, run_id: str, now: int) -> tuple[str, ...]:
        family, fresh = {run_id}, {run_id}
        while fresh:
            children = {run.id for run in self._runs.values() if run.parent_id in fresh and not run.is_detached}
            fresh = children - family
            family |= fresh
        below = sorted(family - {run_id}, key=self._order.__getitem__)
        ended = tuple(below_id for below_id in below if not self._runs[below_id].status.is_finished)
        for below_id in ended:
            self._end(self._runs[below_id], now)
        return ended

    def _end(self, run: Run, now: int) -> None:
        expires_at = _expiry(run, TERMINATED, now)
        over = replace(run, status=TERMINATED, updated_at=now, finished_at=now, expires_at=expires_at, due_at=None)
        self._put(replace(over, epoch=run.epoch + 1, worker=None, is_pausing=False, wait=None, progress=None))

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
        return len(gone)

    def get(self, run_id: str) -> Run | None:
        """Return one run with its output."""
        run = self._runs.get(run_id)
        if run is None or not run.status.is_finished:
            return run and _copy(run)
        last = self._journals[run_id][-1:]
        return replace(_copy(run), output=next((record.payload for record in last if record.kind == "output"), None))

    def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """Return a run's records behind a position."""
        return self._journals.get(run_id, [])[after + 1 :][:limit]

    def inbox(self, run_id: str) -> list[Message]:
        """Return a run's unread messages by seq."""
        return list(self._unread.get(run_id, {}).values())

    def find(self, where: RunFilter, limit: int, cursor: str | None) -> RunPage:
        """Return a page of runs, latest created first."""
        before = None if cursor is None else place(cursor, 2)
        keyed = [((run.created_at, self._order[run.id]), run) for run in self._runs.values() if matches(run, where)]
        keyed.sort(key=lambda entry: entry[0], reverse=True)
        rest = [entry for entry in keyed if before is None or entry[0] < before]
        page = rest[:limit]
        last = f"{page[-1][0][0]}:{page[-1][0][1]}" if page and len(rest) > limit else None
        return RunPage([_copy(run) for _, run in page], last)

    def stats(self, now: int) -> Stats:
        """Count runs."""
        queues = []
        timed = [(at, run) for at, run in self._waiting_for_time({run.queue for run in self._runs.values()}, None)]
        for queue in sorted({run.queue for _, run in timed}):
            here = [(at, run.status) for at, run in timed if run.queue == queue]
            due = [at for at, _ in here if at <= now]
            later = sum(1 for at, status in here if at > now and status is not RUNNING)
            queues.append(QueueStats(queue, len(due), later, len(here) - len(due) - later, min(due, default=None)))
        return Stats(dict(Counter(run.status for run in self._runs.values())), queues)

    def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """Put workflows into the catalog."""
        self._catalog.update({(entry.workflow, entry.version): entry for entry in entries})

    def catalog(self) -> list[CatalogEntry]:
        """Return the catalog."""
        return [entry for _, entry in sorted(self._catalog.items(), key=lambda item: item[0])]

    def dump(self, limit: int, cursor: str | None) -> ArchivePage:
        """Return a page of whole runs, first created first."""
        (after,) = (0,) if cursor is None else place(cursor, 1)
        rest = sorted((order, run_id) for run_id, order in self._order.items() if order > after)
        page = rest[:limit]
        archives = [self._archive(self._runs[run_id]) for _, run_id in page]
        return ArchivePage(archives, str(page[-1][0]) if len(rest) > len(page) > 0 else None)

    def _archive(self, run: Run) -> Archive:
        unread = [ArchivedMessage(message) for message in self._unread[run.id].values()]
        read = [ArchivedMessage(message, is_read=True) for message in self._read[run.id].values()]
        messages = sorted(unread + read, key=lambda kept: kept.message.seq)
        return Archive(_copy(run), self.journal(run.id), messages)

    def load(self, archive: Archive) -> bool:
        """Keep one whole run, unless its id is here; say whether it was new."""
        run = archive.run
        if run.id in self._runs:
            return False
        self._created += 1
        self._order[run.id] = self._created
        self._journals[run.id] = list(archive.journal)
        self._unread[run.id] = {kept.message.id: kept.message for kept in archive.messages if not kept.is_read}
        self._read[run.id] = {kept.message.id: kept.message for kept in archive.messages if kept.is_read}
        self._put(_copy(run))
        return True

    def next_due(self, queues: Iterable[str], workflows: Iterable[str] | None) -> int | None:
        """Return when something becomes due."""
        return min((at for at, _ in self._waiting_for_time(queues, workflows)), default=None)

    def _put(self, run: Run) -> None:
        self._runs[run.id] = run
        if run.status in {QUEUED, WAITING, RUNNING} and run.due_at is not None:
            self._active.add(run.id)
        else:
            self._active.discard(run.id)

    def _waiting_for_time(self, queues: Iterable[str], workflows: Iterable[str] | None) -> Iterator[tuple[int, Run]]:
        served, known = set(queues), None if workflows is None else set(workflows)
        for run in map(self._runs.__getitem__, self._active):
            if run.queue in served and (known is None or run.workflow in known) and run.due_at is not None:
                yield run.due_at, run


def _copy(run: Run) -> Run:
    return replace(run, tags=dict(run.tags)) if run.tags else run


def _earliest(due_at: int | None, now: int) -> int:
    return now if due_at is None else min(due_at, now)


def _expiry(run: Run, status: RunStatus, finished_at: int) -> int | None:
    age: int | None = getattr(run.retention, status.value)
    return None if age is None else finished_at + age
