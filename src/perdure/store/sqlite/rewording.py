"""Texts that become others which say the same."""

from __future__ import annotations

from typing import Any

import apsw

from perdure.model.rewording import Rewording

_DOCUMENT = "UPDATE documents SET text = :new WHERE collection = :name AND key = :part AND text = :old"
_DEFINITION = "UPDATE definitions SET text = :new WHERE name = :name AND version = :part AND text = :old"

_PARTS = (
    (
        "SELECT fingerprint, wait, state, progress FROM runs WHERE n = ?",
        "UPDATE runs SET fingerprint = ?, wait = ?, state = ?, progress = ? WHERE n = ?",
        0,
    ),
    (
        "SELECT payload, ref, position FROM records WHERE n = ?",
        "UPDATE records SET payload = ?, ref = ? WHERE position = ? AND n = ?",
        1,
    ),
    (
        "SELECT payload, seq FROM inbox WHERE n = ? AND NOT is_read",
        "UPDATE inbox SET payload = ? WHERE seq = ? AND n = ?",
        1,
    ),
)
"""Where a run has texts: how they are read, how they are changed, and how many of the last columns are none."""


def reword(connection: apsw.Connection, rewording: Rewording) -> int:
    """Replace texts that are still what they were, and return how many; in a transaction."""
    if rewording.of == "run":
        return _reword_run(connection, rewording)
    statement = _DOCUMENT if rewording.of == "document" else _DEFINITION
    count = 0
    for old, new in rewording.texts.items():
        named = {"name": rewording.name, "part": rewording.part, "old": old, "new": new}
        connection.execute(statement, named)
        count += int(connection.changes())
    return count


def _reword_run(connection: apsw.Connection, rewording: Rewording) -> int:
    n = connection.execute("SELECT n FROM runs WHERE id = ?", (rewording.name,)).get
    if n is None:
        return 0
    texts, count = rewording.texts, 0
    for read, change, places in _PARTS:
        changed = []
        for row in connection.execute(read, (n,)).fetchall():
            old: list[Any] = list(row[: len(row) - places])
            if found := sum(text in texts for text in old):
                changed.append((*(texts.get(text, text) for text in old), *row[len(old) :], n))
                count += found
        if changed:
            connection.executemany(change, changed)
    return count
