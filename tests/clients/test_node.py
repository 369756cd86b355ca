"""`@upstash/qstash` from npm, unmodified, through every method it has, against a real server."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from perdure.dispatch.signing import SignatureError, SigningKeys, verify
from tests.clients.conftest import ClientError, Destination, Node, Received, Server, until
from tests.clients.packages import node_packages

FULL: dict[str, Any] = {
    "method": "PUT",
    "headers": {"X-A": "1", "Content-Type": "text/x", "Upstash-Callback-Forward-X-Cb": "2"},
    "retries": 2,
    "retryDelay": "pow(2, retried)",
    "timeout": 90,
    "redact": {"body": True, "header": ["Authorization", "X"]},
}


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"n{uuid.uuid4().hex[:12]}"


def verified(node: Node, server: Server, got: Received, url: str) -> None:
    """Have the official receiver look at a request."""
    keys = server.keys()
    asked = {"signature": got.headers["upstash-signature"], "body": got.body.decode(), "url": url, **keys}
    assert node("verify", asked) is True


def dead(node: Node, there: Destination, name: str, count: int) -> list[dict[str, Any]]:
    """Have messages fail for good, and return their dead letters."""
    there.failing.add(name)
    for number in range(count):
        node("publish", {"url": f"{there.url}/{name}", "body": f"{number}", "retries": 0, "label": name})

    def found() -> list[dict[str, Any]] | None:
        messages = node("dlq.listMessages", {"filter": {"label": name}})["messages"]
        return messages if len(messages) == count else None

    return until(found)


def test_a_message_with_everything_arrives(node, server, there, name):
    url = f"{there.url}/{name}?b=c"
    sent = node(
        "publish",
        {
            **FULL,
            "url": url,
            "body": "raw",
            "callback": f"{there.url}/{name}-callback",
            "failureCallback": f"{there.url}/{name}-failed",
            "deduplicationId": name,
            "label": ["a", name],
            "flowControl": {"key": name, "parallelism": 3, "rate": 5, "period": "1m"},
        },
    )
    (got,) = there.at(f"/{name}")
    assert (got.method, got.target, got.body) == ("PUT", f"/{name}?b=c", b"raw")
    assert (got.headers["x-a"], got.headers["content-type"]) == ("1", "text/x")
    assert got.headers["upstash-message-id"] == sent["messageId"]
    verified(node, server, got, url)
    (told,) = there.at(f"/{name}-callback")
    verified(node, server, told, f"{there.url}/{name}-callback")
    assert told.headers["x-cb"] == "2"
    body = json.loads(told.body)
    assert (body["status"], body["sourceMessageId"]) == (200, sent["messageId"])
    assert json.loads(base64.b64decode(body["body"])) == {"is": "fine"}
    again = node("publish", {"url": url, "body": "x", "deduplicationId": name})
    assert again == {"messageId": sent["messageId"], "deduplicated": True}


def test_json_and_groups_are_published(node, there, name):
    node("urlGroups.addEndpoints", {"name": name, "endpoints": [{"url": f"{there.url}/{name}", "name": "one"}]})
    for where in ("urlGroup", "topic"):
        (sent,) = node("publishJSON", {where: name, "body": {"a": where}})
        assert sent["url"] == f"{there.url}/{name}"
    bodies = [json.loads(got.body) for got in there.at(f"/{name}", 2)]
    assert sorted(each["a"] for each in bodies) == ["topic", "urlGroup"]
    same = {"url": there.url, "body": {"a": name}, "contentBasedDeduplication": True}
    first, second = (node("publishJSON", same) for _ in range(2))
    assert second == {**first, "deduplicated": True}


@pytest.mark.parametrize(
    ("api", "url"),
    [
        ({"name": "llm", "provider": {"$provider": "openai"}}, "https://api.openai.com/v1/chat/completions"),
        ({"name": "llm", "provider": {"$provider": "anthropic"}}, "https://api.anthropic.com/v1/messages"),
        ({"name": "email", "provider": {"$provider": "resend"}}, "https://api.resend.com/emails"),
    ],
)
def test_a_provider_is_a_destination_like_others(node, api, url):
    sent = node("publishJSON", {"api": api, "body": {}, "callback": "https://cb.example", "delay": "1d"})
    assert node("messages.get", sent["messageId"])["url"] == url
    node("messages.cancel", sent["messageId"])


def test_what_is_not_supported_says_so(node, server):
    with pytest.raises(ClientError, match="not supported by Perdure") as caught:
        node("publishJSON", {"api": {"name": "llm"}, "body": {}, "callback": "https://cb.example"})
    assert caught.value.status == 501
    provider = {"owner": "upstash", "baseUrl": f"{server.url}/llm", "token": server.token}
    with pytest.raises(ClientError, match="not supported by Perdure: POST /llm/v1/chat/completions"):
        node("create", {"provider": provider, "model": "m", "messages": []}, chat=True)


def test_messages_are_looked_at_and_cancelled(node, there, name):
    def later(**more: Any) -> str:
        sent: str = node("publish", {"url": f"{there.url}/{name}", "delay": 3_600, "label": name, **more})["messageId"]
        return sent

    id_ = later(body="x", flowControl={"key": name, "parallelism": 2})
    found = node("messages.get", id_)
    assert (found["url"], found["body"], found["label"]) == (f"{there.url}/{name}", "x", name)
    assert found["notBefore"] - found["createdAt"] == 3_600_000
    assert node("messages.cancel", id_) == {"cancelled": 1}
    for call in ("messages.get", "messages.cancel"):
        with pytest.raises(ClientError) as caught:
            node(call, id_)
        assert caught.value.status == 404
    assert node("messages.cancel", [later(), later()]) == {"cancelled": 2}
    later(), later()
    by_filter = {"filter": {"label": [name, "other"], "url": f"{there.url}/{name}", "fromDate": {"$date": 1}}}
    assert node("messages.cancel", {**by_filter, "count": 5}) == {"cancelled": 2}
    node("messages.delete", later())
    assert node("messages.deleteMany", [later()]) == 1
    later()
    assert node("messages.cancel", {"all": True})["cancelled"] >= 1
    later()
    assert node("messages.deleteAll") >= 1


def test_messages_are_published_in_batches(node, there, name):
    node("urlGroups.addEndpoints", {"name": name, "endpoints": [{"url": f"{there.url}/{name}-group"}]})
    items = [
        {**FULL, "url": f"{there.url}/{name}-1", "body": "x", "queueName": name, "label": ["a", "b"]},
        {"urlGroup": name, "body": "y"},
    ]
    one, group = node("batch", items)
    assert there.at(f"/{name}-1")[0].headers["upstash-message-id"] == one["messageId"]
    assert [each["url"] for each in group] == [f"{there.url}/{name}-group"]
    node("batchJSON", [{"url": f"{there.url}/{name}-2", "body": {"a": 1}}, {"url": f"{there.url}/{name}-3"}])
    assert json.loads(there.at(f"/{name}-2")[0].body) == {"a": 1}
    there.at(f"/{name}-3")


def test_groups(node, there, name):
    node("urlGroups.addEndpoints", {"name": name, "endpoints": [{"url": f"{there.url}/a", "name": "one"}]})
    node("topics.addEndpoints", {"name": name, "endpoints": [{"url": f"{there.url}/b"}]})
    found = node("urlGroups.get", name)
    assert [each["url"] for each in found["endpoints"]] == [f"{there.url}/a", f"{there.url}/b"]
    assert name in [each["name"] for each in node("urlGroups.list")]
    node("urlGroups.removeEndpoints", {"name": name, "endpoints": [{"name": "one"}]})
    assert len(node("urlGroups.get", name)["endpoints"]) == 1
    node("topics.delete", name)
    with pytest.raises(ClientError) as caught:
        node("urlGroups.get", name)
    assert caught.value.status == 404


def test_queues(node, there, name):
    node("upsert", {"parallelism": 1, "paused": True}, queue=name)
    for number in range(3):
        node("enqueue", {"url": f"{there.url}/{name}", "body": f"{number}"}, queue=name)
    node("enqueueJSON", {"url": f"{there.url}/{name}", "body": 3}, queue=name)
    found = node("get", queue=name)
    assert (found["name"], found["parallelism"], found["paused"], found["lag"]) == (name, 1, True, 4)
    assert name in [each["name"] for each in node("list", queue=name)]
    node("resume", queue=name)
    assert [got.body for got in there.at(f"/{name}", 4)] == [b"0", b"1", b"2", b"3"]
    node("pause", queue=name)
    assert node("get", queue=name)["paused"] is True
    node("delete", queue=name)
    with pytest.raises(ClientError) as caught:
        node("get", queue=name)
    assert caught.value.status == 404


def test_schedules(node, there, name):
    made = node(
        "schedules.create",
        {
            **FULL,
            "destination": f"{there.url}/{name}",
            "cron": "CRON_TZ=Europe/Paris */5 * * * *",
            "body": "{}",
            "scheduleId": name,
            "queueName": "q",
            "delay": 10,
            "label": ["a", "b"],
            "flowControl": {"key": name, "parallelism": 3, "rate": 5, "period": "1m"},
        },
    )
    assert made == {"scheduleId": name}
    found = node("schedules.get", name)
    expected = {
        "scheduleId": name, "destination": f"{there.url}/{name}", "cron": "CRON_TZ=Europe/Paris */5 * * * *",
        "method": "PUT", "retries": 2, "delay": 10, "timeout": 90, "queueName": "q", "isPaused": False,
        "label": "a,b", "flowControlKey": name, "parallelism": 3, "rate": 5, "period": 60,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    assert found["body"].startswith("REDACTED:")
    assert name in [each["scheduleId"] for each in node("schedules.list")]
    node("schedules.pause", {"schedule": name})
    assert node("schedules.get", name)["isPaused"] is True
    node("schedules.resume", {"schedule": name})
    assert node("schedules.get", name)["isPaused"] is False
    node("schedules.delete", name)
    with pytest.raises(ClientError) as caught:
        node("schedules.get", name)
    assert caught.value.status == 404


class TestDeadLetters:
    def test_they_are_listed(self, node, there, name):
        letters = dead(node, there, name, 3)
        assert (letters[0]["responseStatus"], letters[0]["responseBody"]) == (500, '{"is": "broken"}')
        by_filter = {"filter": {"label": name, "responseStatus": [500, 502], "fromDate": 1}}
        page = node("dlq.listMessages", {**by_filter, "count": 2})
        rest = node("dlq.listMessages", {**by_filter, "count": 2, "cursor": page["cursor"]})
        assert page["messages"] + rest["messages"] == letters
        ids = [letters[0]["dlqId"], letters[2]["dlqId"]]
        assert [each["dlqId"] for each in node("dlq.listMessages", {"dlqIds": ids})["messages"]] == ids

    def test_they_are_forgotten(self, node, there, name):
        ids = [each["dlqId"] for each in dead(node, there, name, 6)]
        node("dlq.delete", ids[0])
        assert node("dlq.delete", [ids[1], ids[2]])["deleted"] == 2
        assert node("dlq.deleteMany", {"dlqIds": [ids[3]]})["deleted"] == 1
        assert node("dlq.delete", {"filter": {"label": name}, "count": 1})["deleted"] == 1
        assert node("dlq.delete", {"all": True})["deleted"] >= 1
        assert node("dlq.listMessages", {"filter": {"label": name}})["messages"] == []

    def test_they_are_published_anew(self, node, there, name):
        ids = [each["dlqId"] for each in dead(node, there, name, 6)]
        there.failing.remove(name)
        before = len(there.at(f"/{name}", 6))
        assert len(node("dlq.retry", ids[0])["responses"]) == 1
        assert len(node("dlq.retry", [ids[1], ids[2]])["responses"]) == 2
        answer = node("dlq.retry", {"filter": {"label": name}, "count": 2})
        assert len(answer["responses"]) == 2
        assert len(node("dlq.retry", {"all": True})["responses"]) >= 1
        assert len(there.at(f"/{name}", before + 6)) == before + 6


def test_logs(node, there, name):
    sent = [node("publish", {"url": f"{there.url}/{name}", "label": name})["messageId"] for _ in range(2)]

    def delivered() -> list[dict[str, Any]] | None:
        found = node("logs", {"filter": {"label": [name], "state": "DELIVERED"}})["logs"]
        return found if len(found) == 2 else None

    entries = until(delivered)
    assert [each["messageId"] for each in entries] == sent[::-1]
    (host,) = {urlsplit(there.url).hostname}
    by_filter = {"count": 3, "filter": {"label": [name], "fromDate": 1, "host": host}}
    page = node("logs", by_filter)
    rest = node("logs", {**by_filter, "cursor": page["cursor"]})
    assert [len(page["logs"]), len(rest["logs"])] == [3, 3]
    assert {each["messageId"] for each in node("logs", {"messageIds": sent})["logs"]} == set(sent)
    assert node("events", {})["events"]


def test_flow_control(node, there, name):
    flow = {"key": name, "parallelism": 3, "ratePerSecond": 5, "period": "1m"}
    node("publish", {"url": there.url, "delay": "1h", "flowControl": flow})
    found = node("flowControl.get", name)
    assert (found["parallelismMax"], found["rateMax"], found["ratePeriod"]) == (3, 5, 60)
    node("flowControl.pause", name)
    assert node("flowControl.get", name)["isPaused"] is True
    node("flowControl.resume", name)
    node("flowControl.pin", name, {"parallelism": 1, "rate": 2, "period": 3})
    found = node("flowControl.get", name)
    assert (found["parallelismMax"], found["isPinnedParallelism"], found["isPinnedRate"]) == (1, True, True)
    node("flowControl.unpin", name, {"parallelism": True})
    assert node("flowControl.get", name)["isPinnedParallelism"] is False
    node("flowControl.resetRate", name)
    assert node("flowControl.getGlobalParallelism")["parallelismMax"] > 0


def test_a_run_that_is_not_there_cannot_be_cancelled(node):
    with pytest.raises(ClientError, match="wfr_none") as caught:
        node("workflow.cancel", "wfr_none")
    assert caught.value.status == 404


def test_a_wrong_token_is_refused(node, server):
    node("client", {"token": "nothing"})
    try:
        with pytest.raises(ClientError, match="unable to authenticate: invalid token") as caught:
            node("schedules.list")
        assert caught.value.status == 401
    finally:
        node("client", {})


def test_what_it_signs_is_believed_here(node):
    keys = SigningKeys("sig_" + "a" * 28, "sig_" + "b" * 28)
    for key in (keys.current, keys.next):
        token = node("sign", {"key": key, "url": "https://a.example", "body": "{}"})
        verify(keys, token, b"{}", now=round(time.time() * 1000), url="https://a.example")
        with pytest.raises(SignatureError):
            verify(keys, token, b"[]", now=round(time.time() * 1000), url="https://a.example")


@pytest.fixture
def developing(dev_server: Server) -> Iterator[Node]:
    """The client in its mode for development, which knows nothing of the server but its port."""
    process = Node(node_packages(), QSTASH_DEV="true", QSTASH_DEV_PORT=str(urlsplit(dev_server.url).port))
    process("client", {})
    yield process
    process.end()


def test_for_development_it_finds_the_server_by_itself(developing, dev_server, there, name):
    sent = developing("publishJSON", {"url": f"{there.url}/{name}", "body": {"a": 1}})
    (got,) = there.at(f"/{name}")
    assert got.headers["upstash-message-id"] == sent["messageId"]
    verified(developing, dev_server, got, f"{there.url}/{name}")
    known = {"current": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "next": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"}
    assert dev_server.keys() == known
