"""A real HTTP server that takes deliveries, and answers as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """What arrived, and the statuses to answer with, what `judge` says, once they are used up."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.judge: Callable[[dict[str, str], bytes], int] = lambda headers, body: 200
        self.is_endless = False
        self.url = ""
        self.location = "/elsewhere"


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.statuses.pop(0) if receiver.statuses else receiver.judge(headers, body)
            self.send_response(status)
            if status == 302:
                self.send_header("location", receiver.location)
            self.send_header("content-length", str(10**12 if receiver.is_endless else 0))
            self.end_headers()
            receiver.got.append((headers, body))
            try:
                while receiver.is_endless:
                    self.wfile.write(bytes(65_536))
            except OSError:  # the other side has hung up
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/hooks"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
