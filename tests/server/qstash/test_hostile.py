"""Whatever is sent to whichever route: an answer that says what is wrong, and never that the server broke."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from perdure.server import ServerSettings, create_server
from tests.server.conftest import memory
from tests.server.security.test_access import asked

ROUTES = sorted(
    {
        (method, route.path)
        for route in create_server(ServerSettings(store=memory())).routes
        if route.path.startswith(("/v2/", "/llm/"))
        for method in route.methods
    }
)
NAMES = [
    "x",
    "a b",
    "%00",
    "%ff",
    "a%2fb",
    "é",
    "x" * 3_000,
    "-",
    "~",
    "msg_",
    "msg_a.b.c",
    "schedule:x",
]
QUERIES = [
    "", "?", "?a", "?=", "?&&", "?count=x", "?count=-1", "?count=0", "?count=99999999999999999999", "?cursor=x",
    "?cursor=W10", "?cursor=WzEsbnVsbCwtMSwtMV0", "?cursor=WzEsMSwxLDFd", "?fromDate=x", "?toDate=99999999999999999",
    "?messageId=", "?messageIds=%00", "?dlqIds=%ff", "?state=nothing", "?responseStatus=x", "?label=%2C",
    "?source=workflow", "?parallelism=0", "?rate=1&period=x", "?rate=99999999&period=0", "?" + "a=b&" * 2_000,
    "?url=%00", "?host=&path=",
    "?parallelism=99999999999", "?rate=1&period=99999999999d", "?scheduleId=a%20b",
]  # fmt: skip
BODIES: list[bytes] = [
    b"", b"{", b"null", b"[]", b"[[]]", b"{}", b'"x"', b"5", b"[null]", b"\xff", b"\x00", b"[" * 5_000,
    b'{"messageIds": null}', b'{"messageIds": [5]}', b'{"dlqIds": "x"}', b'{"endpoints": null}', b'{"endpoints": [{}]}',
    b'{"endpoints": [{"url": 5}]}', b'{"queueName": null}', b'{"queueName": "q", "parallelism": 1e400}',
    b'{"queueName": "q", "parallelism": true}',
    b'[{"destination": "https://a.example", "headers": {"Upstash-Delay": "1h", "": ""}}]',
    b'[{"destination": "https://a.example", "headers": {"Upstash-Forward-\\n": "x", "Upstash-Delay": "1h"}}]',
    b'[{"destination": "https://a.example", "headers": {"Upstash-Forward-X": "\\ud83d", "Upstash-Delay": "1h"}}]',
    b'[{"destination": "https://a.example\\u0000", "body": "x"}]', b'{"a": 1, "a": 2}',
]  # fmt: skip


async def sent(served: Any, method: str, path: str, body: bytes) -> tuple[int, Any]:
    answer = await served.http.request(method, path, content=body, headers={"Upstash-Delay": "1h"})
    return answer.status_code, answer


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=" ".join)
async def test_nothing_breaks_a_route(served, method, path):
    if method == "HEAD":
        return
    parts = [quote(name, safe="%./-~:") for name in NAMES] if "{" in path else ["x"]
    grid = itertools.chain(
        ((part, "", b"{}") for part in parts),
        ((parts[0], query, b"") for query in QUERIES),
        ((parts[0], "", body) for body in BODIES),
    )
    for part, query, body in grid:
        filled = re.sub(r"\{\w+(:\w+)?\}", part, path)
        found, answer = await sent(served, method, f"{filled}{query}", body)
        assert found != 500, (filled, query, body)
        assert found < 500 or found == 501, (filled, query, body, answer.text)
        if found >= 400:
            told = json.loads(answer.content)
            assert list(told) == ["error"], (filled, query, body, told)
            assert told["error"]


@pytest.mark.parametrize(
    "target",
    [
        b"/v2/publish/", b"/v2/publish/\xff\xfe", b"/v2/publish/https://a.example/\xff", b"/v2/publish/%",
        b"/v2/publish/%ff",
        b"/v2/publish/https:", b"/v2/publish/https:/", b"/v2/publish/https:///x", b"/v2/publish//https://a.example",
        b"/v2/publish/https://a.example\r\nX: y", b"/v2/publish/https%3A", b"/v2/publish/HTTPS%3a%2f%2fa.example",
        b"/v2/publish/http://[::1", b"/v2/publish/http://[zz]/", b"/v2/publish/http://a.example:x/", b"/v2/publish/://",
        b"/v2/publish/javascript://x", b"/v2/publish/gopher://x/passwd", b"/v2/publish/api/",
        b"/v2/publish/?qstash_token=",
        b"/v2/publish/https://a.example/?qstash_token=%ff", b"/v2/publish/https://\xe2\x80\x8b.example",
    ],
)  # fmt: skip
async def test_no_destination_breaks_it(served, target):
    status, body = await asked(served.asgi, "POST", target, {"Upstash-Delay": "1h"})
    assert status in (200, 400, 404, 501), body
    assert status == 200 or list(json.loads(body)) == ["error"]
