"""Recognises the file and brings its tables up to date, whoever else may be opening it at the same moment."""

from __future__ import annotations

import functools
import os
from importlib.resources import files
from pathlib import Path

import apsw

from perdure.model.errors import SchemaTooNewError, StoreCorruptError

APPLICATION_ID = 0x50455244
"""`PERD`, in the header of every file that is ours."""


def migrations() -> list[str]:
    """Return the SQL of every version, the first one first."""
    folder = files("perdure.store.sqlite") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def migrate(connection: apsw.Connection, path: str) -> None:
    """Create the tables, or add to them what later versions brought.

    Raises:
        SchemaTooNewError: a later Perdure wrote the file. StoreCorruptError: something else did.
    """
    steps = migrations()
    if _version(connection, path, len(steps)) == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have done it all in between.
        for sql in steps[_version(connection, path, len(steps)) :]:
            connection.execute(sql)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", len(steps))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    _sync_folder(path)


def require_known(connection: apsw.Connection, path: str) -> None:
    """Refuse to go on with tables that a later Perdure has changed since this program opened the file.

    Raises:
        SchemaTooNewError: one has.
    """
    version, known = connection.pragma("user_version"), _latest()
    if version != known:
        raise SchemaTooNewError(
            f"{path}: a newer Perdure has brought the tables to version {version}, and this program, which is still at "
            f"work, knows up to {known}: end it, and upgrade it"
        )


@functools.cache
def _latest() -> int:
    return len(migrations())


def _version(connection: apsw.Connection, path: str, known: int) -> int:
    with connection:  # one look at all three, while another process may be creating the tables
        owner = connection.pragma("application_id")
        version = connection.pragma("user_version")
        is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if owner != APPLICATION_ID and not (owner == 0 and is_empty):
        raise StoreCorruptError(f"{path} is an SQLite file of another program; give Perdure a file of its own")
    if version > known:
        raise SchemaTooNewError(
            f"{path} has version {version} of the tables, and this Perdure knows up to {known}: upgrade this program"
        )
    return int(version) if owner == APPLICATION_ID else 0


def _sync_folder(path: str) -> None:
    """Make the new file's name durable, not only its content."""
    folder = os.open(Path(path).absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
