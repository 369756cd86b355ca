"""What goes over the wire is what QStash's own client sends."""

from __future__ import annotations

import asyncio
import json

import pytest
from qstash import QStash

from perdure.publisher import Callback, Endpoint, FlowControl, Message
from tests.publisher.conftest import said

URL = "https://a.example/x?b=c"
OURS = {"accept", "user-agent", "host", "connection", "accept-encoding", "content-length", "upstash-telemetry-sdk"}
OURS |= {"upstash-telemetry-platform", "upstash-telemetry-runtime"}
FULL = {
    "method": "PUT",
    "headers": {"X-A": "1"},
    "retries": 2,
    "retry_delay": "pow(2, retried)",
    "timeout": 90,
    "delay": 10,
}
THEIRS = {
    **FULL,
    "callback": "https://cb.example",
    "failure_callback": "https://f.example",
    "flow_control": {"key": "k", "parallelism": 3, "rate": 5, "period": 60},
    "label": "lab",
    "redact": {"body": True, "header": ["Authorization", "X"]},
    "callback_headers": {"Upstash-Callback-Retries": "4", "Upstash-Callback-Forward-X-Cb": "3"},
}
MINE = {
    **FULL,
    "callback": Callback("https://cb.example", retries=4, headers={"X-Cb": "3"}),
    "failure_callback": "https://f.example",
    "flow_control": FlowControl("k", parallelism=3, rate=5, per="1m"),
    "labels": "lab",
    "redact": ["body", "header[Authorization]", "header[X]"],
}
SENT = b'{"messageId": "msg_1"}'
QUEUE = b'{"name": "q", "parallelism": 1, "createdAt": 1, "updatedAt": 1, "lag": 0, "paused": false}'
GROUP = b'{"name": "g", "createdAt": 1, "updatedAt": 1, "endpoints": [{"url": "https://a.example"}]}'
MESSAGE = (
    b'{"messageId": "m", "url": "u", "method": "POST", "maxRetries": 1, "notBefore": 1, "createdAt": 1, "header": {}}'
)
DEAD = MESSAGE[:-1] + b', "dlqId": "d", "responseStatus": 500}'
SCHEDULE = (
    b'{"scheduleId": "s", "destination": "https://a.example", "cron": "* * * * *", "createdAt": 1, "method": "POST", '
    b'"retries": 3}'
)
FLOW = (
    b'{"flowControlKey": "k", "waitListSize": 1, "parallelismMax": 1, "parallelismCount": 1, "rateMax": 1, '
    b'"rateCount": 1, "ratePeriod": 1, "ratePeriodStart": 1, "isPaused": false, "isPinnedParallelism": false, '
    b'"isPinnedRate": false}'
)
KEYS = b'{"current": "a", "next": "b"}'

