"""Stores on the one PostgreSQL server of a test run, each in a schema of its own."""

from __future__ import annotations

from pathlib import Path

from perdure.store import open_store
from perdure.store.postgres import PostgresStore
from tests.servers import label, postgres


def postgres_at(database: str, folder: Path, **options: str) -> PostgresStore:
    """A store that is not open yet; the same folder gives the same one."""
    store = open_store(postgres().url(database, schema=label(folder), **options))
    assert isinstance(store, PostgresStore)
    return store
