"""A server, an endpoint beside it that serves an application, and a client of that server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
import uvicorn

from perdure import Perdure, serve
from perdure.dispatch.dispatcher import Dispatcher
from perdure.serve.asgi import AsgiServing
from tests.server.conftest import Served, memory, serving

__all__ = ["serving"]


class Unsignalled(uvicorn.Server):
    """A server in the middle of a test run, whose signals it leaves alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Scene:
    """A server with an endpoint: `app` is the application that is served, and a client of the server."""

    served: Served
    app: Perdure
    asgi: AsgiServing
    url: str

    @property
    def dispatcher(self) -> Dispatcher:
        return self.served.server.dispatchers["default"]

    @property
    def server_url(self) -> str:
        return str(self.served.http.base_url).rstrip("/")


@contextlib.asynccontextmanager
async def listening(asgi: Any) -> AsyncIterator[str]:
    """An ASGI application on a port of this machine; the URL that it is at."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(asgi, log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
    behind = Unsignalled(config)
    task = asyncio.create_task(behind.serve([listener]))
    while not behind.started:
        assert not task.done(), "it does not start"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        behind.should_exit = True
        await task
        listener.close()


Make = Callable[..., Awaitable[Scene]]


@pytest_asyncio.fixture
async def scene(serving: Any) -> AsyncIterator[Make]:
    """`await scene(declare, store=…, stay=…, **options)`: `declare(app)` registers what is served."""
    async with AsyncExitStack() as stack:

        async def make(
            declare: Callable[[Perdure], object], *, store: str | None = None, stay: float = 0, **options: Any
        ) -> Scene:
            served = await serving(None, store=store or memory())
            app = Perdure(str(served.http.base_url).rstrip("/"), mode="serve", **options)
            declare(app)
            dispatcher = served.server.dispatchers["default"]
            keys = (await dispatcher.keys()).signing
            asgi = serve.asgi(app, keys=(keys.current, keys.next), stay=stay)
            url = await stack.enter_async_context(listening(asgi))
            await dispatcher.add(url)
            return Scene(served, app, asgi, url)

        yield make
