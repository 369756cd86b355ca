"""A line to a server that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tests.serving.process import HOST


class Line:
    """A TCP proxy to one port, on the loop that made it.

    Attributes:
        is_refusing: new connections end at once, as if nobody listened behind it.
        is_frozen: bytes are kept back in both directions, as on a network that lost its way.
        lost: how often a request or an answer was lost on purpose.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.is_refusing = False
        self.is_frozen = False
        self.lost = 0
        self.connections = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._lose: tuple[str, bytes, int] | None = None

    def url(self, url: str) -> str:
        """The URL of a server behind this line, by way of it."""
        parts = urlsplit(url)
        assert parts.port == self.target, f"this line leads to port {self.target}"
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{HOST}:{self.port}").geturl()

    def drop(self) -> None:
        """Cut every connection now."""
        for end in list(self._ends):
            end.transport.abort()

    def freeze(self) -> None:
        self.is_frozen = True
        self._thawed.clear()

    def thaw(self) -> None:
        self.is_frozen = False
        self._thawed.set()

    def lose_request(self, holding: bytes = b"", *, after: int = 0) -> None:
        """Cut the connection on which the next such request comes, before the server hears of it.

        `after` is how many such requests go through before that; a request is what the client sends at once.
        """
        self._lose = ("request", holding, after)

    def lose_answer(self, holding: bytes = b"", *, after: int = 0) -> None:
        """Cut the connection on which the next such request comes when it was done and its answer is on the way."""
        self._lose = ("answer", holding, after)

    def lose_nothing(self) -> None:
        """Forget what was to be lost and was not yet."""
        self._lose = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join one connection to another one to the server, until either ends."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._ends.add(writer)
        ends = [writer]
        try:
            if not self.is_refusing:
                far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
                self.connections += 1
                self._ends.add(far_writer)
                ends.append(far_writer)
                await self._join(reader, writer, far_reader, far_writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:
                end.transport.abort()
                self._ends.discard(end)
            self._tasks.discard(task)

    async def close(self) -> None:
        self.drop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        is_answer_lost = asyncio.Event()

        async def there() -> None:
            while sent := await reader.read(65536):
                await self._passable()
                lost = self._to_lose(sent)
                if lost == "request":
                    return
                if lost == "answer":
                    is_answer_lost.set()
                far_writer.write(sent)
                await far_writer.drain()

        async def back() -> None:
            while answer := await far_reader.read(65536):
                await self._passable()
                if is_answer_lost.is_set():
                    return
                writer.write(answer)
                await writer.drain()

        ways = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def _to_lose(self, sent: bytes) -> str | None:
        if self._lose is None or self._lose[1] not in sent:
            return None
        what, holding, after = self._lose
        if after > 0:
            self._lose = (what, holding, after - 1)
            return None
        self._lose = None
        self.lost += 1
        return what

    async def _passable(self) -> None:
        while self.is_frozen:
            await self._thawed.wait()


@contextlib.asynccontextmanager
async def cut(port: int) -> AsyncIterator[Line]:
    """A line to the server on this port of this machine, which the test can cut, freeze, or have lose an answer."""
    line = Line(port)
    listening = await asyncio.start_server(line.accept, HOST, 0)
    line.port = listening.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        listening.close()
        await line.close()
        await listening.wait_closed()
