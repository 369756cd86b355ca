"""With `durability=replicated:1` what is acknowledged is on a replica, whoever wrote it, however often it is asked."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from perdure.model.decision import Decision, Message
from perdure.model.errors import StoreUnavailableError
from perdure.model.record import Record
from perdure.model.run import NewRun, RunStatus
from perdure.store import Store, open_store
from tests.servers import ValkeyServer
from tests.serving.process import HOST

pytestmark = [pytest.mark.crash, pytest.mark.server]

RUN = NewRun("r", "w", 1, 1, (Record(0, "input", "input", "ok", 1, "{}"),))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    """A master and its replica."""
    with ValkeyServer() as master, ValkeyServer(replicaof=f"{HOST} {master.port}") as replica:
        replica.until(lambda: replica.follows(master), "follow its master")
        yield master, replica


@asynccontextmanager
async def opened(master: ValkeyServer) -> AsyncIterator[Store]:
    store = open_store(master.url(durability="replicated:1", patience="300ms"))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_what_only_the_master_has_is_not_acknowledged_when_asked_again(pair: tuple[ValkeyServer, ValkeyServer]):
    """Nothing is left to write for the second call, so it has to wait for what the first one wrote."""
    master, replica = pair
    decision = Decision("r", 1, 1, 3, RunStatus.COMPLETE, None, (Record(1, "output", "output", "ok", 3, "1"),))
    message = Message("r", "m", "event", "go", "1", 2)
    async with opened(master) as first, opened(master) as second:
        operations = [
            lambda store: store.create([RUN]),
            lambda store: store.post([message], 2, 10),
            lambda store: store.claim(["default"], 1, "me", 2, 1_000),
            lambda store: store.commit([decision]),
        ]
        for number, operation in enumerate(operations):
            assert replica.process is not None
            replica.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(StoreUnavailableError, match="may or may not"):
                    await operation(first)
                if number == 2:
                    continue  # a claim whose answer was lost is not repeated
                for store in (second, first, second):
                    with pytest.raises(StoreUnavailableError, match="may or may not"):
                        await operation(store)
            finally:
                replica.process.send_signal(signal.SIGCONT)
            await operation(second)
