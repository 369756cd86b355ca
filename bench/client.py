"""A client as thin as can be: it writes bytes and looks for the length of the answer, over a connection that stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Client:
    """One connection; use `connected`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: bytes, headers: str = "") -> None:
        """Send a request and take in the answer.

        Args:
            path: where to.
            body: JSON.
            headers: further ones, each with the end of its line.

        Raises:
            RuntimeError: it was refused.
        """
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = answer.index(b"content-length:") + 15
        text = await self._reader.readexactly(int(answer[length : answer.index(b"\r\n", length)]))
        if not answer.startswith(b"http/1.1 20"):
            raise RuntimeError(text[:500].decode())


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """A connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
