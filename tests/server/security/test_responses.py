"""What every response has, whatever it answers."""

from __future__ import annotations

import gzip
import json
import logging

import httpx
import pytest
from fastapi.routing import APIRoute

from perdure.server.security.headers import HEADERS, HSTS
from tests.server.conftest import Serve

CSP = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "font-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
    "require-trusted-types-for": "'script'",
}
TABLE = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "origin-agent-cluster": "?1",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
    "x-download-options": "noopen",
    "x-frame-options": "DENY",
    "x-permitted-cross-domain-policies": "none",
    "x-xss-protection": "0",
}


def check(answer: httpx.Response, what: str) -> None:
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == CSP, what
    for name, value in TABLE.items():
        assert answer.headers.get_list(name) == [value], f"{what}: {name}"
    assert "permissions-policy" in answer.headers, what
    assert "cache-control" in answer.headers, what
    assert not {"server", "x-powered-by"} & set(answer.headers), what


async def test_every_route_has_the_headers_whatever_it_answers(keyed):
    keyed = await keyed()
    seen = set()
    for route in keyed.served.asgi.routes:
        assert isinstance(route, APIRoute), route
        for method in route.methods:
            path = route.path.replace("{id:run}", "x").replace("{", "").replace("}", "")
            if path.endswith("/watch"):
                continue  # a stream: below, over a socket
            for headers in ({}, keyed.bearer("viewer"), keyed.bearer("admin")):
                answer = await keyed.http.request(method, path, headers=headers)
                check(answer, f"{method} {path} {answer.status_code}")
                if path.startswith("/api/v1/"):
                    assert answer.headers["cache-control"] == "no-store"
                seen.add(answer.status_code)
    assert {200, 401, 403, 404, 422} <= seen


async def test_a_stream_has_them_too(serving: Serve):
    served = await serving()
    async with served.http.stream("GET", "/api/v1/watch", headers={"Accept-Encoding": "gzip"}) as answer:
        check(answer, "a stream")
        assert answer.headers["cache-control"] == "no-store"
        assert "content-encoding" not in answer.headers


async def test_what_fails_has_them_too(serve: Serve, monkeypatch, caplog):
    served = await serve()

    async def broken(ids):
        raise RuntimeError("hunter2 is the password")

    monkeypatch.setattr(served.app.client, "get", broken)
    answer = await served.http.get("/api/v1/runs/hunter3")
    assert answer.status_code == 500
    check(answer, "500")
    assert "hunter2" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    (line,) = [record for record in caplog.records if record.name == "perdure.server"]
    assert line.getMessage().endswith("GET /api/v1/runs/{id:run} failed")


async def test_only_a_server_that_speaks_tls_asks_for_it(serve: Serve):
    from perdure.server.security.headers import Headers

    assert "strict-transport-security" not in (await (await serve()).http.get("/livez")).headers

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Frame-Options", b"ALLOW")]})
        await send({"type": "http.response.body", "body": b""})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(Headers(app, is_tls=True)), base_url="http://x") as http:
        answer = await http.get("/")
    assert answer.headers["strict-transport-security"] == HSTS
    assert answer.headers.get_list("x-frame-options") == [HEADERS["X-Frame-Options"]]


async def test_large_answers_are_packed_and_small_ones_are_not(serve: Serve):
    served = await serve()
    async with served.http.stream("GET", "/api/openapi.json", headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in answer.headers["vary"].lower()
    assert json.loads(gzip.decompress(packed))["openapi"] == "3.1.0"
    small = await served.http.get("/livez", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers
    page = await served.http.get("/api/docs", headers={"Accept-Encoding": "gzip"})
    assert len(page.content) > 1_024
    assert "content-encoding" not in page.headers


@pytest.mark.parametrize(("given", "is_taken"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("ü", False)])
async def test_each_request_has_a_number(serve: Serve, given, is_taken):
    served = await serve()
    answer = await served.http.get("/livez", headers={"X-Request-Id": given.encode()})
    number = answer.headers["x-request-id"]
    assert (number == given) is is_taken
    assert len(number) == 32 or is_taken


async def test_each_request_is_a_line_in_the_log_without_its_secrets(keyed, caplog):
    caplog.set_level(logging.DEBUG)
    keyed = await keyed()
    token = keyed.keys["operator"].token
    await keyed.ask("operator", "POST", "/api/v1/runs/hunter2/pause?token=hunter3", json={"reason": "hunter4"})
    browser = await keyed.log_in()
    await browser.ask("GET", "/api/v1/runs?prefix=hunter5")
    await keyed.http.get(f"/api/v1/runs?key={token}", headers={"Authorization": f"Bearer {token}0"})
    lines = [record for record in caplog.records if record.name == "perdure.requests"]
    told = [(record.method, record.route, record.status, record.principal) for record in lines]
    assert told == [
        ("POST", "/api/v1/runs/{id}/pause", 422, "operator"),
        ("POST", "/login", 200, None),
        ("GET", "/api/v1/runs", 200, "operator"),
        ("GET", "-", 401, None),
    ]
    assert all(record.ms >= 0 and record.request_id for record in lines)
    everything = "\n".join(str(vars(record)) for record in caplog.records if "httpx" not in record.name)
    for secret in ("hunter", token, token.rpartition("_")[2], browser.token, browser.csrf):
        assert secret not in everything
