"""What people put into requests to get at something else; the bounds of bodies and heads are tested with those."""

from __future__ import annotations

import pytest

from tests.server.conftest import Serve
from tests.servers import label, postgres

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


@pytest.fixture(params=["sqlite", "postgres"])
async def filled(serve: Serve, tmp_path, request):
    url = f"sqlite:///{tmp_path}/shop.db" if request.param == "sqlite" else postgres().url(schema=label(tmp_path))
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
