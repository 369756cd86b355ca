"""A store behind a server keeps the contract, for what clients ask: the tests of every store, that much over HTTP."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from perdure import Perdure
from perdure.server import ServerSettings, create_server, storable
from perdure.server.api import store as routes
from perdure.store import Store, open_store
from perdure.store.operations import OPERATIONS
from tests.server.conftest import Unsignalled
from tests.store import (
    test_control,
    test_create,
    test_dedup,
    test_definitions,
    test_documents,
    test_post,
    test_prune,
    test_queues,
    test_reads,
)
from tests.store.making import STORES

MODULES = (
    *(test_control, test_create, test_dedup, test_definitions, test_documents),
    *(test_post, test_prune, test_queues, test_reads),
)

WORKERS = {"publish", "prune"}
"""What is done otherwise over HTTP: the server publishes in its own words, and prunes by its own clock."""


class Prompt(Unsignalled):
    """A server that ends when it is told to, not at its next look a tenth of a second later."""

    def __init__(self, asgi: Any) -> None:
        super().__init__(uvicorn.Config(asgi, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
        self.is_over = asyncio.Event()

    async def main_loop(self) -> None:
        await self.is_over.wait()


class Halves:
    """A store whose client's part is asked over HTTP, and whose worker's part is asked itself."""

    def __init__(self, remote: Store, itself: Store) -> None:
        self.remote = remote
        self.itself = itself
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS or name in WORKERS:
            return getattr(self.itself, name)
        self.asked.add(name)
        return getattr(self.remote, name)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> AsyncIterator[Halves]:
    """A store behind a real server, which takes whatever its store takes: what it refuses has tests of its own."""
    monkeypatch.setattr(storable, "CHECKS", {})
    monkeypatch.setattr(routes, "APPLICATION", "")
    url = STORES[request.param](tmp_path)
    async with Perdure(url, mode="client") as app:
        asgi = create_server(ServerSettings(store=url), {"default": app})
        listener = socket.socket(proto=socket.IPPROTO_TCP)  # by which asyncio knows not to keep responses back
        listener.bind(("127.0.0.1", 0))
        server = Prompt(asgi)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        remote = open_store(f"http://127.0.0.1:{listener.getsockname()[1]}")
        await remote.open()
        halves = Halves(remote, app.store)
        yield halves
        assert halves.asked
        await remote.close()
        await asgi.state.server.stop()
        while server.server_state.connections:
            await asyncio.sleep(0.001)
        server.is_over.set()
        await task
        listener.close()


for _module in MODULES:
    globals().update(
        {
            f"{name}_{_module.__name__.rpartition('.')[2]}": test
            for name, test in vars(_module).items()
            if name.startswith("test_") and "store" in inspect.signature(test).parameters
        }
    )
