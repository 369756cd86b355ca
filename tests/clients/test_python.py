"""`qstash` from PyPI, unmodified, through every method it has, against a real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from qstash import AsyncQStash, QStash, Receiver
from qstash.chat import openai
from qstash.errors import QStashError
from qstash.log import LogState

from perdure.dispatch.signing import SigningKeys, verify
from tests.clients.conftest import Destination, Received, Server, until


@pytest.fixture
def client(server: Server) -> Iterator[QStash]:
    client = QStash(server.token, base_url=server.url, retry=False)
    yield client
    client.http._client.close()  # which it cannot do itself


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"n{uuid.uuid4().hex[:12]}"


def verified(server: Server, got: Received, url: str) -> None:
    """Have the official receiver look at a request."""
    keys = server.keys()
    receiver = Receiver(current_signing_key=keys["current"], next_signing_key=keys["next"])
    receiver.verify(signature=got.headers["upstash-signature"], body=got.body.decode(), url=url)


def dead(client: QStash, there: Destination, name: str, count: int) -> list[Any]:
    """Have messages fail for good, and return their dead letters."""
    there.failing.add(name)
    for number in range(count):
        client.message.publish(url=f"{there.url}/{name}", body=f"{number}", retries=0, label=name)

    def found() -> list[Any] | None:
        messages = client.dlq.list(filter={"label": name}).messages
        return messages if len(messages) == count else None

    return until(found)


def test_a_message_with_everything_arrives(client, server, there, name):
    url = f"{there.url}/{name}?b=c"
    sent = client.message.publish(
        url=url,
        body="raw \u00fc",
        content_type="text/plain",
        method="PUT",
        headers={"X-A": "1"},
        callback_headers={"X-Cb": "2", "Upstash-Callback-Forward-X-Cb2": "3", "Retries": "4"},
        failure_callback_headers={"X-F": "5"},
        retries=2,
        retry_delay="pow(2, retried)",
        callback=f"{there.url}/{name}-callback",
        failure_callback=f"{there.url}/{name}-failed",
        delay=0,
        deduplication_id=name,
        timeout=90,
        label=name,
        flow_control={"key": name, "parallelism": 3, "rate": 5, "period": 60},
        redact={"body": True, "header": ["Authorization", "X-A"]},
    )
    (got,) = there.at(f"/{name}")
    assert (got.method, got.target, got.body) == ("PUT", f"/{name}?b=c", "raw \u00fc".encode())
    assert (got.headers["x-a"], got.headers["content-type"]) == ("1", "text/plain")
    assert (got.headers["upstash-message-id"], got.headers["upstash-retried"]) == (sent.message_id, "0")
    verified(server, got, url)
    (told,) = there.at(f"/{name}-callback")
    verified(server, told, f"{there.url}/{name}-callback")
    assert told.headers["x-cb2"] == "3"
    body = json.loads(told.body)
    assert (body["status"], body["sourceMessageId"], body["retried"], body["maxRetries"]) == (
        200,
        sent.message_id,
        0,
        2,
    )
    assert json.loads(base64.b64decode(body["body"])) == {"is": "fine"}
    again = client.message.publish(url=url, body="x", deduplication_id=name)
    assert (again.message_id, again.deduplicated) == (sent.message_id, True)


def test_bytes_arrive_as_they_are(client, there, name):
    client.message.publish(url=f"{there.url}/{name}", body=b"\x00\xff")
    assert there.at(f"/{name}")[0].body == b"\x00\xff"


def test_what_is_the_same_is_published_once(client, there, name):
    url = f"{there.url}/{name}"
    answers = [client.message.publish_json(url=url, body={"a": 1}, content_based_deduplication=True) for _ in range(2)]
    assert [each.deduplicated for each in answers] == [False, True]


def test_a_provider_is_a_destination_like_others(client):
    sent = client.message.publish_json(api={"name": "llm", "provider": openai("tok")}, body={}, delay="1d2h")
    found = client.message.get(sent.message_id)
    assert found.url == "https://api.openai.com/v1/chat/completions"
    client.message.cancel(sent.message_id)


def test_a_message_is_looked_at_and_cancelled(client, there, name):
    sent = client.message.publish_json(
        url=f"{there.url}/{name}",
        body={"a": 1},
        delay="1h",
        retries=5,
        label=name,
        flow_control={"key": name, "parallelism": 3},
    )
    found = client.message.get(sent.message_id)
    assert (found.url, found.max_retries, found.body) == (f"{there.url}/{name}", 5, '{"a": 1}')
    assert (found.flow_control.key, found.flow_control.parallelism, found.label) == (name, 3, name)
    assert found.not_before - found.created_at == 3_600_000
    client.message.cancel(sent.message_id)
    with pytest.raises(QStashError, match="404"):
        client.message.get(sent.message_id)
    others = [client.message.publish(url=there.url, delay="1h").message_id for _ in range(3)]
    assert client.message.cancel_many(others[:2]) == 2
    assert client.message.cancel_all() >= 1


def test_messages_are_published_in_batches(client, there, name):
    client.url_group.upsert_endpoints(name, [{"url": f"{there.url}/{name}-group", "name": "one"}])
    one, group = client.message.batch(
        [
            {
                "url": f"{there.url}/{name}-1",
                "body": "x",
                "queue": name,
                "method": "PATCH",
                "headers": {"X-A": "\u00fc"},
            },
            {"url_group": name, "body": "y"},
        ]
    )
    assert there.at(f"/{name}-1")[0].headers["upstash-message-id"] == one.message_id
    assert group[0].url == f"{there.url}/{name}-group"
    assert there.at(f"/{name}-group")[0].headers["upstash-topic-name"] == name
    client.message.batch_json([{"url": f"{there.url}/{name}-2", "body": {"a": 1}, "retries": 1}])
    assert json.loads(there.at(f"/{name}-2")[0].body) == {"a": 1}
    with pytest.raises(QStashError, match=r"batch\[1\]"):
        client.message.batch([{"url": f"{there.url}/{name}-no"}, {"url": "ftp://x"}])
    assert not any("-no" in each.target for each in there.got)


def test_groups(client, there, name):
    client.url_group.upsert_endpoints(name, [{"url": f"{there.url}/a", "name": "one"}, {"url": f"{there.url}/b"}])
    found = client.url_group.get(name)
    assert [(each.url, each.name) for each in found.endpoints] == [(f"{there.url}/a", "one"), (f"{there.url}/b", None)]
    assert name in [each.name for each in client.url_group.list()]
    sent = client.message.publish_json(url_group=name, body=None, delay="1h")
    assert [each.url for each in sent] == [f"{there.url}/a", f"{there.url}/b"]
    client.url_group.remove_endpoints(name, [{"name": "one"}])
    assert len(client.url_group.get(name).endpoints) == 1
    client.url_group.delete(name)
    client.url_group.delete(name)
    with pytest.raises(QStashError, match="404"):
        client.url_group.get(name)


def test_queues_keep_their_order(client, there, name):
    client.queue.upsert(name, parallelism=1, paused=True)
    for number in range(5):
        client.message.enqueue(queue=name, url=f"{there.url}/{name}", body=f"{number}")
    client.message.enqueue_json(queue=name, url=f"{there.url}/{name}", body=5)
    found = client.queue.get(name)
    assert (found.name, found.parallelism, found.paused, found.lag) == (name, 1, True, 6)
    assert name in [each.name for each in client.queue.list()]
    client.queue.resume(name)
    assert [got.body for got in there.at(f"/{name}", 6)] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    client.queue.pause(name)
    assert client.queue.get(name).paused
    client.queue.delete(name)
    with pytest.raises(QStashError, match="404"):
        client.queue.get(name)


def test_schedules(client, there, name):
    made = client.schedule.create_json(
        destination=f"{there.url}/{name}",
        cron="CRON_TZ=Europe/Paris */5 * * * *",
        body={"a": 1},
        schedule_id=name,
        queue="q",
        delay="10s",
        timeout=90,
        retries=2,
        method="PUT",
        headers={"X-A": "1"},
        callback="https://cb.example",
        label="lab",
        flow_control={"key": name, "parallelism": 3, "rate": 5, "period": 60},
    )
    assert made == name
    found = client.schedule.get(name)
    assert (found.destination, found.cron) == (f"{there.url}/{name}", "CRON_TZ=Europe/Paris */5 * * * *")
    assert (found.method, found.retries, found.delay, found.timeout, found.queue) == ("PUT", 2, 10, 90, "q")
    assert (found.headers["X-A"], found.callback, found.body) == (["1"], "https://cb.example", '{"a": 1}')
    assert found.next_schedule_time % 300_000 == 0
    assert name in [each.schedule_id for each in client.schedule.list()]
    client.schedule.pause(name)
    assert client.schedule.get(name).paused
    client.schedule.resume(name)
    assert not client.schedule.get(name).paused
    client.schedule.delete(name)
    with pytest.raises(QStashError, match="404"):
        client.schedule.get(name)
    made = client.schedule.create(destination=f"{there.url}/{name}", cron="0 0 1 1 *")
    client.schedule.delete(made)
    with pytest.raises(QStashError, match="never fires"):
        client.schedule.create(destination=there.url, cron="0 0 30 2 *")


def test_dead_letters(client, server, there, name):
    letters = dead(client, there, name, 3)
    first = client.dlq.get(letters[0].dlq_id)
    assert (first.response_status, first.response_body, first.body) == (500, '{"is": "broken"}', "2")
    page = client.dlq.list(count=2, filter={"label": name, "response_status": 500})
    rest = client.dlq.list(count=2, cursor=page.cursor, filter={"label": name, "response_status": 500})
    assert [len(page.messages), len(rest.messages), rest.cursor] == [2, 1, None]
    assert client.dlq.list(filter={"label": name, "url": f"{there.url}/other"}).messages == []
    client.dlq.delete(letters[0].dlq_id)
    assert client.dlq.delete_many([each.dlq_id for each in letters[1:]]) == 2
    assert client.dlq.list(filter={"label": name}).messages == []


def test_a_failure_is_told(client, server, there, name):
    there.failing.add(f"{name}-bad")
    client.message.publish(url=f"{there.url}/{name}-bad", retries=0, failure_callback=f"{there.url}/{name}-told")
    (told,) = there.at(f"/{name}-told")
    verified(server, told, f"{there.url}/{name}-told")
    body = json.loads(told.body)
    assert (body["status"], body["header"]["Content-Length"]) == (500, ["16"])
    assert client.dlq.get(body["dlqId"]).url == f"{there.url}/{name}-bad"


def test_logs(client, there, name, capsys):
    sent = client.message.publish(url=f"{there.url}/{name}", label=name)

    def delivered() -> list[Any] | None:
        return client.log.list(filter={"message_id": sent.message_id, "state": LogState.DELIVERED}).logs or None

    (entry,) = until(delivered)
    assert (entry.message_id, entry.url, entry.response_status) == (sent.message_id, f"{there.url}/{name}", 200)
    every = client.log.list(count=50, filter={"label": name}).logs
    assert [each.state for each in every] == [LogState.DELIVERED, LogState.ACTIVE, LogState.CREATED]
    page = client.log.list(count=1, filter={"message_ids": [sent.message_id], "label": name})
    assert len(page.logs) >= 1
    cursors = client.log.list(count=1).cursor
    assert client.log.list(count=1, cursor=cursors).logs
    capsys.readouterr()  # the client prints what it gets


def test_flow_control(client, there, name):
    client.message.publish(
        url=there.url, delay="1h", flow_control={"key": name, "parallelism": 3, "rate": 5, "period": "1m"}
    )
    found = client.flow_control.get(name)
    assert (found.parallelism_max, found.rate_max, found.rate_period) == (3, 5, 60)
    client.flow_control.pause(name)
    assert client.flow_control.get(name).is_paused
    client.flow_control.resume(name)
    client.flow_control.pin(name, {"parallelism": 1, "rate": 2, "period": 3})
    found = client.flow_control.get(name)
    assert (found.parallelism_max, found.is_pinned_parallelism, found.is_pinned_rate) == (1, True, True)
    client.flow_control.unpin(name, {"parallelism": True, "rate": False})
    assert not client.flow_control.get(name).is_pinned_parallelism
    client.flow_control.reset_rate(name)
    assert client.flow_control.get_global_parallelism().parallelism_max > 0


def test_keys_are_rotated_and_messages_still_verify(client, server, there, name):
    before = client.signing_key.get()
    after = client.signing_key.rotate()
    assert after.current == before.next
    receiver = Receiver(current_signing_key=before.current, next_signing_key=before.next)
    client.message.publish(url=f"{there.url}/{name}", body="x")
    (got,) = there.at(f"/{name}")
    receiver.verify(signature=got.headers["upstash-signature"], body="x", url=f"{there.url}/{name}")
    verified(server, got, f"{there.url}/{name}")


def test_the_other_client_does_the_same(server, there, name):
    async def run() -> None:
        client = AsyncQStash(server.token, base_url=server.url, retry=False)
        sent = await client.message.publish_json(url=f"{there.url}/{name}", body={"a": 1})
        await client.queue.upsert(name, parallelism=2)
        assert (await client.queue.get(name)).parallelism == 2
        assert there.at(f"/{name}")[0].headers["upstash-message-id"] == sent.message_id
        await client.schedule.create(destination=there.url, cron="0 0 1 1 *", schedule_id=name)
        await client.schedule.delete(name)
        await client.http._client.aclose()

    asyncio.run(run())


def test_a_wrong_token_is_refused(server):
    client = QStash("nothing", base_url=server.url, retry=False)
    with pytest.raises(QStashError, match=r"401, body: .*unable to authenticate: invalid token"):
        client.queue.list()
    client.http._client.close()


def test_what_is_signed_as_its_tests_sign_is_believed_here():
    keys = SigningKeys("sig_" + "a" * 28, "sig_" + "b" * 28)
    body, now = b'{"a": 1}', int(time.time())
    for key in (keys.current, keys.next):
        payload = {
            "aud": "",
            "body": base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("="),
            "exp": now + 300,
            "iat": now,
            "iss": "Upstash",
            "jti": str(time.time()),
            "nbf": now,
            "sub": "https://a.example",
        }
        token = jwt.encode(payload, key, algorithm="HS256", headers={"alg": "HS256", "typ": "JWT"})
        verify(keys, token, body, now=now * 1000, url="https://a.example")
