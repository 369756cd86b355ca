"""A server, an endpoint beside it that serves an application, and a client of that server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn

from perdure import Perdure, serve
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.protocol import Push, Pushed
from perdure.model.decision import Decision
from perdure.model.run import RunStatus
from perdure.serve.over_asgi import AsgiServing
from tests.serve.bodies import Body, everything
from tests.server.conftest import Served, memory, serving

__all__ = ["serving"]


class Unsignalled(uvicorn.Server):
    """A server in the middle of a test run, whose signals it leaves alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


Fault = Callable[[Any, Any, Any, Any], Awaitable[None]]


class Faulty:
    """An ASGI application, ahead of which faults happen: one for each of the next pushes, None for none.

    Attributes:
        faults: those to come.
        pushes: what was pushed so far, as headers.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.faults: list[Fault | None] = []
        self.pushes: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            self.pushes.append({name.decode(): value.decode() for name, value in scope["headers"]})
            fault = self.faults.pop(0) if self.faults else None
            if fault is not None:
                await fault(self.inner, scope, receive, send)
                return
        await self.inner(scope, receive, send)


def answering(status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Fault:
    """A fault: the endpoint answers something else."""

    async def fault(inner: Any, scope: Any, receive: Any, send: Any) -> None:
        given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": given})
        await send({"type": "http.response.body", "body": body})

    return fault


async def losing_the_answer(inner: Any, scope: Any, receive: Any, send: Any) -> None:
    """A fault: the work is done, and its answer is lost on its way."""

    async def lost(message: Any) -> None:
        if message["type"] == "http.response.start":
            await send({**message, "status": 502, "headers": []})
        else:
            await send({**message, "body": b""})

    await inner(scope, receive, lost)


async def giving_back(inner: Any, scope: Any, receive: Any, send: Any) -> None:
    """A fault: the run is given back at once, although nothing was done."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    run = msgspec.json.decode(body, type=Push).claim.run
    decision = Decision(run.id, run.epoch, run.seq + 1, run.updated_at, RunStatus.QUEUED, run.updated_at)
    await answering(200, msgspec.json.encode(Pushed(decision)))(inner, scope, receive, send)


async def twice(inner: Any, scope: Any, receive: Any, send: Any) -> None:
    """A fault: the push is delivered twice, at once."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)

    def again() -> Any:
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Any:
            return parts.pop() if parts else await receive()

        return receive_again

    async def unheard(message: Any) -> None:
        pass

    await asyncio.gather(inner(scope, again(), send), inner(scope, again(), unheard))


@dataclass
class Scene:
    """A server with an endpoint: `app` is the application that is served, and a client of the server."""

    served: Served
    app: Perdure
    asgi: AsgiServing
    faulty: Faulty
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
            declare: Callable[[Perdure], object], *, store: str | None = None, stay: float | None = None, **options: Any
        ) -> Scene:
            served = await serving(None, store=store or memory())
            app = Perdure(str(served.http.base_url).rstrip("/"), mode="serve", **options)
            declare(app)
            dispatcher = served.server.dispatchers["default"]
            keys = (await dispatcher.keys()).signing
            asgi = serve.asgi(app, keys=(keys.current, keys.next), stay=stay)
            faulty = Faulty(asgi)
            url = await stack.enter_async_context(listening(faulty))
            await dispatcher.add(url)
            return Scene(served, app, asgi, faulty, url)

        yield make


@pytest.fixture
def body() -> Body:
    return Body()


@pytest.fixture
def every(scene: Make, body: Body) -> Make:
    """`await every(**options)`: the scene, with an application that has workflows of every kind."""

    async def every(**options: Any) -> Scene:
        return await scene(lambda app: everything(app, body), **options)

    return every


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as http:
        yield http
