from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

MANIFEST = {
    "protocol": 1,
    "workflows": [
        {"name": "checkout", "version": "2", "queue": "orders", "input_schema": "{}", "details": "{}"},
    ],
}


class Answering(BaseHTTPRequestHandler):
    """Says what it serves to whoever asks."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Perdure-Signature"] else 401)
        self.end_headers()
        self.wfile.write(json.dumps(MANIFEST).encode())

    def log_message(self, *args: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_endpoints_are_added_listed_and_removed(shell, endpoint):
    shell("endpoints", "keys")  # makes the store
    assert "no endpoints" in shell("endpoints", "list").err
    added = shell("endpoints", "add", endpoint, "--reason", "deploy")
    assert (added.code, added.out) == (0, f"added: {endpoint} serves checkout\n")
    (listed,) = shell("endpoints", "list", "--json").json
    assert (listed["url"], listed["workflows"]) == (endpoint, [{"name": "checkout", "version": "2", "queue": "orders"}])
    assert "checkout" in shell("endpoints", "list").out
    assert shell("endpoints", "remove", endpoint).code == 0
    again = shell("endpoints", "remove", endpoint)
    assert again.code == 3
    assert f"there is no endpoint '{endpoint}'" in again.err
    actions = [entry["action"] for entry in shell("audit", "list", "--json").json]
    assert actions == ["endpoints.remove", "endpoints.add"]


def test_who_does_not_answer_is_a_mistake(shell):
    said = shell("endpoints", "add", "http://127.0.0.1:9/")
    assert said.code == 2
    assert "http://127.0.0.1:9/" in said.err
    assert "must be http:// or https://" in shell("endpoints", "add", "tea").err


def test_keys_are_shown_and_rotated(shell):
    before = shell("endpoints", "keys", "--json").json
    assert shell("endpoints", "keys").out.splitlines() == [f"{name}={key}" for name, key in before.items()]
    after = shell("endpoints", "keys", "--rotate", "--json").json
    assert after["PERDURE_SIGNING_KEY"] == before["PERDURE_NEXT_SIGNING_KEY"]
    assert [entry["action"] for entry in shell("audit", "list", "--json").json] == ["signing-keys.rotate"]
