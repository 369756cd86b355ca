"""Tells clients that something may have changed, who ask again and again and are remembered by nobody.

What changes has a number. Who asks says the last one they were told, and is answered when there is another one, so that
nothing is missed between two requests. One look-out serves everybody who waits for a namespace.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.engine.app import Perdure
from perdure.engine.env import new_id
from perdure.model.errors import StoreError
from perdure.server.security.sent import SAFE
from perdure.store.operations import PATH

LOOK_OUT = 5.0
"""Seconds that the look-out waits for a hint of the store at a time."""

IDLE = 10.0
"""Seconds after which it ends, if nobody has asked meanwhile."""

TOGETHER = 0.02
"""Seconds within which changes are told of as one."""

STARTS = ("/api/v1/runs", "/api/v1/runs/batch")
"""Where runs are started."""


class Hearing:
    """Those who wait for changes of one namespace.

    Args:
        app: the namespace's engine.
        stopping: set when the server stops: nobody waits any longer then.
    """

    def __init__(self, app: Perdure, stopping: asyncio.Event) -> None:
        self._app = app
        self._stopping = stopping
        self._name = new_id(app.world)
        self._count = 0
        self._news: asyncio.Future[None] | None = None
        self._waiting = 0
        self._idle_since = 0.0
        self._is_telling = False
        self._task: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Tell whoever waits, soon, of what this server changed."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_later(TOGETHER, self._tell)

    async def wait(self, last: str, timeout: float) -> str:
        """Return the number of the last change: at once if it is not `last`, else with the next one.

        Args:
            last: what was told before; empty for nothing.
            timeout: seconds after which it is told all the same.
        """
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done():
            self._count += 1  # nobody has listened meanwhile
            self._task = loop.create_task(self._listen())
        if last == self._number and not self.is_over:
            self._waiting += 1
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._next(loop))
            except TimeoutError:
                pass
            finally:
                self._waiting -= 1
        self._idle_since = loop.time()
        return self._number

    async def close(self) -> None:
        """Let everybody go."""
        self._tell()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_over(self) -> bool:
        """Whether the server stops, and each wait is answered at once."""
        return self._stopping.is_set()

    @property
    def _number(self) -> str:
        return f"{self._name}.{self._count}"

    def _next(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        if self._news is None:
            self._news = loop.create_future()
        return self._news

    def _tell(self) -> None:
        self._is_telling = False
        self._count += 1
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle_since = loop.time()
        while self._waiting or loop.time() - self._idle_since < IDLE:
            try:
                if await self._app.store.wait(LOOK_OUT):
                    self._tell()
                    await asyncio.sleep(TOGETHER)
            except StoreError:
                await asyncio.sleep(1)


class Telling:
    """Has clients hear of what the API changed (ASGI middleware, behind the one that finds out who asks).

    The operations of stores tell of themselves: most of them only read. Nobody waits for the start of a run.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        access = scope.get("state", {}).get("access")
        if access is None or scope["method"] in SAFE or scope["path"] in STARTS or scope["path"].startswith(PATH):
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                access.server.hearing(access.namespace).changed()
            await send(message)

        await self._app(scope, receive, told)
