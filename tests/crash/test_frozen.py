"""A worker that stops in the middle of a transaction holds its rows: others must not wait for it as long as a lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from perdure.model.decision import Decision, Lease, Message
from perdure.model.errors import StoreError
from perdure.model.record import Record
from perdure.model.run import NewRun, RunStatus
from perdure.store import Store, open_store
from tests import servers
from tests.servers import PostgresServer, cut

pytestmark = [pytest.mark.crash, pytest.mark.server, pytest.mark.slow]

LONGEST = 8.0
"""Seconds; of a lease of 15 that is extended every 5, there must be some left."""


def new(run_id: str, worker: str) -> NewRun:
    return NewRun(run_id, "w", 1, 10_000, (Record(0, "input", "input", "ok", 1, "{}"),), worker=worker)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def until_waits(server: PostgresServer) -> None:
    """Wait until somebody waits for a row."""
    deadline = time.monotonic() + 10
    while not server.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("pgbouncer", ["off", "on"])
async def test_a_frozen_commit_does_not_cost_others_their_leases(pgbouncer: str, tmp_path: Path):
    """The child's end is a message to its parent, so its commit locks the parent, which another worker holds."""
    server = servers.postgres(fsync=True)
    schema = servers.label(tmp_path)
    output = Record(1, "output", "output", "ok", 2, "1")
    notice = Message("parent", "child", "child", "c", "1", 2, "ok", "child")
    end = Decision("child", 1, 1, 2, RunStatus.COMPLETE, None, (output,), posts=(notice,))
    async with cut(server.port) as line, opened(server.url(schema=schema)) as other:
        url = line.url(server.url(schema=schema, patience="1s", pgbouncer=pgbouncer))
        async with opened(url) as frozen:
            await other.create([new("parent", "other"), new("child", "frozen"), new("third", "other")])
            with psycopg.connect(server.url()) as holder:
                holder.execute(f"SELECT FROM \"{schema}\".runs WHERE id = 'parent' FOR UPDATE".encode())
                committing = asyncio.create_task(frozen.commit([end]))
                await until_waits(server)
                line.freeze()  # the answer that it has its locks never comes
            began = time.monotonic()
            async with asyncio.timeout(40):
                (extended, third) = await other.extend([Lease("parent", 1, 20_000), Lease("third", 1, 20_000)], 3)
            took = time.monotonic() - began
            assert not extended.is_lost
            assert not third.is_lost
            line.thaw()
            try:
                await committing
            except StoreError:
                await frozen.commit([end])
            assert [message.id for message in await other.inbox("parent")] == ["child"]
    assert took < LONGEST
