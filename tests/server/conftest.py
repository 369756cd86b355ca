"""A server to ask: in this process without a socket (`serve`), or on a port of its own (`serving`)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest_asyncio
import uvicorn

from perdure import Perdure
from perdure.server import ServerSettings, create_server
from perdure.server.listening import uvicorn_config
from perdure.server.server import Server


class Unsignalled(uvicorn.Server):
    """A server in the middle of a test run, whose signals it leaves alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Served:
    """A server and what speaks to it.

    `worker` is an engine that works runs on the server's default store, `app` the server's own engine on it.
    """

    http: httpx.AsyncClient
    server: Server
    asgi: Any
    worker: Perdure | None
    url: str

    @property
    def app(self) -> Perdure:
        return self.server.namespaces.default


Serve = Callable[..., Awaitable[Served]]


def memory() -> str:
    """The URL of a store that this test shares with nobody."""
    return f"memory://{uuid.uuid4().hex}"


async def begin(stack: AsyncExitStack, worker: Perdure | None, settings: dict[str, Any]) -> tuple[Server, Any, str]:
    url = settings.pop("store", None) or (worker.url if worker is not None else memory())
    asgi = create_server(ServerSettings(store=url, **settings))
    if worker is not None:
        await stack.enter_async_context(worker)
    server: Server = asgi.state.server
    await server.open()
    stack.push_async_callback(server.close)
    return server, asgi, url


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(worker=None, **settings)`: the application over httpx's own transport."""
    async with AsyncExitStack() as stack:

        async def serve(worker: Perdure | None = None, **settings: Any) -> Served:
            server, asgi, url = await begin(stack, worker, settings)
            transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
            http = httpx.AsyncClient(transport=transport, base_url="http://localhost:8000")
            await stack.enter_async_context(http)
            return Served(http, server, asgi, worker, url)

        yield serve


@asynccontextmanager
async def servers() -> AsyncIterator[Serve]:
    """See `serving`."""
    async with AsyncExitStack() as stack:

        async def serving(worker: Perdure | None = None, **settings: Any) -> Served:
            server, asgi, url = await begin(stack, worker, settings)
            listener = socket.socket(proto=socket.IPPROTO_TCP)  # by which asyncio knows not to keep responses back
            listener.bind(("127.0.0.1", 0))
            behind = Unsignalled(uvicorn_config(asgi, dataclasses.replace(server.settings, drain=2)))
            task = asyncio.create_task(behind.serve([listener]))

            async def stop() -> None:
                await server.stop()
                behind.should_exit = True
                await task
                listener.close()

            stack.push_async_callback(stop)
            while not behind.started:
                await asyncio.sleep(0.005)
            http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=10)
            await stack.enter_async_context(http)
            return Served(http, server, asgi, worker, url)

        yield serving


@pytest_asyncio.fixture
async def serving() -> AsyncIterator[Serve]:
    """`await serving(worker=None, **settings)`: the application on a port of this machine, behind uvicorn."""
    async with servers() as serving:
        yield serving
