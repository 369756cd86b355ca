"""What the example's processes have in common: they say that they are ready, and end when their standard input does."""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def ready(**facts: object) -> None:
    print(json.dumps({"pid": os.getpid(), **facts}), flush=True)


def wait_for_end() -> None:
    """Wait for Ctrl-D, or for whoever started this process to go away."""
    try:
        sys.stdin.read()
    except KeyboardInterrupt:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class JsonHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")

    def answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the caller was killed meanwhile
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass
