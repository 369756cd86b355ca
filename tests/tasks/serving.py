"""A real HTTP server for tests: it answers what a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""Signed by itself, for the name localhost, with its key; it is worth nothing outside these tests."""


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    """One that trusts the certificate."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))


@dataclass
class Asked:
    method: str
    path: str
    headers: Message
    body: bytes


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    parts: int = 1  # how often the body is sent
    hangs: bool = False  # nothing comes after the headers


Answers = Callable[[Asked], Reply]


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: Answers, is_secure: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if is_secure:
            self.socket = server_context().wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.answers = answers
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self.port = int(self.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [each.path for each in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, self.headers, body)
        self.server.asked.append(asked)
        reply = self.server.answers(asked)
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) * reply.parts))
        self.end_headers()
        if reply.hangs:
            self.server.over.wait(30)
            return
        try:
            for _ in range(reply.parts if self.command != "HEAD" else 0):
                self.wfile.write(reply.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def handle(self) -> None:
        try:
            super().handle()
        except ssl.SSLError:  # the client does not trust us
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web(answers: Answers, *, is_secure: bool = False) -> Iterator[Web]:
    server = Web(answers, is_secure)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*replies: Reply) -> Answers:
    """Each reply once, the last one for ever."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]
