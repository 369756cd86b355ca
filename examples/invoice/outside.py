"""What is outside: the service that has the orders, and the customers' mail servers. Both are real, and both fail.

The service is busy at the first request of all. Mail for `busy.example` is put off twice, and nobody takes any for
`closed.example`.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.smtp import SMTP

CUSTOMERS = {
    "cust-01": {"id": "cust-01", "name": "Ada Lovelace", "email": "ada@example.org"},
    "cust-02": {"id": "cust-02", "name": "Bob Busy", "email": "bob@busy.example"},
    "cust-03": {"id": "cust-03", "name": "Carl Closed", "email": "carl@closed.example"},
}
ORDERS = [
    {"title": "Tea, a pound", "quantity": 2, "cents": 1_250},
    {"title": "Teapot", "quantity": 1, "cents": 3_999},
    {"title": "Cups", "quantity": 6, "cents": 405},
]


class Source(ThreadingHTTPServer):
    """`GET /orders?customer=...`"""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Orders)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked = 0


class _Orders(BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        self.server.asked += 1
        url = urlsplit(self.path)
        customer = CUSTOMERS.get(parse_qs(url.query).get("customer", [""])[0])
        if self.server.asked == 1:
            self._answer(503, {"error": "busy, come back"}, {"Retry-After": "1"})
        elif url.path != "/orders" or customer is None:
            self._answer(404, {"error": "no such customer"})
        else:
            self._answer(200, {"customer": customer, "orders": ORDERS})

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def source() -> Iterator[Source]:
    with Source() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class PostBox:
    """What has arrived, and how often each address was tried. The handler that aiosmtpd asks."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.tries: Counter[str] = Counter()
        self.port = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        (address,) = envelope.rcpt_tos
        self.tries[address] += 1
        if address.endswith("@closed.example"):
            return "554 nobody here takes mail any more"
        if address.endswith("@busy.example") and self.tries[address] <= 2:
            return "451 busy, come back"
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(cast(EmailMessage, message))
        return "250 taken"


@asynccontextmanager
async def post_box() -> AsyncIterator[PostBox]:
    box = PostBox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(box, hostname="localhost", loop=loop), "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        await server.wait_closed()
