"""Serves workflows of upstash-workflow (Python, sync) on PORT."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from upstash_workflow import serve
from upstash_workflow.workflow_types import _SyncRequest

PORT, CHAOS = int(sys.argv[1]), float(sys.argv[2])


def done(name, value):
    print("DONE", name, json.dumps(value, default=str), flush=True)


class Heads(dict):  # case-insensitive get, as every framework gives
    def get(self, k, d=None):
        return next((v for n, v in self.items() if n.lower() == k.lower()), d)


def linear(c):
    a = c.run("first", lambda: f"{c.request_payload['name']}!")
    c.sleep("nap", 2)
    c.sleep_until("until", 5)
    b = c.run("second", lambda: {"a": a, "user": Heads(c.headers).get("x-user")})
    done("linear", b)


def call(c):
    r = c.call(
        "ask",
        url=f"http://127.0.0.1:{PORT}/third",
        method="POST",
        body={"q": 1},
        headers={"x-third": "y"},
        retries=2,
        timeout=30,
    )
    done("call", {"status": r.status, "body": r.body})


def fails(c):
    c.run("ok", lambda: 1)

    def boom():
        raise ValueError("it broke")

    c.run("boom", boom)


def cancels(c):
    c.run("ok", lambda: 1)
    c.cancel()


def auth(c):
    if Heads(c.headers).get("x-user") != "admin":
        return
    c.run("x", lambda: 1)


def failed(c, status, response, headers):
    done("failure_function", [status, response, c.workflow_run_id, c.request_payload, Heads(c.headers).get("x-user")])


table = {
    n: serve(f, failure_function=failed, retries=1)["handler"]
    for n, f in {"linear": linear, "call": call, "fails": fails, "auth": auth}.items()
}
third = [0]


class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        if self.path.startswith("/third"):
            third[0] += 1
            status, text, heads = (
                (503 if third[0] == 1 else 200),
                json.dumps({"n": third[0], "got": body}),
                {"Content-Type": "application/json"},
            )
        else:
            r = table[self.path.strip("/").split("?")[0]](
                _SyncRequest(
                    body=body,
                    headers=Heads(self.headers.items()),
                    method="POST",
                    url=f"http://127.0.0.1:{PORT}{self.path}",
                )
            )
            status, text, heads = r.status, r.body, r.headers
        self.send_response(status)
        for k, v in heads.items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


ThreadingHTTPServer(("127.0.0.1", PORT), H).serve_forever()
