"""What may stand in a body, and what may not."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from perdure.server import ServerSettings, bodies
from perdure.server.errors import Problem

JSON = {"Content-Type": "application/json"}


async def send(served, body: bytes, path: str = "/api/v1/events", **headers: str):
    return await served.http.post(path, content=body, headers={**JSON, **headers})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "Expecting property name"),
        (b'{"type": "a"} {}', 400, "Extra data"),
        (b'{"type": NaN}', 400, "NaN is no JSON"),
        (b'{"payload": -Infinity}', 400, "-Infinity is no JSON"),
        (b'{"type": "\xff"}', 400, "no UTF-8 (at byte 10)"),
        (b'\xef\xbb\xbf{"type": "a"}', 400, "Expecting value"),
        (b'{"type": "a", "type": "b"}', 422, "the name 'type' twice"),
        (b'{"type": "a", "payload": {"x": [{"y": 1, "y": 2}]}}', 422, "the name 'y' twice"),
        (b'{"type": "a", "payload": 9223372036854775808}', 422, "does not fit 64 bits"),
        (b'{"type": "a", "payload": ' + b"9" * 5000 + b"}", 422, "does not fit 64 bits"),
        (b'{"type": "a", "payload": 1e400}', 422, "out of the range of numbers"),
        (b'{"type": "a", "payload": "\\ud800"}', 422, "half a character"),
        (b'{"type": "a", "payload": {"\\udc00": 1}}', 422, "half a character"),
        (b'{"type": "a", "payload": "\n"}', 400, "Invalid control character"),
        (b'{"type": "a", "payload": ' + b"[" * 65 + b"]" * 65 + b"}", 422, "nested deeper than body_depth = 64"),
        (b'{"type": "a", "payload": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, 422, "nested deeper"),
        (b"[" * 1_000_000, 422, "more than body_tokens = 200,000"),
        (b'{"type": "a", "payload": [' + b"1," * 200_000 + b"1]}", 422, "more than body_tokens = 200,000"),
        (b'{"type": "a", "extra": 1}', 422, "no such field"),
        (b'{"type": 7}', 422, "valid string"),
        (b'{"type": "a\\u0000"}', 422, "printable"),
        (b"null", 422, "object"),
        (b"", 422, "it is needed, and not there"),
    ],
)
async def test_what_is_refused(serve, body, status, message):
    served = await serve()
    answer = await send(served, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert message in answer.json()["errors"][0]["message"]
    assert answer.json()["errors"][0]["path"].startswith("body")


@pytest.mark.parametrize(
    "value",
    [
        2**63 - 1,
        -(2**63),
        -0.0,
        1e308,
        5e-324,
        "\U0001f600 עִברִית \u0000",
        "brackets in text {[{[" * 100,
        '"\\"',
        {"": [None, True, {}]},
        [[[]]] * 50,
    ],
)
async def test_what_goes_in_comes_out(serve, value):
    served = await serve()
    started = await send(served, json.dumps({"workflow": "w", "input": value}).encode(), "/api/v1/runs")
    assert started.status_code == 201, started.text
    journal = await served.http.get(f"/api/v1/runs/{started.json()['id']}/journal")
    found = journal.json()["items"][0]["payload"]
    assert (found, str(found)) == (value, str(value))


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 500_000, b'"' * 999_999, b'"\\' * 499_999, b"\\" * 999_999])
def test_texts_without_an_end_take_no_longer_than_others(text):
    began = time.process_time()
    with pytest.raises(Problem):
        bodies.parse_json(b"[" * 65 + text, ServerSettings())
    assert time.process_time() - began < 2


async def test_whoever_logs_in_may_send_little(serve):
    served = await serve()
    answer = await send(served, b'{"key": "%b"}' % (b"x" * 9_000), "/login")
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:perdure:error:body-too-large")


async def test_as_deep_as_is_allowed(serve):
    served = await serve()
    deep: object = 1
    for _ in range(62):
        deep = [deep] if isinstance(deep, dict) else {"a": deep}
    assert (await send(served, json.dumps({"type": "a", "payload": [deep, "]" * 99]}).encode())).status_code == 200
    assert (await send(served, json.dumps({"type": "a", "payload": [[deep], "]" * 99]}).encode())).status_code == 422


async def test_a_body_that_says_how_large_it_is_is_refused_unread(serve):
    served = await serve()
    answer = await send(served, b"x", **{"Content-Length": "100000000"})
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:perdure:error:body-too-large"


async def test_a_body_that_does_not_say_is_read_no_further_than_the_bound(serve):
    served = await serve()
    read = 0

    async def endless():
        nonlocal read
        while read < 100_000_000:
            read += 65_536
            yield b" " * 65_536
            await asyncio.sleep(0)

    answer = await served.http.post("/api/v1/events", content=endless(), headers=JSON)
    assert answer.status_code == 413
    assert read < 3_000_000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
async def test_another_type_than_json(serve, kind):
    served = await serve()
    answer = await served.http.post("/api/v1/events", content=b'{"type": "a"}', headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["type"]) == (415, "urn:perdure:error:not-json")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/cloudevents+json"]
)
async def test_types_that_are_json(serve, kind):
    served = await serve()
    answer = await served.http.post("/api/v1/events", content=b'{"type": "a"}', headers={"Content-Type": kind})
    assert answer.status_code == 200


async def test_a_body_that_does_not_come(serve, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_WITHIN", 0.05)
    served = await serve()

    async def stuck():
        yield b"{"
        await asyncio.sleep(10)

    answer = await served.http.post("/api/v1/events", content=stuck(), headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (408, "urn:perdure:error:body-too-slow")
