"""A server and an endpoint in processes of their own, and what stands between them and fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

WITHIN = 30

QUICK_SERVER = """
import sys
from perdure import Perdure
from perdure.cli.main import app
from perdure.dispatch import asking, breaker, pushing
from perdure.dispatch.dispatcher import Dispatcher

# What fails is tried again soon, so that hundreds of faults fit into a minute.
pushing.FIRST_MS, pushing.LONGEST_MS, pushing.ATTEMPTS = 50, 500, 10_000
breaker.FIRST_MS, breaker.LONGEST_MS = 50, 200
asking.SLACK = 0.4
Dispatcher.__init__.__kwdefaults__["answer_within"] = 0.4
Perdure.__init__.__kwdefaults__["lease"] = 2
sys.argv[0] = "perdure"
app()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Processes:
    """Processes by name, each with a port, that are started with the same words again after they were killed.

    Attributes:
        folder: where they work.
        store: the URL of the server's store.
        env: their environment.
        ports: where they listen.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/served.db"
        self.ports = {name: free_port() for name in ("server", "endpoint")}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {**os.environ, **json.loads(self.perdure("endpoints", "keys", "--json"))}
        self.words: dict[str, list[str]] = {
            "server": ["-m", "perdure.cli", "server", "--store", self.store, "--port", str(self.ports["server"])]
        }

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def serve(self, module: str, name: str) -> None:
        """Have the endpoint be the ASGI application of that name in a module of the folder."""
        words = ["-m", "uvicorn", f"{module}:{name}", "--port", str(self.ports["endpoint"]), "--log-level", "critical"]
        self.words["endpoint"] = words

    def perdure(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "perdure.cli", *words, "--store", self.store],
            capture_output=True,
            text=True,
            timeout=WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            words = [sys.executable, *self.words[name]]
            self.running[name] = subprocess.Popen(words, cwd=self.folder, env=self.env, stderr=log, stdout=log)

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + WITHIN
        while not listens(self.ports[name]):
            assert time.monotonic() < end, (self.folder / f"{name}.log").read_text()[-2_000:]
            assert self.running[name].poll() is None, (self.folder / f"{name}.log").read_text()[-2_000:]
            time.sleep(0.02)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for name in list(self.running):
            self.kill(name)


class Wire:
    """What requests go through on their way to a port of this machine; some of them meet a fault.

    Args:
        port: where they go.
        dice: which of them, and which fault.
        faults: by name, how often each is to happen.
        often: the part of the requests that meets one.

    Attributes:
        counted: the faults that happened.
    """

    def __init__(self, port: int, dice: random.Random, faults: dict[str, int], often: float) -> None:
        self.port = port
        self.left = faults
        self.counted: Counter[str] = Counter()
        self._dice = dice
        self._often = often
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def is_done(self) -> bool:
        return not any(self.left.values())

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one request on, and its answer back."""
        self._kept(asyncio.current_task())
        async with ending(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            sizes = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
            body = await reader.readexactly(sizes[0] if sizes else 0)
            request = b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""]) + body
            fault = self._fault() if head.startswith(b"POST") else ""
            await getattr(self, f"_{fault}" if fault else "_passed")(request, writer)

    async def end(self) -> None:
        """Leave nothing behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _kept(self, task: asyncio.Task[object]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fault(self) -> str:
        kinds = [kind for kind, left in self.left.items() if left]
        if not kinds or self._dice.random() >= self._often:
            return ""
        kind = self._dice.choice(kinds)
        self.left[kind] -= 1
        self.counted[kind] += 1
        return kind

    async def _asked(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        async with ending(writer):
            writer.write(request)
            return await reader.read()
        return b""

    async def _passed(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(await self._asked(request))

    async def _cut_off(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def _answered_500(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def _answered_503_after_the_work(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        await self._asked(request)
        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def _no_answer_after_the_work(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        await self._asked(request)
        await asyncio.sleep(1.5)
        writer.transport.abort()

    async def _request_cut_half_way(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        _, there = await asyncio.open_connection("127.0.0.1", self.port)
        async with ending(there):
            there.write(request[: -len(request) // 3])
            await there.drain()
        writer.transport.abort()

    async def _answer_cut_half_way(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        answer = await self._asked(request)
        writer.write(answer[: -len(answer) // 3])
        await writer.drain()
        writer.transport.abort()

    async def _delivered_twice(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        answer, _ = await asyncio.gather(self._asked(request), self._asked(request))
        writer.write(answer)

    async def _delivered_again_later(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        async def again() -> None:
            await asyncio.sleep(self._dice.random())
            with contextlib.suppress(OSError):
                await self._asked(request)

        writer.write(await self._asked(request))
        self._kept(asyncio.create_task(again()))


@contextlib.asynccontextmanager
async def ending(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """End a connection, whatever has become of it."""
    try:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def wired(wire: Wire) -> AsyncIterator[int]:
    """A wire that listens; its port."""
    server = await asyncio.start_server(wire.take, "127.0.0.1", 0, limit=2**24)
    async with server:
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            await wire.end()
