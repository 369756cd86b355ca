"""A payment service's account of what it was asked, in a file: each request, and one charge for each key."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (order_id TEXT, key TEXT);
CREATE TABLE IF NOT EXISTS charges (key TEXT PRIMARY KEY, order_id TEXT, cents INTEGER, status TEXT);
"""


class Payments:
    def __init__(self, path: str) -> None:
        self.path = path
        with self._database() as database:
            database.executescript(SCHEMA)

    def charge(self, key: str, order_id: str, cents: int) -> str:
        """Charge once for each key, however often it is asked; return the charge's id, which is the key."""
        with self._database() as database:
            database.execute("INSERT INTO requests VALUES (?, ?)", (order_id, key))
        time.sleep(0.2 + zlib.crc32(key.encode()) % 600 / 1000)  # as long as a bank takes
        with self._database() as database:
            database.execute("INSERT OR IGNORE INTO charges VALUES (?, ?, ?, 'paid')", (key, order_id, cents))
        return key

    def give_back(self, key: str) -> None:
        """Undo a charge; a second time changes nothing."""
        with self._database() as database:
            database.execute("UPDATE charges SET status = 'refunded' WHERE key = ?", (key,))

    def requests(self) -> list[tuple[str, str]]:
        """Order and key of each request."""
        with self._database() as database:
            return database.execute("SELECT order_id, key FROM requests").fetchall()

    def charges(self) -> list[tuple[str, str]]:
        """Order and status of each charge."""
        with self._database() as database:
            return database.execute("SELECT order_id, status FROM charges").fetchall()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            yield database
        finally:
            database.close()
