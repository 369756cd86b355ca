"""What messages are delivered to, for `bench.deliveries`: a process of its own that does as little as can be.

It answers every request with the same bytes. Told a number, it waits until so many different messages have come, and
says when the last of them did, how many requests there were, and how long each took from the moment that it names.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from typing import cast

import uvloop

from bench import measure

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

NOTE = {"order": 7, "items": ["tea", "milk"], "note": "x" * 40}
"""What each message carries beside its number and its moment."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def body_of(n: int, at: float) -> bytes:
    """Return what a message carries: its number, and the moment (in seconds since the epoch) that counts for it."""
    return json.dumps({"n": n, "at": at, **NOTE}).encode()


class Arrivals:
    """What has come since it was last asked for."""

    def __init__(self) -> None:
        self._expected = 0
        self._whole = asyncio.Event()
        self._bodies: list[bytes] = []
        self._times: list[float] = []

    def came(self, body: bytes) -> None:
        """Note a message."""
        self._bodies.append(body)
        self._times.append(time.time())
        if 0 < self._expected <= len(self._bodies):
            self._whole.set()

    async def of(self, expected: int) -> dict[str, float]:
        """Wait for so many different messages; return what the module's text says, and begin anew."""
        self._expected = expected
        while len(set(self._bodies)) < expected:
            self._expected = len(self._bodies) + expected - len(set(self._bodies))
            self._whole.clear()
            await self._whole.wait()
        took = [(at - json.loads(body)["at"]) * 1000 for at, body in zip(self._times, self._bodies, strict=True)]
        found = {
            "arrived": len(self._bodies),
            "last": self._times[-1],
            "p50": measure.percentile(took, 50),
            "p95": measure.percentile(took, 95),
        }
        self._bodies, self._times, self._expected = [], [], 0
        return found


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take in what came, and answer each request that is whole."""
        held = self._held + data
        while (head := held.find(b"\r\n\r\n") + 4) >= 4:
            length = _LENGTH.search(held, 0, head)
            end = head + (int(length[1]) if length else 0)
            if len(held) < end:
                break
            self._arrivals.came(held[head:end])
            self._transport.write(ANSWER)
            held = held[end:]
        self._held = held


async def main() -> None:
    """Listen until standard input ends."""
    arrivals, loop = Arrivals(), asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
    server = await loop.create_server(lambda: Connection(arrivals), sock=listener)
    print(json.dumps({"ready": True, "port": listener.getsockname()[1]}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await arrivals.of(int(line))), flush=True)
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
