"""The rows of the reference: runs, journals and inboxes in dictionaries, and whatever only reads or moves them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from perdure.model.archive import Archive, ArchivedMessage, ArchivePage
from perdure.model.decision import CatalogEntry, Message, QueueStats, RunFilter, RunPage, Stats, StoredDefinition
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Run, RunStatus
from perdure.store.finding import matches, place
from perdure.store.reference_documents import Documents

T = TypeVar("T", bound=msgspec.Struct)


class Rows:
    """See the module. The values are frozen but for the tags of a run, which are copied on the way in and out."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._order: dict[str, int] = {}
        self._active: set[str] = set()
        self._journals: dict[str, list[Record]] = {}
        self._unread: dict[str, dict[str, Message]] = {}
        self._read: dict[str, dict[str, Message]] = {}
        self._catalog: dict[tuple[str, str], CatalogEntry] = {}
        self._definitions: dict[tuple[str, str], StoredDefinition] = {}
        self._created = 0
        self.documents = Documents()

    def get(self, run_id: str) -> Run | None:
        """Return one run with its output."""
        run = self._runs.get(run_id)
        if run is None or not run.status.is_finished:
            return run and copied(run)
        last = self._journals[run_id][-1:]
        return replace(copied(run), output=next((record.payload for record in last if record.kind == "output"), None))

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
        return RunPage([copied(run) for _, run in page], last)

    def stats(self, now: int) -> Stats:
        """Count runs."""
        queues = []
        timed = [(at, run) for at, run in self._waiting_for_time({run.queue for run in self._runs.values()}, None)]
        for queue in sorted({run.queue for _, run in timed}):
            here = [(at, run.worker) for at, run in timed if run.queue == queue]
            due = [at for at, _ in here if at <= now]
            later = sum(1 for at, worker in here if at > now and worker is None)
            queues.append(QueueStats(queue, len(due), later, len(here) - len(due) - later, min(due, default=None)))
        return Stats(dict(Counter(run.status for run in self._runs.values())), queues)

    def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """Put workflows into the catalog."""
        self._catalog.update({(entry.workflow, entry.version): entry for entry in entries})

    def catalog(self) -> list[CatalogEntry]:
        """Return the catalog."""
        return [entry for _, entry in sorted(self._catalog.items(), key=lambda item: item[0])]

    def define(self, definition: StoredDefinition) -> StoredDefinition:
        """Keep one definition, unless its name and version are taken; return what is kept under them."""
        return self._definitions.setdefault((definition.name, definition.version), definition)

    def definitions(self) -> list[StoredDefinition]:
        """Return every definition, the earliest first."""
        return sorted(self._definitions.values(), key=lambda kept: (kept.created_at, kept.name, kept.version))

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
        return Archive(copied(run), self.journal(run.id), messages)

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
        self._put(copied(run))
        return True

    def reword(self, rewording: Rewording) -> int:
        """Replace texts by others that say the same; return how many."""
        name, part, texts = rewording.name, rewording.part, rewording.texts
        if rewording.of == "document":
            return self.documents.reword(name, part, texts)
        if rewording.of == "definition":
            definition = self._definitions.get((name, part))
            if definition is None or definition.text not in texts:
                return 0
            self._definitions[name, part] = replace(definition, text=texts[definition.text])
            return 1
        return self._reword_run(name, texts) if name in self._runs else 0

    def _reword_run(self, run_id: str, texts: dict[str, str]) -> int:
        run, count = self._runs[run_id], 0

        def reworded(value: T, *fields: str) -> T:
            nonlocal count
            new = {field: texts[old] for field in fields if (old := getattr(value, field)) in texts}
            count += len(new)
            return replace(value, **new)

        self._put(reworded(run, "fingerprint", "wait", "state", "progress"))
        self._journals[run_id] = [reworded(record, "payload", "ref") for record in self._journals[run_id]]
        self._unread[run_id] = {key: reworded(kept, "payload") for key, kept in self._unread[run_id].items()}
        return count

    def next_due(self, queues: Iterable[str], workflows: Iterable[str] | None) -> int | None:
        """Return when something becomes due."""
        return min((at for at, _ in self._waiting_for_time(queues, workflows)), default=None)

    def _put(self, run: Run) -> None:
        self._runs[run.id] = run
        if run.status.is_finished or run.status is RunStatus.PAUSED or run.due_at is None:
            self._active.discard(run.id)
        else:
            self._active.add(run.id)

    def _due(self, queues: Iterable[str], workflows: Iterable[str] | None, now: int) -> list[Run]:
        """Return the runs that are due, highest priority first, then longest due."""
        waiting = self._waiting_for_time(queues, workflows)
        due = [(-run.priority, at, self._order[run.id], run) for at, run in waiting if at <= now]
        return [run for *_, run in sorted(due, key=lambda entry: entry[:3])]

    def _waiting_for_time(self, queues: Iterable[str], workflows: Iterable[str] | None) -> Iterator[tuple[int, Run]]:
        served, known = set(queues), None if workflows is None else set(workflows)
        for run in map(self._runs.__getitem__, self._active):
            if run.queue in served and (known is None or run.workflow in known) and run.due_at is not None:
                yield run.due_at, run


def copied(run: Run) -> Run:
    """Return a run whose tags are nobody else's."""
    return replace(run, tags=dict(run.tags)) if run.tags else run
