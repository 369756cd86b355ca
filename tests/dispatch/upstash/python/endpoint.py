"""Serves workflows of upstash-workflow on a port, and throws a part of its answers away after the work is done.

What workflows come to is written to standard output: DONE, a name, a value.
"""

from __future__ import annotations

import json
import os
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from upstash_workflow import serve
from upstash_workflow.workflow_types import _SyncRequest

PORT, CHAOS = int(sys.argv[1]), float(sys.argv[2])


class Headers(dict[str, str]):
    """Headers whose names may be written in any case, as every framework has them."""

    def get(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self.items() if key.lower() == name.lower()), default)


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # at once: many threads write


def done(name: str, value: Any) -> None:
    tell(f"DONE {name} {json.dumps(value)}")


def linear(context: Any) -> None:
    a = context.run("first", lambda: f"{context.request_payload['name']}!")
    context.sleep("nap", 1)
    b = context.run("second", lambda: {"a": a, "user": Headers(context.headers).get("x-user")})
    context.run("tell", lambda: done("linear", b))


def call(context: Any) -> None:
    url = f"http://127.0.0.1:{PORT}/third"
    answer = context.call("ask", url=url, method="POST", body={"q": 1}, headers={"x-third": "y"}, retries=2, timeout=30)
    context.run("tell", lambda: done("call", {"status": answer.status, "body": answer.body}))


def fails(context: Any) -> None:
    context.run("ok", lambda: 1)

    def boom() -> None:
        raise ValueError("it broke")

    context.run("boom", boom)


def failed(context: Any, status: int, response: str, headers: Any) -> None:
    user = Headers(context.headers).get("x-user")
    done("failure_function", [status, response, context.workflow_run_id, context.request_payload, user])


WORKFLOWS = {
    "linear": serve(linear, failure_function=failed)["handler"],
    "call": serve(call, failure_function=failed)["handler"],
    "fails": serve(fails, failure_function=failed, retries=0)["handler"],
}
ASKED: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        name = self.path.strip("/")
        if name == "third":
            ASKED.append(body)
            headers = {"Content-Type": "application/json", "Retry-After": "1"}
            self._answer(503 if len(ASKED) == 1 else 200, json.dumps({"n": len(ASKED), "got": body}), headers)
            return
        request = _SyncRequest(
            body=body,
            headers=Headers(self.headers.items()),
            method="POST",
            url=f"http://127.0.0.1:{PORT}{self.path}",
        )
        answer = WORKFLOWS[name](request)
        is_delivery = "upstash-workflow-runid" in self.headers and "upstash-workflow-is-failure" not in self.headers
        if answer.status == 200 and is_delivery and random.random() < CHAOS:
            tell(f"LOST {name}")
            self.close_connection = True
            return
        self._answer(answer.status, answer.body, answer.headers)

    def _answer(self, status: int, text: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
tell("UP")
server.serve_forever()
