"""How runs, records and messages are kept: between the values of the model and what is in the keys."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec

from perdure.model.decision import Message, MessageKind
from perdure.model.record import Record
from perdure.model.run import NewRun, Retention, Run, RunStatus

STATUS = {
    RunStatus.QUEUED: "q",
    RunStatus.RUNNING: "r",
    RunStatus.WAITING: "w",
    RunStatus.PAUSED: "p",
    RunStatus.COMPLETE: "c",
    RunStatus.ERRORED: "e",
    RunStatus.TERMINATED: "t",
    RunStatus.COMPENSATING: "u",
    RunStatus.COMPENSATED: "d",
    RunStatus.COMPENSATION_FAILED: "f",
}
STATUS_OF = {letter: status for status, letter in STATUS.items()}
CLASS_OF = {"c": "c", "e": "e", "t": "t", "d": "e"}
"""The classes by which ended runs are found, by letter; those that have not ended are `a`."""

LETTER = {"event": "e", "child": "c"}
_KIND: dict[int, MessageKind] = {ord("e"): "event", ord("c"): "child", ord("E"): "event", ord("C"): "child"}


class Static(msgspec.Struct, array_like=True, gc=False):
    """What no script looks at."""

    version: str
    depth: int
    fingerprint: str
    tags: dict[str, str]


_NAMES = {
    "id": "y",
    "static": "s",
    "workflow": "w",
    "queue": "q",
    "retention": "h",
    "created_at": "a",
    "updated_at": "t",
    "status": "S",
    "journal_length": "j",
    "priority": "p",
    "parent_id": "P",
    "parent_key": "K",
    "is_detached": "D",
    "due_at": "d",
    "started_at": "b",
    "finished_at": "f",
    "expires_at": "x",
    "epoch": "e",
    "seq": "i",
    "crashes": "c",
    "incarnation": "I",
    "inbox_seq": "m",
    "unread": "u",
    "from_children": "k",
    "worker": "o",
    "is_pausing": "z",
    "wait": "W",
    "state": "T",
    "progress": "g",
    "is_gone": "G",
    "limit_key": "L",
    "is_admitted": "A",
    "dedup": "U",
}


class Row(msgspec.Struct, omit_defaults=True, gc=False, rename=_NAMES):
    """A run as it is kept; what is not there has its default. The names in the row are the letters above.

    Attributes:
        static: a `Static`, as JSON text.
        retention: the three ages in milliseconds, between commas; nothing for ever.
        status: its letter, see `STATUS`.
        unread: how many unread messages there are.
        from_children: at least how many messages of children there are.
        is_gone: whether it was pruned, and not all of what belongs to it is removed yet.
        limit_key: None for an empty one.
        dedup: the dedup key that it was created with; another run may have it by now.
    """

    id: str
    static: str
    workflow: str
    queue: str
    retention: str
    created_at: int
    updated_at: int
    status: str
    journal_length: int
    priority: int = 0
    parent_id: str | None = None
    parent_key: str | None = None
    is_detached: bool = False
    due_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    expires_at: int | None = None
    epoch: int = 0
    seq: int = 0
    crashes: int = 0
    incarnation: int = 0
    inbox_seq: int = 0
    unread: int = 0
    from_children: int = 0
    worker: str | None = None
    is_pausing: bool = False
    wait: str | None = None
    state: str | None = None
    progress: str | None = None
    is_gone: bool = False
    limit_key: str | None = None
    is_admitted: bool = False
    dedup: str | None = None


class _Content(msgspec.Struct, array_like=True, gc=False):
    """A message without what its field says."""

    type: str
    payload: str | None
    at: int
    state: str
    ref: str | None


pack = msgspec.msgpack.Encoder().encode
row_of = msgspec.msgpack.Decoder(Row).decode
record_of = msgspec.msgpack.Decoder(Record).decode
_static_of = msgspec.json.Decoder(Static).decode
_content_of = msgspec.msgpack.Decoder(_Content).decode


def new_row(new: NewRun) -> bytes:
    """Return the row of a run that is created."""
    is_leased = new.worker is not None
    return pack(
        Row(
            new.id,
            _static(new.version, new.depth, new.fingerprint, new.tags),
            new.workflow,
            new.queue,
            _ages(new.retention),
            new.created_at,
            new.created_at,
            "r" if is_leased else "q",
            len(new.records),
            new.priority,
            new.parent_id,
            new.parent_key,
            new.is_detached,
            new.due_at,
            new.created_at if is_leased else None,
            epoch=1 if is_leased else 0,
            worker=new.worker,
            limit_key=new.limit_key or None,
            dedup=None if new.dedup is None else new.dedup.key,
        )
    )


def row_from(run: Run, unread: Sequence[Message], messages: Sequence[Message]) -> bytes:
    """Return the row of a run that came from another store with these messages."""
    return pack(
        Row(
            id=run.id,
            static=_static(run.version, run.depth, run.fingerprint, run.tags),
            workflow=run.workflow,
            queue=run.queue,
            retention=_ages(run.retention),
            created_at=run.created_at,
            updated_at=run.updated_at,
            status=STATUS[run.status],
            journal_length=run.journal_length,
            priority=run.priority,
            parent_id=run.parent_id,
            parent_key=run.parent_key,
            is_detached=run.is_detached,
            due_at=run.due_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            expires_at=run.expires_at,
            epoch=run.epoch,
            seq=run.seq,
            crashes=run.crashes,
            incarnation=run.incarnation,
            inbox_seq=run.inbox_seq,
            unread=len(unread),
            from_children=sum(message.kind == "child" for message in messages),
            worker=run.worker,
            is_pausing=run.is_pausing,
            wait=run.wait,
            state=run.state,
            progress=run.progress,
            limit_key=run.limit_key or None,
            is_admitted=run.is_admitted,
        )
    )


def run_from(row: Row, output: str | None = None) -> Run:
    """Return the run of a row."""
    static = _static_of(row.static)
    return Run(
        row.id,
        row.workflow,
        STATUS_OF[row.status],
        row.created_at,
        row.updated_at,
        static.version,
        row.queue,
        row.priority,
        row.due_at,
        row.started_at,
        row.finished_at,
        row.expires_at,
        row.epoch,
        row.seq,
        row.incarnation,
        row.crashes,
        row.journal_length,
        row.inbox_seq,
        row.worker,
        row.is_pausing,
        row.parent_id,
        row.parent_key,
        row.is_detached,
        static.depth,
        static.fingerprint,
        static.tags,
        _retention(row.retention),
        row.limit_key or "",
        row.is_admitted,
        row.wait,
        row.state,
        row.progress,
        output,
    )


def name_of(packed: bytes) -> tuple[str, str]:
    """Return the id and the fingerprint in a packed row."""
    row = row_of(packed)
    return row.id, _static_of(row.static).fingerprint


def output_of(packed: bytes | None) -> str | None:
    """Return the output, if this last record of an ended run is that."""
    if packed is None:
        return None
    record = record_of(packed)
    return record.payload if record.kind == "output" else None


def message_text(message: Message) -> bytes:
    """Return what is kept of a message behind its kind and id."""
    return b"\0" + pack((message.type, message.payload, message.at, message.state, message.ref))


def message_of(run_id: str, seq: int, kept: bytes) -> tuple[Message, bool]:
    """Return a message as it is kept in a run's inbox, and whether it was read."""
    kind = _KIND[kept[0]]
    if kept[0] < ord("a"):
        return Message(run_id, kept[1:].decode(), kind, "", None, 0, seq=seq), True
    message_id, _, rest = kept.partition(b"\0")
    content = _content_of(rest)
    return Message(
        run_id,
        message_id[1:].decode(),
        kind,
        content.type,
        content.payload,
        content.at,
        content.state,  # type: ignore[arg-type]  # one of two texts, as it was written
        content.ref,
        seq,
    ), False


def messages_of(run_id: str, pairs: Sequence[int | bytes]) -> list[Message]:
    """Return the messages of a list of seq, message, seq, message and so on."""
    return [
        message_of(run_id, seq, kept)[0]  # type: ignore[arg-type]  # they take turns
        for seq, kept in zip(pairs[::2], pairs[1::2], strict=True)
    ]


def _static(version: str, depth: int, fingerprint: str, tags: dict[str, str]) -> str:
    return msgspec.json.encode((version, depth, fingerprint, tags)).decode()


@functools.lru_cache(maxsize=256)
def _ages(retention: Retention) -> str:
    ages = (retention.complete, retention.errored, retention.terminated)
    return ",".join("" if age is None else str(age) for age in ages)


@functools.lru_cache(maxsize=256)
def _retention(ages: str) -> Retention:
    return Retention(*(int(age) if age else None for age in ages.split(",")))
