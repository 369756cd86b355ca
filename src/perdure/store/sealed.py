"""What of the model's values is sealed in a store that is encrypted, and for which place.

Sealed is what users' data may be in: payloads, errors among them, the progress of steps, what a run waits for and has
made readable, fingerprints, definitions and documents. In the clear stay ids, names, keys, tags, versions and times,
which stores find and order runs by, and the schemas that workers announce.

A store copies a few texts by itself. What it copies them into is known beforehand, and they are sealed for that: the
refusal of a child, and the notice of a run that is terminated, for the message that its parent gets. The input of a run
with a replacing `Dedup` may become that of another run with this key: it is sealed for both (see `Owner`).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from perdure.model.archive import Archive, ArchivedMessage
from perdure.model.decision import Claim, Committed, Control, Decision, Lease, Message, StoredDefinition
from perdure.model.document import Document
from perdure.model.encryption import unreadable
from perdure.model.errors import DecryptionError
from perdure.model.limits import DOCUMENT_BYTES
from perdure.model.record import Record
from perdure.model.run import Created, NewRun, Run
from perdure.store.journal import refusal
from perdure.store.sealing import Owner, Sealer


class SealedDocument(Document, frozen=True, gc=False):
    """A document whose text is sealed, and longer by that."""

    most_bytes = 2 * DOCUMENT_BYTES


class Values:
    """Seals values on their way into a store, and opens them on their way out.

    Args:
        sealer: does it text by text.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    # Into the store.

    def new_run(self, new: NewRun, parent_id: str | None = None, at: int = 0) -> NewRun:
        """Seal a run; a child's `refusal` for the parent in whose decision of this time it is."""
        owner = Owner(new.id, is_shared=new.dedup is not None and new.dedup.is_replacing)
        told = None if parent_id is None else self.message(refusal(parent_id, new, at)).payload
        return replace(
            new,
            records=self._records(owner, new.records),
            fingerprint=self._sealer.seal(new.fingerprint, owner, "fingerprint"),
            refusal=told,
        )

    def message(self, message: Message) -> Message:
        """Seal a message."""
        place = ("message", message.id, message.kind, message.type, message.state)
        return replace(message, payload=self._text(message.payload, Owner(message.run_id), *place))

    def decision(self, decision: Decision) -> Decision:
        """Seal a decision."""
        owner = Owner(decision.run_id)
        return replace(
            decision,
            records=self._records(owner, decision.records),
            children=tuple(self.new_run(child, decision.run_id, decision.at) for child in decision.children),
            posts=tuple(map(self.message, decision.posts)),
            wait=self._text(decision.wait, owner, "wait"),
            state=self._text(decision.state, owner, "state"),
            renew=None if decision.renew is None else self._records(owner, decision.renew),
        )

    def lease(self, lease: Lease) -> Lease:
        """Seal the progress that goes with a lease."""
        return replace(lease, progress=self._text(lease.progress, Owner(lease.run_id), "progress"))

    def control(self, action: Control, run: Run | None) -> Control:
        """Seal what is told of the ends of runs; `run` is the run itself, as it is stored."""
        if action.told is not None:
            told = {run_id: tuple(map(self.new_run, news)) for run_id, news in action.told.items()}
            action = replace(action, told=told)
        if action.notice is None or run is None or run.parent_id is None or run.parent_key is None:
            return replace(action, notice=None)
        notice = Message(run.parent_id, run.id, "child", run.parent_key, action.notice, 0, "error", ref=run.id)
        return replace(action, notice=self.message(notice).payload)

    def definition(self, definition: StoredDefinition) -> StoredDefinition:
        """Seal a definition."""
        text = self._sealer.seal(definition.text, Owner(definition.name), "definition", definition.version)
        return replace(definition, text=text)

    def document(self, document: Document) -> Document:
        """Seal a document that is to be put."""
        place = ("document", document.key, document.revision + 1, document.at)
        text = self._text(document.text, Owner(document.collection), *place)
        return SealedDocument(document.collection, document.key, text, document.revision, document.at)

    def archive(self, archive: Archive) -> Archive:
        """Seal a run whole."""
        run, owner = archive.run, Owner(archive.run.id)
        return Archive(
            replace(
                run,
                fingerprint=self._sealer.seal(run.fingerprint, owner, "fingerprint"),
                wait=self._text(run.wait, owner, "wait"),
                state=self._text(run.state, owner, "state"),
                progress=self._text(run.progress, owner, "progress"),
            ),
            list(self._records(owner, archive.journal)),
            [ArchivedMessage(self.message(kept.message), kept.is_read) for kept in archive.messages],
        )

    def _records(self, owner: Owner, records: Sequence[Record]) -> tuple[Record, ...]:
        return tuple(
            replace(
                record,
                payload=self._text(record.payload, owner, *_place(record)),
                ref=self._text(record.ref, owner, "ref", *_place(record)) if _has_data(record) else record.ref,
            )
            for record in records
        )

    def _text(self, text: str | None, owner: Owner, *place: object) -> str | None:
        return None if text is None else self._sealer.seal(text, owner, *place)

    # Out of the store.

    def opened_run(self, run: Run) -> Run:
        """Open a run. What cannot be is left out, but for an output: who reads that is told why."""
        opened, output = self._row(run, []), run.output
        if output is None:
            return opened
        try:
            output = self._opened(output, Owner(run.id), "output", run.journal_length - 1)
        except DecryptionError as error:
            output = unreadable(str(error))
        return replace(opened, output=output)

    def opened_claim(self, claim: Claim) -> Claim:
        """Open a claim; where some of it cannot be, it says so, and is empty but for its first record."""
        run, reasons = claim.run, list[str]()
        opened = self._row(run, reasons)
        try:
            journal = self.opened_records(run.id, claim.journal)
            inbox = list(map(self.opened_message, claim.inbox))
        except DecryptionError as error:
            reasons.append(str(error))
        if not reasons:
            return Claim(opened, journal, inbox)
        return Claim(opened, [replace(record, payload=None, ref=None) for record in claim.journal[:1]], [], reasons[0])

    def opened_commit(self, committed: Committed) -> Committed:
        """Open the messages that a commit told of; where one cannot be, the run is lost, to be parked when claimed."""
        try:
            return replace(committed, arrived=tuple(map(self.opened_message, committed.arrived)))
        except DecryptionError:
            return Committed(committed.run_id, is_lost=True)

    def opened_created(self, created: Created) -> Created:
        """Open the fingerprint of what was created, or stands for it; one that cannot be is like no other."""
        try:
            return replace(
                created, fingerprint=self._opened(created.fingerprint, Owner(created.id), "fingerprint") or ""
            )
        except DecryptionError as error:
            return replace(created, fingerprint=unreadable(str(error)))

    def opened_records(self, run_id: str, records: Sequence[Record]) -> list[Record]:
        """Open a journal, or a part of it.

        Raises:
            DecryptionError: a record cannot be.
        """
        owner = Owner(run_id)
        return [
            replace(
                record,
                payload=self._opened(record.payload, owner, *_place(record)),
                ref=self._opened(record.ref, owner, "ref", *_place(record)) if _has_data(record) else record.ref,
            )
            for record in records
        ]

    def opened_message(self, message: Message) -> Message:
        """Open a message.

        Raises:
            DecryptionError: it cannot be.
        """
        place = ("message", message.id, message.kind, message.type, message.state)
        return replace(message, payload=self._opened(message.payload, Owner(message.run_id), *place))

    def opened_definition(self, definition: StoredDefinition) -> StoredDefinition:
        """Open a definition.

        Raises:
            DecryptionError: it cannot be.
        """
        text = self._sealer.open(definition.text, Owner(definition.name), "definition", definition.version)
        return replace(definition, text=text)

    def opened_document(self, document: Document) -> Document:
        """Open a document.

        Raises:
            DecryptionError: it cannot be.
        """
        place = ("document", document.key, document.revision, document.at)
        text = self._opened(document.text, Owner(document.collection), *place)
        return Document(document.collection, document.key, text, document.revision, document.at)

    def opened_archive(self, archive: Archive) -> Archive:
        """Open a run whole.

        Raises:
            DecryptionError: some of it cannot be.
        """
        reasons: list[str] = []
        run = self._row(archive.run, reasons)
        if reasons:
            raise DecryptionError(reasons[0])
        messages = [ArchivedMessage(self.opened_message(kept.message), kept.is_read) for kept in archive.messages]
        return Archive(run, self.opened_records(run.id, archive.journal), messages)

    def _row(self, run: Run, reasons: list[str]) -> Run:
        """Open what stands in a run's row; leave out what cannot be, and add why to the reasons."""
        owner = Owner(run.id)

        def opened(text: str | None, field: str) -> str | None:
            try:
                return self._opened(text, owner, field)
            except DecryptionError as error:
                reasons.append(str(error))
                return None

        return replace(
            run,
            fingerprint=opened(run.fingerprint, "fingerprint") or "",
            wait=opened(run.wait, "wait"),
            state=opened(run.state, "state"),
            progress=opened(run.progress, "progress"),
        )

    def _opened(self, text: str | None, owner: Owner, *place: object) -> str | None:
        return None if text is None else self._sealer.open(text, owner, *place)


def _place(record: Record) -> tuple[object, ...]:
    """Return what a record is told from others by; of the output, which `Run` holds too, that is its position."""
    if record.kind == "output":
        return "output", record.position
    return "record", record.key, record.kind, record.state, record.position, record.at, record.attempt


def _has_data(record: Record) -> bool:
    """Return whether what a record refers to is data, and not the id of a message or of a run."""
    return record.kind in ("step", "input")