CALLS = {
    "publish": (
        SENT,
        lambda q: q.message.publish(
            url=URL, body="x", content_type="text/x", not_before=1_700_000_000, deduplication_id="d", **THEIRS
        ),
        lambda p: p.publish(
            URL,
            body="x",
            not_before=1_700_000_000,
            dedup_id="d",
            **{**MINE, "headers": {"X-A": "1", "Content-Type": "text/x"}},
        ),
    ),
    "publish JSON": (
        SENT,
        lambda q: q.message.publish_json(url=URL, body={"a": [1]}, deduplication_id="d"),
        lambda p: p.publish(URL, json={"a": [1]}, dedup_id="d"),
    ),
    "publish nothing": (
        SENT,
        lambda q: q.message.publish(url="https://a.example", deduplication_id="d"),
        lambda p: p.publish("https://a.example", dedup_id="d"),
    ),
    "publish to a group": (
        b'[{"messageId": "msg_1", "url": "https://a.example"}]',
        lambda q: q.message.publish_json(url_group="g", body=1, deduplication_id="d"),
        lambda p: p.groups.publish("g", json=1, dedup_id="d"),
    ),
    "enqueue": (
        SENT,
        lambda q: q.message.enqueue_json(queue="q", url=URL, body=1, retries=1, deduplication_id="d"),
        lambda p: p.enqueue("q", URL, json=1, retries=1, dedup_id="d"),
    ),
    "enqueue to a group": (
        b'[{"messageId": "msg_1", "url": "https://a.example"}]',
        lambda q: q.message.enqueue(queue="q", url_group="g", body=b"\xff", deduplication_id="d"),
        lambda p: p.groups.enqueue("q", "g", body=b"\xff", dedup_id="d"),
    ),
    "batch": (
        b'[{"messageId": "msg_1"}, [{"messageId": "msg_2", "url": "https://a.example"}]]',
        lambda q: q.message.batch_json(
            [
                {"url": URL, "body": 1, "deduplication_id": "d"},
                {"url_group": "g", "body": 2, "deduplication_id": "e", "queue": "q"},
            ]
        ),
        lambda p: p.batch([Message(URL, json=1, dedup_id="d"), Message(group="g", json=2, dedup_id="e", queue="q")]),
    ),
    "get a message": (MESSAGE, lambda q: q.message.get("msg_1"), lambda p: p.messages.get("msg_1")),
    "cancel": (b"{}", lambda q: q.message.cancel("msg_1"), lambda p: p.messages.cancel("msg_1")),
    "schedule": (
        b'{"scheduleId": "s"}',
        lambda q: q.schedule.create(
            destination=URL, cron="* * * * *", body="x", content_type="text/x", schedule_id="s", queue="q", **THEIRS
        ),
        lambda p: p.schedules.create(
            URL,
            cron=" * * * * * ",
            body="x",
            id="s",
            queue="q",
            **{**MINE, "headers": {"X-A": "1", "Content-Type": "text/x"}},
        ),
    ),
    "get a schedule": (SCHEDULE, lambda q: q.schedule.get("s"), lambda p: p.schedules.get("s")),
    "list schedules": (b"[" + SCHEDULE + b"]", lambda q: q.schedule.list(), lambda p: p.schedules.list()),
    "delete a schedule": (b"{}", lambda q: q.schedule.delete("s"), lambda p: p.schedules.delete("s")),
    "pause a schedule": (b"{}", lambda q: q.schedule.pause("s"), lambda p: p.schedules.pause("s")),
    "resume a schedule": (b"{}", lambda q: q.schedule.resume("s"), lambda p: p.schedules.resume("s")),
    "add to a group": (
        b"{}",
        lambda q: q.url_group.upsert_endpoints("g", [{"url": "https://a.example", "name": "a"}, {"url": URL}]),
        lambda p: p.groups.add("g", [Endpoint("https://a.example", "a"), URL]),
    ),
    "remove from a group": (
        b"{}",
        lambda q: q.url_group.remove_endpoints("g", [{"url": URL}]),
        lambda p: p.groups.remove("g", [URL]),
    ),
    "get a group": (GROUP, lambda q: q.url_group.get("g"), lambda p: p.groups.get("g")),
    "list groups": (b"[" + GROUP + b"]", lambda q: q.url_group.list(), lambda p: p.groups.list()),
    "delete a group": (b"{}", lambda q: q.url_group.delete("g"), lambda p: p.groups.delete("g")),
    "set a queue": (
        b"{}",
        lambda q: q.queue.upsert("q", parallelism=2, paused=True),
        lambda p: p.queues.set("q", parallelism=2, paused=True),
    ),
    "get a queue": (QUEUE, lambda q: q.queue.get("q"), lambda p: p.queues.get("q")),
    "list queues": (b"[" + QUEUE + b"]", lambda q: q.queue.list(), lambda p: p.queues.list()),
    "delete a queue": (b"{}", lambda q: q.queue.delete("q"), lambda p: p.queues.delete("q")),
    "pause a queue": (b"{}", lambda q: q.queue.pause("q"), lambda p: p.queues.pause("q")),
    "resume a queue": (b"{}", lambda q: q.queue.resume("q"), lambda p: p.queues.resume("q")),
    "get a dead letter": (DEAD, lambda q: q.dlq.get("d"), lambda p: p.dlq.get("d")),
    "list dead letters": (
        b'{"messages": [' + DEAD + b"]}",
        lambda q: q.dlq.list(cursor="c", filter={"queue": "q", "response_status": 500, "label": "l"}),
        lambda p: p.dlq.list(cursor="c", queue="q", status=500, label="l").page(),
    ),
    "delete a dead letter": (b"{}", lambda q: q.dlq.delete("d"), lambda p: p.dlq.delete("d")),
    "get a key": (FLOW, lambda q: q.flow_control.get("k"), lambda p: p.flow_control.get("k")),
    "global parallelism": (
        b'{"parallelismMax": 1, "parallelismCount": 1}',
        lambda q: q.flow_control.get_global_parallelism(),
        lambda p: p.flow_control.total(),
    ),
    "pause a key": (b"{}", lambda q: q.flow_control.pause("k"), lambda p: p.flow_control.pause("k")),
    "resume a key": (b"{}", lambda q: q.flow_control.resume("k"), lambda p: p.flow_control.resume("k")),
    "pin a key": (
        b"{}",
        lambda q: q.flow_control.pin("k", {"parallelism": 3, "rate": 5, "period": 60}),
        lambda p: p.flow_control.pin("k", parallelism=3, rate=5, per="1m"),
    ),
    "unpin a key": (
        b"{}",
        lambda q: q.flow_control.unpin("k", {"parallelism": True}),
        lambda p: p.flow_control.unpin("k", rate=False),
    ),
    "reset a key": (b"{}", lambda q: q.flow_control.reset_rate("k"), lambda p: p.flow_control.reset_rate("k")),
    "get the signing keys": (KEYS, lambda q: q.signing_key.get(), lambda p: p.keys.get()),
    "rotate the signing keys": (KEYS, lambda q: q.signing_key.rotate(), lambda p: p.keys.rotate()),
}


def shown(got):
    """What a request says, apart from what every client says of itself."""
    path, _, query = got.target.partition("?")
    headers = {name: value for name, value in got.headers.items() if name not in OURS}
    try:
        body = json.loads(got.body)
    except ValueError:
        body = got.body
    if isinstance(body, list):
        body = [without_type(item) for item in body]
    if "/publish/" not in path and "/enqueue/" not in path and "/schedules/" not in path:
        query = sorted(query.split("&"))
        headers.pop("content-type", None)  # ours says so only where there is a body
    return got.method, path, query, headers, body


def without_type(item):
    """An item of a batch, with the names of headers in one case, and without what stands for nothing."""
    headers = {name.lower(): value for name, value in item["headers"].items() if name.lower() not in OURS}
    return {**{name: value for name, value in item.items() if value is not None}, "headers": headers}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_what_the_official_client_sends(recorder, asked, name):
    answer, theirs, ours = CALLS[name]
    recorder.answer = said(answer)
    official = QStash("tok", base_url=recorder.url, retry=False)
    try:
        await asyncio.to_thread(theirs, official)
    finally:
        official.http._client.close()
    await ours(asked)
    first, second = recorder.got
    assert shown(second) == shown(first)


@pytest.mark.parametrize("name", CALLS)
async def test_the_blocking_publisher_sends_the_same(recorder, asked, name):
    answer, _, ours = CALLS[name]
    recorder.answer = said(answer)
    found = await ours(asked)
    with asked.blocking as blocking:
        assert await asyncio.to_thread(ours, blocking) == found
    first, second = recorder.got
    assert shown(second) == shown(first)
