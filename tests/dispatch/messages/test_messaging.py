"""Messages through a dispatcher, with real sockets: published, delivered, in order, once, and again after a restart."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from perdure import Perdure, RunStatus
from perdure.dispatch.dispatcher import Dispatcher
from perdure.dispatch.messages.message import run_id_of
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.signing import verify
from tests.dispatch.messages.destination import answered, destination


@pytest_asyncio.fixture
async def there():
    async with destination() as found:
        yield found


@pytest_asyncio.fixture
async def dispatcher(memory):
    async with Perdure(memory, mode="client") as app:
        found = Dispatcher(app, "default")
        await found.open()
        yield found
        await found.close()


async def until(condition) -> None:
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never happened")


async def ended(app: Perdure, message_id: str, status: RunStatus) -> None:
    for _ in range(5_000):
        (run,) = await app.store.get([run_id_of(message_id)])
        if run.status is status:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{message_id} is {run.status}")


async def test_a_message_is_published_and_delivered(dispatcher, there):
    await dispatcher.refresh()
    assert dispatcher.engine is None
    options = read([("Content-Type", "text/plain"), ("Upstash-Forward-X", "y")])
    url = f"{there.url}/hook"
    answer = await dispatcher.messages.publish(Publication(url, options, b"hello"), caller_ip="1.2.3.4")
    await until(lambda: there.got)
    (got,) = there.got
    assert (got.body, got.headers["x"], got.headers["upstash-caller-ip"]) == (b"hello", "y", "1.2.3.4")
    assert answer == {"messageId": got.headers["upstash-message-id"]}
    verify((await dispatcher.keys()).signing, got.headers["upstash-signature"], b"hello",
           now=dispatcher.app.world.now(), url=url)  # fmt: skip
    await ended(dispatcher.app, answer["messageId"], RunStatus.COMPLETE)


async def test_messages_that_were_published_elsewhere_are_delivered(dispatcher, there):
    other = Dispatcher(dispatcher.app, "default", is_on=False)
    await other.messages.publish(Publication(there.url, read([])))
    await other.messages.publish(Publication(there.url, read([]), queue="q"))
    assert other.engine is None
    await dispatcher.refresh()
    await until(lambda: len(there.got) == 2)
    await other.close()


async def test_a_queue_is_delivered_in_order(dispatcher, there):
    there.answer = lambda got: answered(500 if got.body == b"3" and got.headers["upstash-retried"] == "0" else 200)
    options = read([("Upstash-Retry-Delay", "20")])
    for number in range(8):
        await dispatcher.messages.publish(Publication(there.url, options, b"%d" % number, queue="q"))
    await until(lambda: len(there.got) == 9)
    assert [got.body for got in there.got] == [b"0", b"1", b"2", b"3", b"3", b"4", b"5", b"6", b"7"]
    assert there.most == 1


async def test_callbacks_arrive_and_are_signed(dispatcher, there):
    there.answer = lambda got: answered(500 if got.target == "/it" else 200, body=b"said")
    options = read(
        [("Upstash-Retries", "0"), ("Upstash-Callback", f"{there.url}/each"),
         ("Upstash-Failure-Callback", f"{there.url}/failed")]
    )  # fmt: skip
    answer = await dispatcher.messages.publish(Publication(f"{there.url}/it", options, b"x"))
    await until(lambda: len(there.got) == 3)
    told = {got.target: json.loads(got.body) for got in there.got[1:]}
    assert told["/each"]["status"] == told["/failed"]["status"] == 500
    assert told["/failed"]["dlqId"] == told["/each"]["sourceMessageId"] == answer["messageId"]
    await ended(dispatcher.app, answer["messageId"], RunStatus.ERRORED)
    for got in there.got[1:]:
        verify((await dispatcher.keys()).signing, got.headers["upstash-signature"], got.body,
               now=dispatcher.app.world.now(), url=there.url + got.target)  # fmt: skip


async def test_a_message_is_cancelled_while_it_is_delivered(dispatcher, there):
    there.hold = asyncio.Event()
    answer = await dispatcher.messages.publish(Publication(there.url, read([])))
    await until(lambda: there.got)
    await dispatcher.app.run(answer["messageId"]).terminate()
    await ended(dispatcher.app, answer["messageId"], RunStatus.TERMINATED)
    there.hold.set()
    await dispatcher.messages.publish(Publication(there.url, read([]), b"next"))
    await until(lambda: there.got[-1].body == b"next")


@pytest.mark.parametrize("queue", ["", "q"])
async def test_another_server_goes_on_where_one_ended(memory, there, queue):
    there.answer = lambda got: answered(503, "Retry-After: 0\r\n") if len(there.got) == 1 else answered(200)
    async with Perdure(memory, mode="client") as app:
        first = Dispatcher(app, "default")
        await first.open()
        await first.messages.publish(Publication(there.url, read([("Upstash-Delay", "1s")]), queue=queue))
        await first.close()
        second = Dispatcher(app, "default")
        await second.open()
        await until(lambda: len(there.got) == 2)
        await second.close()


async def test_what_waits_in_a_queue_holds_up_no_end(memory, there):
    there.answer = lambda got: answered(503 if len(there.got) == 1 else 200)
    async with Perdure(memory, mode="client") as app:
        first = Dispatcher(app, "default")
        await first.open()
        options = read([("Upstash-Retry-Delay", "500")])
        answer = await first.messages.publish(Publication(there.url, options, queue="q"))
        await until(lambda: there.got)
        async with asyncio.timeout(5):
            await first.close()
        second = Dispatcher(app, "default")
        await second.open()
        await ended(app, answer["messageId"], RunStatus.COMPLETE)
        await second.close()
