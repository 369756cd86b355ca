"""Reads what SQLite and PostgreSQL keep with plain SQL; what stands where, their migrations say."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import apsw
import psycopg

from tests.crash.kept import ENDED, Kept, Row, Stored

RUNS = "SELECT n, id, status, epoch, journal_length, parent_id FROM {}runs"
RECORDS = "SELECT n, position, key, kind, state, at, payload, attempt, ref FROM {}records ORDER BY n, position"
INBOX = "SELECT n, id, is_read FROM {}inbox ORDER BY n, seq"


def read(url: str) -> Kept:
    """Return every run with what belongs to it."""
    numbered: dict[int, tuple[str, Stored]] = {}
    contradictions: list[str] = []
    runs, records, inbox = _selected(url, RUNS, RECORDS, INBOX)
    for n, run_id, *rest in runs:
        numbered[n] = (run_id, Stored(*rest, [], []))
    for n, *row in records:
        if n in numbered:
            numbered[n][1].journal.append(Row(*row))
        else:
            contradictions.append(f"the run number {n} that there is not has a record of {row[1]}")
    for n, message_id, is_read in inbox:
        if n in numbered:
            numbered[n][1].inbox.append((message_id, bool(is_read)))
        else:
            contradictions.append(f"the run number {n} that there is not has the message {message_id}")
    return Kept(dict(numbered.values()), contradictions)


def unfinished(url: str) -> list[tuple[str, str]]:
    """Return the runs that have not ended, with their statuses."""
    (found,) = _selected(url, f"SELECT id, status FROM {{}}runs WHERE status NOT IN {ENDED}")
    return [(run_id, status) for run_id, status in found]


def told(url: str, run_id: str) -> str:
    """Return all that a run's row says."""
    literal = "'" + run_id.replace("'", "''") + "'"
    return repr(_selected(url, f"SELECT * FROM {{}}runs WHERE id = {literal}"))


def _selected(url: str, *queries: str) -> list[list[tuple[Any, ...]]]:
    """Return the rows of each query, in which `{}` stands for the schema and its dot, all of one moment."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        file = apsw.Connection(parts.path[1:], flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            file.set_busy_timeout(10_000)
            return [list(file.execute(query.format(""))) for query in queries]
        finally:
            file.close()
    (schema,) = parse_qs(parts.query).get("schema", ["perdure"])
    with psycopg.connect(parts._replace(query="").geturl()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return [connection.execute(query.format(f'"{schema}".').encode()).fetchall() for query in queries]
