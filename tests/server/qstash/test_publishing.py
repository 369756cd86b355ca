"""Publishing, over HTTP: destinations as they are sent, answers as they are documented, and what is wrong."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.server.qstash.conftest import until
from tests.server.security.test_access import asked

LATER = {"Upstash-Delay": "1h"}


async def published(served, destination: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, object]]:
    """Publish to a destination that no client tidies."""
    status, body = await asked(served.asgi, "POST", b"/v2/publish/" + destination.encode(), headers)
    return status, json.loads(body)


async def shown(served, message_id: object) -> dict[str, object]:
    return (await served.http.get(f"/v2/messages/{message_id}")).json()


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("https://a.example", "https://a.example"),
        ("https://a.example/x?b=c&d=%20", "https://a.example/x?b=c&d=%20"),
        ("https://a.example//x//y/../z/./", "https://a.example//x//y/../z/./"),
        ("https://a.example/%2F%41?u=https://b.example/?c", "https://a.example/%2F%41?u=https://b.example/?c"),
        ("https%3A%2F%2Fa.example%2Fx%3Fb%3Dc", "https://a.example/x?b=c"),
        ("https:/a.example/x", "https://a.example/x"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
    ],
)
async def test_a_destination_is_everything_behind_the_prefix(served, sent, meant):
    status, answer = await published(served, sent, LATER)
    assert status == 200
    assert (await shown(served, answer["messageId"]))["url"] == meant


async def test_nothing_on_the_way_tidies_a_destination(serving):
    served = await serving()
    url = "https://a.example//x/../%2F%c3%a9/./?u=https://b.example/?c&&d=%20"
    reader, writer = await asyncio.open_connection(served.http.base_url.host, served.http.base_url.port)
    head = f"POST /v2/publish/{url} HTTP/1.1\r\nHost: localhost\r\nUpstash-Delay: 1h\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode())
    await reader.readuntil(b"\r\n\r\n")
    answer = json.loads(await reader.readuntil(b"}"))
    writer.close()
    assert (await shown(served, answer["messageId"]))["url"] == url


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        ("", 400, "invalid destination url"),
        ("ftp://a.example", 400, "invalid destination url"),
        ("https://", 400, "invalid destination url"),
        ("https://a.example:99999/", 400, "invalid destination url"),
        ("https://u:p@a.example/", 400, "Authorization"),
        ("https://a.example/\u00e9", 400, "invalid destination url"),
        ("https://a.example/" + "x" * 5_000, 400, "invalid destination url"),
        ("group", 404, "group"),
        ("gr%20oup", 400, "URL group"),
        ("api/llm", 501, "api/llm"),
    ],
)
async def test_a_destination_that_is_none(served, sent, status, told):
    found, answer = await published(served, sent)
    assert found == status
    assert told in str(answer["error"])


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Upstash-Deduplication-Id": "a:b"}, "DeduplicationId cannot contain ':'"),
        ({"Upstash-Delay": "soon"}, "Upstash-Delay"),
        ({"Upstash-Not-Before": "x"}, "Upstash-Not-Before"),
        ({"Upstash-Retries": "1000"}, "quota maxRetries exceeded"),
        ({"Upstash-Retry-Delay": "import os"}, "retry delay"),
        ({"Upstash-Method": "TRACE"}, "Upstash-Method"),
        ({"Upstash-Flow-Control-Value": "rate=1"}, "Upstash-Flow-Control-Key"),
        ({"Upstash-Flow-Control-Key": "k"}, "Upstash-Flow-Control-Value"),
        ({"Upstash-Callback": "nowhere"}, "Upstash-Callback"),
    ],
)
async def test_options_that_are_none(served, headers, told):
    status, answer = await published(served, "https://a.example", headers)
    assert status == 400
    assert told in str(answer["error"])


async def test_a_message_arrives_as_it_was_published(served, there):
    headers = {"Upstash-Method": "PUT", "Upstash-Forward-X-A": "caf\u00e9", "Content-Type": "image/png"}
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = await served.http.post(f"/v2/publish/{there.url}/a?b=c", content=b"\x00\xff", headers=raw)
    assert answer.status_code == 200
    (got,) = await until(lambda: there.got)
    assert (got.method, got.target, got.body) == ("PUT", "/a?b=c", b"\x00\xff")
    assert (got.headers["x-a"], got.headers["content-type"]) == ("caf\u00e9", "image/png")
    assert got.headers["upstash-message-id"] == answer.json()["messageId"]


async def test_what_was_published_already_is_told_so(served):
    headers = {**LATER, "Upstash-Deduplication-Id": "order-7"}
    first = await served.http.post("/v2/publish/https://a.example", headers=headers)
    second = await served.http.post("/v2/publish/https://a.example", headers=headers)
    assert (first.status_code, second.status_code) == (200, 202)
    assert second.json() == {**first.json(), "deduplicated": True}


async def test_a_group_is_published_to_each_endpoint(served, there):
    endpoints = [{"url": f"{there.url}/{name}", "name": name} for name in ("one", "two")]
    assert (await served.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})).status_code == 200
    answer = (await served.http.post("/v2/publish/g", content=b"x")).json()
    assert [each["url"] for each in answer] == [each["url"] for each in endpoints]
    await until(lambda: len(there.got) == 2)
    assert {got.headers["upstash-topic-name"] for got in there.got} == {"g"}


async def test_a_queue_is_made_by_its_first_message(served):
    await served.http.post("/v2/queues", json={"queueName": "q", "paused": True})
    for path in ("/v2/enqueue/q/https://a.example", "/v2/enqueue/new/https://a.example"):
        assert (await served.http.post(path, headers=LATER)).status_code == 200
    found = {each["name"]: each for each in (await served.http.get("/v2/queues")).json()}
    assert {name: (each["parallelism"], each["paused"], each["lag"]) for name, each in found.items()} == {
        "q": (1, True, 1),
        "new": (1, False, 1),
    }
    assert (await served.http.post("/v2/enqueue/b%20d/https://a.example")).status_code == 400


class TestBatch:
    async def test_several_are_published_in_order(self, served, there):
        await served.http.post("/v2/topics/g/endpoints", json={"endpoints": [{"url": there.url}]})
        items = [
            {
                "destination": f"{there.url}/1",
                "headers": {"upstash-forward-x-a": "1"},
                "body": "b\u00fc",
                "queue": None,
            },
            {"destination": "g", "headers": {}, "body": None},
            {"destination": f"{there.url}/2", "queue": "q"},
        ]
        answer = (await served.http.post("/v2/batch", json=items)).json()
        assert [isinstance(each, list) for each in answer] == [False, True, False]
        await until(lambda: len(there.got) == 3)
        by_target = {got.target: got for got in there.got}
        assert by_target["/1"].body == "b\u00fc".encode()
        assert by_target["/1"].headers["x-a"] == "1"

    @pytest.mark.parametrize(
        ("item", "told"),
        [
            (5, "is no object"),
            ({}, "invalid destination url"),
            ({"destination": 5}, "destination: it must be text"),
            ({"destination": "https://a.example", "body": {"a": 1}}, "body: it must be text"),
            ({"destination": "https://a.example", "headers": []}, None),
            ({"destination": "https://a.example", "headers": "x"}, "headers"),
            ({"destination": "https://a.example", "headers": {"Upstash-Retries": ["1"]}}, "Upstash-Retries"),
            ({"destination": "https://a.example", "headers": {"Upstash-Retries": "x"}}, "Upstash-Retries"),
            ({"destination": "https://a.example", "queue": "b d"}, "queue"),
            ({"destination": "nobody"}, "nobody"),
        ],
    )
    async def test_one_that_is_wrong_is_named_and_nothing_published(self, served, item, told):
        good = {"destination": "https://a.example", "headers": LATER}
        answer = await served.http.post("/v2/batch", json=[good, item])
        if told is None:
            assert answer.status_code == 200
            return
        assert answer.status_code in (400, 404)
        assert answer.json()["error"].startswith("batch[1]: ")
        assert told in answer.json()["error"]
        assert (await served.http.get("/v2/events")).json()["events"] == []

    @pytest.mark.parametrize("body", ["", "{", "{}", "null", "5", '"x"'])
    async def test_a_body_that_is_none(self, served, body):
        answer = await served.http.post("/v2/batch", content=body)
        assert answer.status_code == 400


async def test_private_addresses_are_refused_where_others_can_ask(keyed, tmp_path):
    from perdure import Perdure
    from perdure.server.security.keys import Keys

    store = f"sqlite:///{tmp_path}/shop.db"
    async with Perdure(store, mode="client") as app:
        await Keys(app.store, app.world).create("ada", "admin", ["*"])
    public = await keyed(store=store, host="0.0.0.0", deliver_to=("10.1.0.0/16",))  # that is the point
    for url, status in (
        ("http://127.0.0.1/", 400),
        ("http://[::1]/", 400),
        ("http://169.254.169.254/latest", 400),
        ("http://10.2.0.1/", 400),
        ("http://10.1.0.1/", 200),
        ("https://a.example/", 200),
    ):
        answer = await public.ask("operator", "POST", f"/v2/publish/{url}", LATER)
        assert answer.status_code == status, url
        if status == 400:
            assert answer.json()["error"].startswith("invalid destination url: ")
            assert "--deliver-to" in answer.json()["error"]
    inside = "http://127.0.0.1/"
    nested = {"Upstash-Callback": "https://a.example", "Upstash-Callback-Failure-Callback": inside}
    for path, headers in (
        ("publish/https://a.example", {"Upstash-Callback": inside}),
        ("publish/https://a.example", {"Upstash-Failure-Callback": inside}),
        ("publish/https://a.example", nested),
        ("enqueue/q/https://a.example", nested),
        (f"schedules/{inside}", {"Upstash-Cron": "* * * * *"}),
        ("schedules/https://a.example", {"Upstash-Cron": "* * * * *", **nested}),
        ("schedules/group", {"Upstash-Cron": "* * * * *", **nested}),
        ("trigger/https://a.example", {"Upstash-Failure-Callback": inside}),
    ):
        answer = await public.ask("operator", "POST", f"/v2/{path}", {**LATER, **headers})
        assert answer.status_code == 400, path
        assert "invalid destination url: no request is made to 127.0.0.1" in answer.json()["error"]
    for path, body in (
        ("batch", [{"destination": "https://a.example", "headers": nested}]),
        ("topics/group/endpoints", {"endpoints": [{"url": "https://a.example"}, {"url": inside}]}),
    ):
        answer = await public.ask("operator", "POST", f"/v2/{path}", json=body)
        assert answer.status_code == 400, path
        assert "invalid destination url: no request is made to 127.0.0.1" in answer.json()["error"]
    for path in ("topics", "schedules"):
        assert (await public.ask("operator", "GET", f"/v2/{path}")).json() == []
