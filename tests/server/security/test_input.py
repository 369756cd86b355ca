"""What people put into requests to get at something else; the bounds of bodies and heads are tested with those."""

from __future__ import annotations

import pytest
from msgspec import to_builtins

from perdure import Perdure
from perdure.model.decision import StoredDefinition
from perdure.server.access import PUBLIC
from tests.server.conftest import Serve, memory
from tests.server.security.operations import EVERY
from tests.servers import label, postgres, valkey

INJECTIONS = [
    "' OR '1'='1",
    "'; DROP TABLE perdure_runs; --",
    "' UNION SELECT key, text FROM perdure_documents --",
    '" OR ""="',
    "1; SELECT pg_sleep(10)",
    "') OR 1=1 --",
    "%' OR '1'='1",
    "\\' OR 1=1 --",
    "%",
    "_",
    "a%b_c\\",
    "{}",
    "{shop}:x",
    "}:{",
    "*",
    "$ne",
    "{{7*7}}",
    "${7*7}",
    "__import__('os').system('id')",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "file:/" + "//etc/passwd",
    "order-1\u202egnp",
]
CONTROL = ["a\x00b", "a\nb", "a\r\nSet-Cookie: x=1", "a\x1b[2J", "a\x7f", "a\u2028b"]
FILTERS = ["workflow", "queue", "parent", "prefix", "tag", "cursor", "status", "since"]


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
async def filled(serve: Serve, tmp_path, request):
    url = {
        "sqlite": lambda: f"sqlite:///{tmp_path}/shop.db",
        "postgres": lambda: postgres().url(schema=label(tmp_path)),
        "valkey": lambda: valkey().url(prefix=label(tmp_path)),
    }[request.param]()
    served = await serve(store=url)
    answer = await served.http.post("/api/v1/runs", json={"workflow": "order", "id": "order-1", "anyway": True})
    assert answer.status_code == 201, answer.text
    return served


async def test_no_filter_finds_more_than_it_says(filled):
    for text in INJECTIONS:
        for name in FILTERS:
            value = f"customer={text}" if name == "tag" else text
            answer = await filled.http.get("/api/v1/runs", params={name: value})
            assert answer.status_code in (200, 422), f"{name}={text!r}: {answer.text}"
            if answer.status_code == 200:
                assert answer.json()["items"] == [], f"{name}={text!r}"
            assert "sql" not in answer.text.lower().replace(text.lower(), "")
        body = {"action": "terminate", "filter": {"prefix": text}, "dry_run": True}
        answer = await filled.http.post("/api/v1/runs/actions", json=body)
        assert answer.status_code in (200, 422)
        assert answer.status_code == 422 or answer.json()["matched"] == 0
    assert (await filled.http.get("/api/v1/runs")).json()["items"][0]["id"] == "order-1"


async def test_control_characters_stand_in_no_name(serve: Serve):
    served = await serve()
    for text in CONTROL:
        for body in (
            {"workflow": text},
            {"workflow": "order", "id": text},
            {"workflow": "order", "queue": text},
            {"workflow": "order", "tags": {text: "x"}},
            {"workflow": "order", "tags": {"x": text}},
        ):
            answer = await served.http.post("/api/v1/runs", json={**body, "anyway": True})
            assert answer.status_code == 422, f"{body}"
        answer = await served.http.get("/api/v1/runs", params={"prefix": text})
        assert answer.status_code == 422
        assert "set-cookie" not in answer.headers


async def test_a_path_is_no_file(serve: Serve):
    served = await serve()
    for path in (
        "/static/../../settings.py",
        "/static/%2e%2e/%2e%2e/settings.py",
        "/static/..%2fpages.py",
        "/static//etc",
    ):
        answer = await served.http.get(path)
        assert answer.status_code == 404
        assert "import" not in answer.text


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/yaml"])
async def test_nothing_parses_forms_or_anything_but_json(serve: Serve, kind):
    """Parsers of forms have been a way to fill a server's memory: there is none here."""
    served = await serve()
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 100_000
    asked = [operation for operation in EVERY if operation.body is not None]
    assert len(asked) > 20
    for operation in asked:
        request = operation.request("order-1")
        answer = await served.http.request(
            operation.method, request["url"], content=body, headers={"Content-Type": kind}, params=request["params"]
        )
        assert answer.status_code == 415, operation.id
        assert answer.json()["type"] == "urn:perdure:error:not-json"
    assert (await served.http.post("/login", content=body, headers={"Content-Type": kind})).status_code in (403, 415)


async def test_a_file_is_sent_whole_whatever_ranges_are_asked_for(serve: Serve):
    """Thousands of ranges have been a way to keep a server busy: none is looked at."""
    served = await serve()
    files = [path for path in PUBLIC if path.startswith("/static/")]
    ranges = f"bytes={','.join(f'{n}-' for n in range(1_000))}"
    for path in files:
        whole = await served.http.get(path)
        part = await served.http.get(path, headers={"Range": ranges, "If-Range": "x"})
        assert (part.status_code, part.content) == (200, whole.content)
        assert "content-range" not in part.headers


async def test_a_definition_is_bounded_and_a_bad_one_stops_nobody(serve: Serve):
    worker = Perdure(memory())

    @worker.workflow
    async def order() -> str:
        return "done"

    served = await serve(worker)
    step = {"name": "a", "task": "order"}
    many = [{"name": f"s{n}", "task": "order"} for n in range(20_000)]
    circle = [{**step, "after": ["b"]}, {"name": "b", "task": "order", "after": ["a"]}]
    laughs = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(20))
    for definition in ({"steps": many}, {"steps": circle}, {"steps": [step] * 2}, {"steps": "x" * 900_000}):
        for path in ("/api/v1/definitions", "/api/v1/definitions/validate", "/api/v1/definitions?anyway=true"):
            answer = await served.http.post(path, json={"name": "graph", **definition})
            assert answer.status_code in (413, 422), answer.text[:300]
            assert len(answer.content) < 50_000
    answer = await served.http.post("/definitions/data", json={"text": laughs})
    assert answer.status_code == 422, answer.text[:300]
    forged = StoredDefinition("graph", "1", '{"steps": [[[', 0)
    answer = await served.http.post("/api/v1/store/define", json={"definitions": [to_builtins(forged)]})
    assert answer.status_code == 422
    assert await served.app.definitions() == []
    await served.app.store.define([forged])  # by somebody who writes to the store itself
    run = await worker.start("order")
    assert await run.result(timeout=10) == "done"
