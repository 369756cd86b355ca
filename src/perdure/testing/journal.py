"""A run's journal as a file: recorded where runs really run, read back where code is tested."""

from __future__ import annotations

from pathlib import Path

import msgspec

from perdure.engine.client.handle import RunHandle
from perdure.model.errors import UsageError
from perdure.model.record import Kind, Record, State
from perdure.model.run import Run, RunStatus

FORMAT = 1
"""Of the file. A reader refuses a greater one."""


class Recording(msgspec.Struct, frozen=True):
    """A run and its whole journal, the input first."""

    run: Run
    journal: list[Record]


class _RunPart(msgspec.Struct, omit_defaults=True):
    """What a replay can see of a run; see `perdure.model.run.Run`."""

    id: str
    workflow: str
    status: RunStatus
    created_at: int
    version: str = ""
    started_at: int | None = None
    incarnation: int = 0
    depth: int = 0


class _Entry(msgspec.Struct, omit_defaults=True):
    """A record, by names, its payload as the JSON it is; see `perdure.model.record.Record`."""

    key: str
    kind: Kind
    state: State
    at: int
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    attempt: int = 1
    started_at: int | None = None
    due_at: int | None = None
    ref: str | None = None
    before: int | None = None


class _File(msgspec.Struct):
    perdure: int
    run: _RunPart
    journal: list[_Entry]


async def export_journal(run: RunHandle[object], path: str | Path | None = None) -> bytes:
    """Return a run's journal as indented JSON, for `replay_journal`.

    It holds inputs and results as they are stored: look at it before you commit it.

    Args:
        run: a run of any store, finished or not.
        path: a file to write it to as well.

    Raises:
        RunNotFoundError: there is no such run.
    """
    row = await run.get()
    records = await run.journal()
    part = _RunPart(
        row.id,
        row.workflow,
        row.status,
        row.created_at,
        row.version,
        row.started_at,
        row.incarnation,
        row.depth,
    )
    data = msgspec.json.encode(_File(FORMAT, part, [_entry(record) for record in records]))
    data = msgspec.json.format(data, indent=2) + b"\n"
    if path is not None:
        Path(path).write_bytes(data)  # noqa: ASYNC240  # a small file, for a person at a prompt
    return data


def read_journal(source: str | Path | bytes) -> Recording:
    """Return what `export_journal` wrote.

    Args:
        source: a path, or the exported bytes themselves.

    Raises:
        UsageError: it is no exported journal, or a newer Perdure wrote it.
    """
    what = "the journal" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("perdure", msgspec.Raw(b"0"))
        if msgspec.json.decode(version, type=int) > FORMAT:
            raise UsageError(f"{what} was exported by a newer Perdure: update this one to read it")
        file = msgspec.json.decode(data, type=_File)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{what} is no exported journal: {error}") from error
    journal = [_record(position, entry) for position, entry in enumerate(file.journal)]
    if not journal or journal[0].kind != "input":
        raise UsageError(f"{what} is no exported journal: it does not begin with an input")
    part = file.run
    run = Run(
        part.id,
        part.workflow,
        part.status,
        part.created_at,
        part.created_at,
        version=part.version,
        started_at=part.started_at,
        incarnation=part.incarnation,
        depth=part.depth,
        journal_length=len(journal),
    )
    return Recording(run, journal)


def _entry(record: Record) -> _Entry:
    payload = msgspec.UNSET if record.payload is None else msgspec.Raw(record.payload.encode())
    return _Entry(
        record.key,
        record.kind,
        record.state,
        record.at,
        payload,
        record.attempt,
        record.started_at,
        record.due_at,
        record.ref,
        record.before,
    )


def _record(position: int, entry: _Entry) -> Record:
    payload = None if entry.payload is msgspec.UNSET else bytes(entry.payload).decode()
    return Record(
        position,
        entry.key,
        entry.kind,
        entry.state,
        entry.at,
        payload,
        entry.attempt,
        entry.started_at,
        entry.due_at,
        entry.ref,
        entry.before,
    )
