"""A real server, a real receiver of its messages, and the official clients as they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.clients.packages import node_packages

T = TypeVar("T")
SECONDS = 20.0


def until(found: Callable[[], T | None], seconds: float = SECONDS) -> T:
    """Wait until something is there, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if there := found():
            return there
        time.sleep(0.02)
    raise AssertionError("it never happened")


@dataclass
class Received:
    """A request that the receiver got."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Destination:
    """Where messages go: what came, and by which status it is answered where `failing` has no part of its path."""

    url: str
    got: list[Received] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)

    def at(self, path: str, count: int = 1) -> list[Received]:
        """Wait for so many requests to a path, and return them."""

        def found() -> list[Received] | None:
            there = [each for each in self.got if each.target.partition("?")[0] == path]
            return there if len(there) >= count else None

        return until(found)


@pytest.fixture(scope="session")
def there() -> Iterator[Destination]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            destination.got.append(Received(self.command, self.path, headers, body))
            is_failing = any(part in self.path for part in destination.failing)
            text = b'{"is": "broken"}' if is_failing else b'{"is": "fine"}'
            self.send_response(500 if is_failing else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        destination = Destination(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield destination
        server.shutdown()
        thread.join()


@dataclass
class Server:
    """`perdure server` as a process."""

    process: subprocess.Popen[bytes]
    url: str
    token: str

    def keys(self) -> dict[str, str]:
        """Return the keys that it signs with."""
        headers = {"Authorization": f"Bearer {self.token}"}
        found: dict[str, str] = httpx.get(f"{self.url}/v2/keys", headers=headers).json()
        return found


def begun(folder: Path, token: str = "any", **env: str) -> Server:
    """Start a server on a new store, and wait until it serves."""
    log = folder / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "perdure.cli",
                "server",
                "--store",
                f"sqlite:///{folder}/dispatch.db",
                "--port",
                "0",
            ],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PERDURE_STORE": "", **env},
            stderr=errors,
        )

    def url() -> str | None:
        assert process.poll() is None, log.read_text()
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        return next((str(line["url"]) for line in lines if line["event"] == "serving"), None)

    return Server(process, until(url), token)


def ended(server: Server) -> None:
    server.process.terminate()
    try:
        assert server.process.wait(15) == 0
    finally:
        server.process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, whose token has QStash's form."""
    folder = tmp_path_factory.mktemp("server")
    words = ["keys", "create", "clients", "--role", "admin", "--qstash", "--store", f"sqlite:///{folder}/dispatch.db"]
    said = subprocess.run(
        [sys.executable, "-m", "perdure.cli", *words], capture_output=True, text=True, check=True, timeout=30
    )
    found = begun(folder, said.stdout.strip())
    yield found
    ended(found)


@pytest.fixture
def dev_server(tmp_path: Path) -> Iterator[Server]:
    """A server for development, which nobody needs a key for."""
    found = begun(tmp_path, PERDURE_QSTASH_DEV="1")
    yield found
    ended(found)


class ClientError(Exception):
    """The client for Node threw an error."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["error"])
        self.name, self.status = answer["name"], answer["status"]


class Node:
    """A process of Node with the official client, which does what it is told."""

    def __init__(self, folder: Path, **env: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("QSTASH_", "UPSTASH_"))}
        self.process = subprocess.Popen(
            ["node", "drive.mjs"],
            cwd=folder,
            env={**kept, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, call: str, *args: Any, **on: Any) -> Any:
        """Call a method of the client: `node("messages.get", "msg_1")`; `queue=` calls one of a queue's."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"call": call, "args": args, **on}) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("{"):  # what the client itself logs
            assert line, "the process has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer)
        return answer["answer"]

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def node(server: Server) -> Iterator[Node]:
    """The client for Node, pointed at the server by its variables."""
    process = Node(node_packages(), QSTASH_URL=server.url, QSTASH_TOKEN=server.token)
    process("client", {})
    yield process
    process.end()
