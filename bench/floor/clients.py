"""Which bare client a store has."""

from __future__ import annotations

from bench.floor.rows import Bare
from perdure.store import open_store


async def connected(url: str) -> Bare:
    """The bare client of the store at a URL, whose tables the store itself has made."""
    store = open_store(url)
    await store.open()
    await store.close()
    if url.startswith("sqlite:"):
        from bench.floor.sqlite import Sqlite

        return Sqlite(url)
    if url.startswith("postgresql:"):
        from bench.floor.postgres import Postgres

        return await Postgres.connected(url)
    from bench.floor.redis import Redis

    return Redis(url)
