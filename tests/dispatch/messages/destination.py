"""A real HTTP server that messages are delivered to, over connections that are kept; it answers what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Got:
    """A request."""

    method: str
    target: str
    headers: dict[str, str]
    names: list[str]
    body: bytes


@dataclass
class Destination:
    """What came, over how many connections, and what is answered: bytes as they are, or None to hang up."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most: int = 0
    answer: Callable[[Got], bytes | None] = lambda got: PLAIN
    hold: asyncio.Event | None = None
    after: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                lines = [line.split(": ", 1) for line in head[1:] if line]
                headers = {name.lower(): value for name, value in lines}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                got = Got(method, target, headers, [name for name, _ in lines], body)
                self.got.append(got)
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                try:
                    if self.hold is not None:
                        await self.hold.wait()
                    answer = self.answer(got)
                finally:
                    self.under_way -= 1
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                while self.after:
                    writer.write(self.after)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def destination() -> AsyncIterator[Destination]:
    found = Destination()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()


def answered(status: int, headers: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
