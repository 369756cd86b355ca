"""How large an SQLite store is, whatever part of it is still in its write-ahead log."""

from __future__ import annotations

from pathlib import Path

import apsw


def sqlite_bytes(file: Path) -> int:
    """The bytes of a database once checkpointed: its pages, without the log, which does not grow with the runs.

    Args:
        file: the database; other processes may have it open.
    """
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(5_000)
        pages, page_bytes = (
            row[0] for name in ("page_count", "page_size") for row in connection.execute(f"PRAGMA {name}")
        )
        return int(pages) * int(page_bytes)
    finally:
        connection.close()
