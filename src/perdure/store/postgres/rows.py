"""How the model's values go into statements and come out of rows.

A batch goes in as one array for each column, which `unnest` turns into rows again: so a statement's text is always the
same, and it is prepared once for each connection.

Its plan may be made while the tables are all but empty, when every way through them costs the same, and is kept while
they fill up. So a statement leaves the planner one way, through the index that it is meant for: `LATERAL (… OFFSET 0)`
looks a row up for each row outside; and what is written is found by its id `BETWEEN x AND x`, because by `=` a join
could just as well read the whole index in its order, and because no other index has the id in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.model.decision import Message
from perdure.model.record import Record
from perdure.model.run import Retention, Run, RunStatus

_STATUS = {status.value: status for status in RunStatus}
_NO_TAGS = "{}"
_tags = msgspec.json.Decoder(dict[str, str])

_COLUMN = {
    "retention": "{r}.keep_complete, {r}.keep_errored, {r}.keep_terminated",
    "output": "{output}",
}

RECORD_TYPES = {
    "position": "bigint",
    "key": "text",
    "kind": "text",
    "state": "text",
    "at": "bigint",
    "payload": "text",
    "attempt": "bigint",
    "started_at": "bigint",
    "due_at": "bigint",
    "ref": "text",
    "before": "bigint",
}
"""The columns of a `Record`, with their types."""

RECORD = ", ".join(RECORD_TYPES)
"""The columns of a `Record`, from a row of `records`."""

IS_LEASED = """
    a.worker IS NOT NULL AND a.queue <> ALL(ARRAY(SELECT q.name FROM perdure.queues AS q WHERE q.is_gated)) AS is_leased
"""
"""Whether a new run, a row that the statement calls `a`, is leased to its worker at once."""

MADE = """made AS (
    INSERT INTO perdure.runs (
        n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at, started_at,
        epoch, seq, incarnation, crashes, journal_length, inbox_seq, worker, is_pausing,
        parent_id, parent_key, is_detached, depth, fingerprint, tags, keep_complete, keep_errored, keep_terminated,
        limit_key)
    SELECT
        n, id, workflow, version, queue, CASE WHEN is_leased THEN 'running' ELSE 'queued' END, priority,
        created_at, created_at, CASE WHEN is_leased OR worker IS NULL THEN due_at ELSE created_at END,
        CASE WHEN is_leased THEN created_at END,
        CASE WHEN is_leased THEN 1 ELSE 0 END, 0, 0, 0, length, 0, CASE WHEN is_leased THEN worker END, false,
        parent_id, parent_key, is_detached, depth, fingerprint, CAST(tags AS jsonb), keep_complete, keep_errored,
        keep_terminated, limit_key
    FROM asked ORDER BY place
    ON CONFLICT (id) DO NOTHING
    RETURNING n, id, worker IS NOT NULL AS is_leased
)"""
"""The part of a statement that inserts the new runs whose ids are free, from its rows `asked`; see `dedups`."""

MESSAGE = "m.id, m.kind, m.type, m.payload, m.at, m.state, m.ref, m.seq"
"""The columns of a `Message` behind its run's id, from a row of `inbox` that the statement calls `m`."""


def run_columns(r: str, output: str = "NULL::text") -> str:
    """Return the columns of a `Run`, from a row of `runs` that the statement calls `r`; `run_of` reads them."""
    return ", ".join(_COLUMN.get(name, f"{{r}}.{name}").format(r=r, output=output) for name in Run.__struct_fields__)


_STATUS_AT = Run.__struct_fields__.index("status")
_TAGS_AT = Run.__struct_fields__.index("tags")
_RETENTION_AT = Run.__struct_fields__.index("retention")
WIDTH = len(Run.__struct_fields__) + 2
"""How many columns `run_columns` are."""


def run_of(row: Any, first: int = 0) -> Run:
    """Return the run in the columns of a row that begin at `first`."""
    values = list(row[first : first + WIDTH])
    values[_STATUS_AT] = _STATUS[values[_STATUS_AT]]
    tags = values[_TAGS_AT]
    values[_TAGS_AT] = {} if tags == _NO_TAGS else _tags.decode(tags)
    values[_RETENTION_AT : _RETENTION_AT + 3] = [Retention(*values[_RETENTION_AT : _RETENTION_AT + 3])]
    return Run(*values)


def record_of(row: Any, first: int = 0) -> Record:
    """Return the record in the columns of a row that begin at `first`."""
    return Record(*row[first : first + 11])


def message_of(run_id: str, row: Any, first: int = 0) -> Message:
    """Return a run's message from the columns of a row that begin at `first`."""
    return Message(run_id, *row[first : first + 8])


def columns(rows: Sequence[Sequence[Any]], width: int) -> Iterable[Sequence[Any]]:
    """Return rows as the arrays that a statement takes, one for each column; empty ones for no rows."""
    return zip(*rows, strict=True) if rows else [()] * width


def arrays(first: int, types: Iterable[str]) -> str:
    """Return the arguments of `unnest` for arrays of these types, from the parameter of this number on."""
    return ", ".join(f"${number}::{name}" for number, name in enumerate(types, first))


def table(first: int, types: Mapping[str, str]) -> str:
    """Return the SQL of a table that goes in as `packed` says, with the number of each row as its last column, `place`.

    Args:
        first: the number of its first parameter; it takes two for each column but the first.
        types: of its columns, by name.
    """
    names = list(types)
    shared = enumerate(names[1:], first + len(names))
    fields = [f"u.{names[0]}", *(f"coalesce(u.{name}, ${at}::{types[name]}) AS {name}" for at, name in shared)]
    lists = arrays(first, (f"{name}[]" for name in types.values()))
    return (
        f"(SELECT {', '.join(fields)}, u.place FROM unnest({lists}) WITH ORDINALITY AS u ({', '.join(names)}, place))"
    )


def packed(rows: Sequence[Sequence[Any]], width: int) -> list[Any]:
    """Return the arguments of a `table`: an array for each column, then a value for each but the first.

    A column of which all rows have the same, as most do, goes in as that value beside an empty array: each element of
    an array costs the driver more than all else that is done with it. The first column is an array always.
    """
    lists: list[Sequence[Any]] = []
    values: list[Any] = []
    for column in columns(rows, width):
        is_shared = bool(lists) and bool(rows) and column.count(column[0]) == len(column)
        lists.append(() if is_shared else column)
        values.append(column[0] if is_shared else None)
    return [*lists, *values[1:]]
