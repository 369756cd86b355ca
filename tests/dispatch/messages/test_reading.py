"""What is shown of messages, waiting, dead and gone by: fields, filters, pages, what is redacted; and moving them."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest
import pytest_asyncio

from perdure import RunStatus, UsageError
from perdure.dispatch.messages.message import QUEUE, Answer, run_id_of
from perdure.dispatch.messages.messaging import Messaging
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.messages.reading import Wanted
from perdure.dispatch.signing import SigningKeys
from tests.engine.world import NOW


async def keys() -> SigningKeys:
    return SigningKeys("sig_" + "a" * 28, "sig_" + "b" * 28)


class Made:
    """An engine whose deliveries come to what `answers` says, else to success; and its messages."""

    def __init__(self, world, url) -> None:
        self.world = world
        self.app = world.app(url, queues=[QUEUE, "dispatch.queue.q", "dispatch.flow"])
        self.answers: list[Answer] = []

        async def nothing() -> None:
            pass

        self.messaging = Messaging(self.app, keys, nothing, lambda: None, None)
        self.messaging.sender.send = self.send  # type: ignore[method-assign]  # what an attempt comes to is said here
        from perdure.dispatch.messages.delivery import delivery_workflow

        self.app.registry.add_workflow(delivery_workflow(self.send, world, asyncio.Event()))

    async def send(self, message, message_id, retried, *, is_due=False, held=0):
        return self.answers.pop(0) if self.answers else Answer(200, body="fine")

    async def publish(self, destination="http://x/", body=b"", queue="", caller_ip="", **headers) -> str:
        options = read([(f"Upstash-{name.replace('_', '-')}", value) for name, value in headers.items()])
        answer = await self.messaging.publish(Publication(destination, options, body, queue), caller_ip=caller_ip)
        return answer["messageId"]


@pytest_asyncio.fixture
async def made(world, url):
    found = Made(world, url)
    async with found.app:
        yield found
        await found.messaging.close()


def states(entries) -> list[str]:
    return [each["state"] for each in entries]


async def test_a_message_that_waits(made):
    message_id = await made.publish(
        "https://x.example/a?b=c", b"hello", caller_ip="1.2.3.4", Delay="1h", Forward_test_header="v", Label="a,b",
        Flow_Control_Key="k", Flow_Control_Value="rate=2,period=1m,parallelism=3", Callback="http://cb/",
        Callback_Forward_X="y", Failure_Callback="http://f/", Retry_Delay="1000", Method="PUT", Retries="5",
    )  # fmt: skip
    delivery = await made.messaging.reading.one(message_id)
    assert delivery.shown() == {
        "messageId": message_id, "url": "https://x.example/a?b=c", "method": "PUT", "maxRetries": 5,
        "notBefore": NOW + 3_600_000, "createdAt": NOW, "callback": "http://cb/", "failureCallback": "http://f/",
        "callerIP": "1.2.3.4", "retryDelayExpression": "1000", "retryDelayExpr": "1000", "label": "a,b",
        "labels": ["a", "b"], "flowControlKey": "k", "parallelism": 3, "rate": 2, "period": 60,
        "header": {"Test-Header": ["v"]}, "callbackHeader": {"Upstash-Forward-X": ["y"]}, "failureCallbackHeader": {},
        "body": "hello",
    }  # fmt: skip
    assert await made.messaging.reading.one("msg_unknown") is None
    assert await made.messaging.reading.dead_one(message_id) is None


async def test_what_is_redacted_is_not_shown(made):
    made.answers = [Answer(500)]
    fields = "body,header[Authorization]"
    message_id = await made.publish(
        body=b"secret", Forward_Authorization="Bearer x", Forward_X="y", Redact_Fields=fields, Retries="0"
    )
    await made.world.advance(1)
    digest = hashlib.sha256(b"secret").hexdigest()
    dead = (await made.messaging.reading.dead_one(message_id)).dead()
    assert dead["body"] == f"REDACTED:{digest}"
    assert dead["header"]["X"] == ["y"]
    assert dead["header"]["Authorization"] == [f"REDACTED:{hashlib.sha256(b'Bearer x').hexdigest()}"]
    entries, _ = await made.messaging.reading.events(Wanted(ids=(message_id,)))
    assert "Bearer x" not in str(entries)
    assert "secret" not in str(entries)
    (answer,) = await made.messaging.retry_dead(Wanted(ids=(message_id,)))
    await made.world.advance(1)
    (run,) = await made.app.store.get([answer["messageId"]])
    assert run.status is RunStatus.COMPLETE


async def test_what_is_redacted_is_not_shown_of_callbacks_either(made):
    made.answers = [Answer(500)]
    await made.publish(
        body=b"x", Callback="http://cb/", Callback_Forward_Authorization="hush", Callback_Forward_X="y",
        Redact_Fields="header[Authorization]", Forward_Authorization="hush", Retries="0",
    )  # fmt: skip
    await made.world.advance(5)
    (dead,) = (await made.messaging.reading.dead(Wanted()))[0]
    assert dead["callbackHeader"]["Upstash-Forward-X"] == ["y"]
    events, _ = await made.messaging.reading.events(Wanted())
    assert {each["url"] for each in events} == {"http://x/", "http://cb/"}
    assert "hush" not in str((dead, events, [base64.b64decode(each["body"]) for each in events]))


async def test_what_became_of_a_message(made):
    made.answers = [Answer(503, [("retry-after", "7")], "busy", retry_after=7_000), Answer(0, error="nobody there")]
    message_id = await made.publish(Retries="1")
    await made.world.advance(60)
    entries, cursor = await made.messaging.reading.events(Wanted())
    assert cursor is None
    assert states(entries) == ["FAILED", "ERROR", "ACTIVE", "RETRY", "ERROR", "ACTIVE", "CREATED"]
    assert {each["messageId"] for each in entries} == {message_id}
    retry = entries[3]
    assert (retry["nextDeliveryTime"] - retry["time"], retry["responseStatus"]) == (7_000, 503)
    assert retry["responseHeader"] == {"Retry-After": ["7"]}
    assert retry["responseBody"] == "busy"
    assert (entries[0]["error"], entries[0]["responseStatus"]) == ("nobody there", 0)
    assert await made.messaging.reading.one(message_id) is None
    dead = (await made.messaging.reading.dead_one(message_id)).dead()
    assert (dead["dlqId"], dead["responseStatus"], dead["responseBody"]) == (message_id, 0, "nobody there")


async def test_cancelled_messages(made):
    first, second = await made.publish(Delay="1h"), await made.publish(Delay="1h", Label="a")
    assert await made.messaging.cancel(Wanted(labels=("a",))) == 1
    entries, _ = await made.messaging.reading.events(Wanted(ids=(second,)))
    assert states(entries) == ["CANCELED", "CANCEL_REQUESTED", "CREATED"]
    assert await made.messaging.cancel(Wanted(ids=(first, second, "msg_no"))) == 1
    assert await made.messaging.cancel(Wanted()) == 0


async def test_filters(made):
    plain = await made.publish("http://a/x", Delay="1h")
    other = await made.publish("http://b/y", Delay="1h", Label="l,m")
    queued = await made.publish("http://b/x", queue="q", Delay="1h", caller_ip="9.9.9.9")
    flowing = await made.publish("http://c/", Delay="1h", Flow_Control_Key="k", Flow_Control_Value="rate=1")

    async def found(**wanted) -> set[str]:
        entries, _ = await made.messaging.reading.events(Wanted(**wanted))
        return {each["messageId"] for each in entries}

    assert await found() == {plain, other, queued, flowing}
    assert await found(urls=("http://a/x",)) == {plain}
    assert await found(hosts=("b",)) == {other, queued}
    assert await found(hosts=("a", "c")) == {plain, flowing}
    assert await found(paths=("/x",)) == {plain, queued}
    assert await found(labels=("m",)) == await found(labels=("m", "no")) == {other}
    assert await found(queues=("q",)) == await found(callers=("9.9.9.9",)) == {queued}
    assert await found(flows=("k",)) == {flowing}
    assert await found(hosts=("b",), labels=("l",), paths=("/x",)) == set()
    assert await found(created_from=NOW + 1) == await found(created_until=NOW - 1) == set()
    assert await found(created_from=NOW, created_until=NOW) == {plain, other, queued, flowing}
    assert await found(states=("delivered",)) == await found(states=("IN_PROGRESS",)) == set()
    assert await found(states=("created", "FAILED")) == {plain, other, queued, flowing}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
async def test_pages(made, count):
    for number in range(5):
        made.answers = [Answer(500)] * (number % 2)
        await made.publish(f"http://x/{number}", Retries="0")
        await made.world.advance(1)
    whole, _ = await made.messaging.reading.events(Wanted())
    assert len(whole) == 3 * 3 + 2 * 4
    found, cursor, is_first = [], None, True
    while is_first or cursor is not None:
        page, cursor = await made.messaging.reading.events(Wanted(), count, cursor)
        assert len(page) <= count
        found += page
        if is_first:
            await made.world.advance(0.001)
            await made.publish("http://x/new", Delay="1h")
        is_first = False
    assert found == whole
    dead, cursor = await made.messaging.reading.dead(Wanted(), 1)
    (more, end) = await made.messaging.reading.dead(Wanted(), 5, cursor)
    assert [each["url"] for each in dead + more] == ["http://x/3", "http://x/1"]
    assert end is None


@pytest.mark.parametrize(
    "cursor", ["x", "!!", "e30", "W10", "WzEsMiwzXQ", "ä", "WzUsbnVsbCwtM10", "WzExODA1OTE2MjA3MTc0MTEzMDM0MjRd"]
)
async def test_cursors_that_are_none(made, cursor):
    with pytest.raises(UsageError, match="cursor"):
        await made.messaging.reading.events(Wanted(), 10, cursor)
    with pytest.raises(UsageError, match="count"):
        await made.messaging.reading.dead(Wanted(), 0)


async def test_dead_letters_are_published_anew_or_forgotten(made):
    made.answers = [Answer(500), Answer(404), Answer(500)]
    ids = [await made.publish(f"http://x/{number}", b"b", queue="q", Retries="0") for number in range(3)]
    await made.world.advance(5)
    assert len((await made.messaging.reading.dead(Wanted()))[0]) == 3
    (only,) = (await made.messaging.reading.dead(Wanted(response_statuses=(404,))))[0]
    assert only["messageId"] == ids[1]
    (answer,) = await made.messaging.retry_dead(Wanted(ids=(ids[1],)))
    assert answer["messageId"] != ids[1]
    await made.world.advance(5)
    (run,) = await made.app.store.get([run_id_of(answer["messageId"])])
    assert (run.status, run.queue) == (RunStatus.COMPLETE, "dispatch.queue.q")
    assert await made.messaging.reading.dead_one(ids[1]) is None
    assert await made.messaging.discard_dead(Wanted(ids=(ids[0],))) == 1
    assert await made.messaging.discard_dead(Wanted()) == 1
    assert (await made.messaging.reading.dead(Wanted()))[0] == []


@pytest.mark.parametrize("headers", [{"Delay": "1h"}, {"Retry_Delay": "3600000"}])
async def test_a_message_that_waits_is_delivered_now(made, headers):
    made.answers = [Answer(500)] if "Retry_Delay" in headers else []
    message_id = await made.publish(**headers)
    await made.world.advance(1)
    assert await made.messaging.run_now(message_id)
    await made.world.advance(1)
    (run,) = await made.app.store.get([run_id_of(message_id)])
    assert run.status is RunStatus.COMPLETE
    assert not await made.messaging.run_now(message_id)
    assert not await made.messaging.run_now("msg_unknown")


async def test_running_a_message_now_shortens_no_later_wait(made):
    made.answers = [Answer(500), Answer(500)]
    message_id = await made.publish(Delay="1h", Retry_Delay="60000")
    assert await made.messaging.run_now(message_id)
    await made.world.advance(30)
    assert len((await made.messaging.reading.one(message_id)).attempts) == 1
    assert await made.messaging.run_now(message_id)
    await made.world.advance(30)
    assert len((await made.messaging.reading.one(message_id)).attempts) == 2
    await made.world.advance(60)
    assert await made.messaging.reading.one(message_id) is None


async def test_a_message_of_a_queue_has_its_turn_there(made):
    message_id = await made.publish(queue="q", Delay="1h")
    with pytest.raises(UsageError, match="in a queue"):
        await made.messaging.run_now(message_id)


async def test_a_queue_goes_with_its_messages(made):
    made.answers = [Answer(500)]
    ids = [await made.publish(queue="q", Retry_Delay="3600000") for _ in range(3)]
    other = await made.publish(Delay="1h")
    await made.world.advance(1)
    assert await made.messaging.delete_queue("q") == 3
    assert await made.messaging.delete_queue("q") == 0
    assert await made.messaging.outbox.lines.all() == []
    runs = await made.app.store.get([run_id_of(each) for each in (*ids, other)])
    assert [run.status for run in runs] == [RunStatus.TERMINATED] * 3 + [RunStatus.QUEUED]
    anew = await made.publish(queue="q")
    await made.world.advance(15)
    (run,) = await made.app.store.get([run_id_of(anew)])
    assert run.status is RunStatus.COMPLETE


async def test_a_dead_letter_that_was_forgotten_is_not_shown_until_it_is_removed(made):
    async def nothing(*_) -> int:
        return 0

    made.app.store.prune = nothing
    made.answers = [Answer(500)] * 2
    ids = [await made.publish(Retries="0") for _ in range(2)]
    await made.world.advance(1)
    reading, messaging = made.messaging.reading, made.messaging
    assert await messaging.discard_dead(Wanted(ids=(ids[0],))) == 1
    assert [each["messageId"] for each in (await reading.dead(Wanted()))[0]] == [ids[1]]
    assert await reading.dead_one(ids[0]) is None
    assert await messaging.discard_dead(Wanted(ids=(ids[0],))) == 0
    assert await messaging.retry_dead(Wanted(ids=(ids[0],))) == []
