"""Attempts against a real server: what arrives, what is kept of answers, and what bounds hold."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager

import pytest
import pytest_asyncio
from qstash import Receiver
from qstash.errors import SignatureError

from perdure.dispatch.breaker import FAILURES
from perdure.dispatch.messages import sending
from perdure.dispatch.messages.message import FlowControl, Message
from perdure.dispatch.messages.sending import Sender, request_headers
from perdure.dispatch.signing import SigningKeys, verify
from perdure.engine.env import SystemEnv
from perdure.tasks.addresses import Guard
from tests.dispatch.messages.destination import answered, destination
from tests.engine.world import NOW

KEYS = SigningKeys("sig_" + "a" * 28, "sig_" + "b" * 28)


async def keys() -> SigningKeys:
    return KEYS


@pytest_asyncio.fixture
async def there():
    async with destination() as found:
        yield found


@pytest_asyncio.fixture
async def sender(world):
    found = Sender(world, keys, None)
    yield found
    await found.close()


async def send(sender: Sender, message: Message, retried: int = 0, *, is_due: bool = False, held: int = 0):
    return await sender.send(message, "msg_1", retried, is_due=is_due, held=held)


async def test_what_arrives(sender, there):
    message = Message(
        f"{there.url}/a%20b?c=d",
        method="PUT",
        headers=[("Content-Type", "text/x"), ("X-A", "ä"), ("upstash-message-id", "forged"), ("User-Agent", "me"),
                 ("Upstash-Signature", "old"), ("Upstash-Region", "nowhere")],
        body="hello",
        retry_delay="1000",
        labels=("a", "b"),
        flow_control=FlowControl("k", 2, 5, 60),
        group="all",
        schedule="s",
        caller_ip="1.2.3.4",
        extra=[("Upstash-Workflow-RunId", "wfr")],
    )  # fmt: skip
    answer = await send(sender, message, 1)
    assert (answer.status, answer.body) == (200, "ok")
    (got,) = there.got
    assert (got.method, got.target, got.body) == ("PUT", "/a%20b?c=d", b"hello")
    signature = got.headers.pop("upstash-signature")
    assert got.headers == {
        "host": there.url.removeprefix("http://"), "content-length": "5", "content-type": "text/x", "x-a": "ä",
        "user-agent": "Upstash-QStash", "accept-encoding": "identity", "upstash-message-id": "msg_1",
        "upstash-retried": "1", "upstash-retries": "1", "upstash-max-retries": "3", "upstash-retry-delay": "1000",
        "upstash-caller-ip": "1.2.3.4", "upstash-topic-name": "all", "upstash-schedule-id": "s",
        "upstash-label": "a,b", "upstash-flow-control-key": "k", "upstash-workflow-runid": "wfr",
        "upstash-flow-control-value": "parallelism=2,rate=5,period=60",
    }  # fmt: skip
    assert len(got.names) == len(set(map(str.lower, got.names)))
    verify(KEYS, signature, b"hello", now=NOW, url=message.url)


async def test_each_attempt_is_signed_anew_and_in_the_past(sender, there, world):
    import jwt

    for _ in range(2):
        await send(sender, Message(there.url))
        await world.advance(60)
    claims = [
        jwt.decode(got.headers["upstash-signature"], KEYS.current, ["HS256"], options={"verify_exp": False})
        for got in there.got
    ]
    assert [each["iat"] - NOW // 1000 for each in claims] == [-10, 50]
    assert [each["exp"] - NOW // 1000 for each in claims] == [300, 360]
    assert {each["nbf"] for each in claims} == {0}
    assert claims[0]["jti"] != claims[1]["jti"]


async def test_the_official_receiver_takes_the_signature(there):
    sender = Sender(SystemEnv(), keys, None)
    await send(sender, Message(f"{there.url}/a?b=c", body="ä"))
    await sender.close()
    (got,) = there.got
    receiver = Receiver(current_signing_key=KEYS.current, next_signing_key=KEYS.next)
    signature = got.headers["upstash-signature"]
    receiver.verify(signature=signature, body=got.body.decode(), url=f"{there.url}/a?b=c")
    for wrong in ({"body": "other"}, {"url": "http://elsewhere/"}, {"signature": signature[:-4] + "AAAA"}):
        with pytest.raises(SignatureError):
            receiver.verify(**{"signature": signature, "body": got.body.decode(), **wrong})


async def test_connections_are_kept(sender, there):
    for _ in range(5):
        await send(sender, Message(there.url, body="x"))
    assert (len(there.got), there.connections) == (5, 1)


async def test_a_destination_has_so_many_connections(world, there):
    sender, there.hold = Sender(world, keys, None, connections=3), asyncio.Event()
    tasks = [asyncio.create_task(send(sender, Message(there.url))) for _ in range(10)]
    await until_quiet(lambda: there.under_way == 3)
    there.hold.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
    assert (there.most, there.connections) == (3, 3)
    await sender.close()


async def test_a_slow_destination_does_not_take_the_worker(world, there):
    sender, there.hold = Sender(world, keys, None, connections=2, patience=0.02), asyncio.Event()
    tasks = [asyncio.create_task(send(sender, Message(there.url))) for _ in range(2)]
    await until_quiet(lambda: there.under_way == 2)
    tasks += [asyncio.create_task(send(sender, Message(there.url, queue="q"))) for _ in range(3)]
    held = [(await send(sender, Message(there.url), held=held)).held_back for held in (0, 1, 2, 99)]
    assert held == [1_000, 2_000, 4_000, sending.CROWDED_MS // 2]
    assert not any(task.done() for task in tasks)
    there.hold.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
    assert (await send(sender, Message(there.url))).status == 200
    await sender.close()


async def until_quiet(condition) -> None:
    for _ in range(2_000):
        if condition():
            break
        await asyncio.sleep(0.001)
    assert condition()


async def test_so_many_connections_are_kept(world):
    sender = Sender(world, keys, None, kept=2)
    async with destination() as one, destination() as two, destination() as three:
        for each in (one, two, one, three, one, two):
            await send(sender, Message(each.url))
        assert [each.connections for each in (one, two, three)] == [1, 2, 1]
    assert len(sender._idle) == 2
    assert sum(len(origin.idle) for origin in sender._origins.values()) == 2
    await sender.close()


async def test_so_many_origins_are_known(world):
    sender = Sender(world, keys, None, kept=0, origins=2)
    for port in range(1, 6):
        await send(sender, Message(f"http://127.0.0.1:{port}/"))
    assert [port for _, _, port in sender._origins] == [4, 5]
    await sender.close()


async def test_an_origin_in_use_keeps_no_others_known(world):
    sender = Sender(world, keys, None, kept=0, origins=2)
    async with destination() as there:
        there.hold = asyncio.Event()
        under_way = asyncio.ensure_future(send(sender, Message(there.url)))
        while not there.got:
            await asyncio.sleep(0.001)
        for port in range(1, 6):
            await send(sender, Message(f"http://127.0.0.1:{port}/"))
        assert [f"http://127.0.0.1:{port}" for _, _, port in sender._origins] == [there.url, "http://127.0.0.1:5"]
        there.hold.set()
        assert (await under_way).status == 200
    await sender.close()


@pytest.mark.parametrize(
    ("answer", "status", "retry_after", "is_final"),
    [
        (answered(204), 204, None, False),
        (answered(302, "Location: http://127.0.0.1:1/\r\n"), 302, None, False),
        (answered(429, "Retry-After: 7\r\n"), 429, 7_000, False),
        (answered(200, "Retry-After: 7\r\n"), 200, None, False),
        (answered(489, "Upstash-NonRetryable-Error: true\r\n"), 489, None, True),
        (answered(400, "upstash-nonretryable-error: TRUE\r\n"), 400, None, True),
        (answered(489), 489, None, False),
        (answered(200, "Upstash-NonRetryable-Error: true\r\n"), 200, None, False),
        (answered(999), 999, None, False),
    ],
)
async def test_what_is_made_of_answers(sender, there, answer, status, retry_after, is_final):
    there.answer = lambda got: answer
    found = await send(sender, Message(there.url))
    assert (found.status, found.retry_after, found.is_final) == (status, retry_after, is_final)
    assert len(there.got) == 1


async def test_bodies_that_are_no_text(sender, there):
    there.answer = lambda got: answered(200, "X-A: b\r\n", b"\xff\0")
    found = await send(sender, Message(there.url, body_base64="/wA="))
    assert there.got[0].body == found.content == b"\xff\0"
    assert ("x-a", "b") in found.headers


async def test_an_endless_answer_is_cut(sender, there):
    there.answer = lambda got: b"HTTP/1.1 200 OK\r\n\r\n"
    there.after = b"x" * 65_536
    found = await send(sender, Message(there.url))
    assert (found.status, len(found.content), found.is_cut) == (200, sending.ANSWER_BYTES, True)


async def test_headers_beyond_the_bound_are_not_kept(sender, there):
    there.answer = lambda got: answered(200, "".join(f"X-{number}: {'a' * 1000}\r\n" for number in range(30)))
    found = await send(sender, Message(there.url))
    assert found.status == 200
    assert found.is_cut
    assert len(found.headers) == 16


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "disconnected"),
        (b"nonsense\r\n\r\n", "illegal|malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", None),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n", "buffer|long|large|exceed"),
        (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", "illegal"),
    ],
)
async def test_no_answer(sender, there, answer, told):
    there.answer = lambda got: answer
    found = await send(sender, Message(there.url, timeout=0.5))
    assert (found.status, found.is_final, found.retry_after) == (0, False, None)
    assert found.error


async def test_an_answer_that_does_not_come(sender, there):
    there.hold = asyncio.Event()
    found = await send(sender, Message(there.url, timeout=0.05))
    assert found.error == "no whole answer within 0.05 s"
    there.hold.set()


async def test_nobody_there(sender):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    found = await send(sender, Message(url))
    assert found.status == 0
    assert found.error


@pytest.mark.parametrize("url", ["http://a..b/", "http://" + "a" * 64 + "/", "http://localhost:1/\x01"])
async def test_urls_that_nothing_can_be_sent_to(sender, url):
    found = await send(sender, Message(url, timeout=1))
    assert (found.status, bool(found.error)) == (0, True)


async def test_headers_that_cannot_be_sent(sender, there):
    found = await send(sender, Message(there.url, headers=[("X", "a\x0bb")]))
    assert found.status in (0, 200)
    assert found.status == 200 or found.is_final
    assert (await send(sender, Message(there.url, headers=[("X", "→")]))).status == 200
    assert there.got[-1].headers["x"].encode("latin-1").decode() == "→"


async def test_addresses_are_guarded(world, there):
    sender = Sender(world, keys, Guard())
    for url in (there.url, there.url.replace("127.0.0.1", "localhost"), "http://[::ffff:127.0.0.1]:1/"):
        found = await send(sender, Message(url))
        assert (found.status, found.is_final) == (0, True)
        assert "not on the public internet" in found.error
    assert not there.got
    await sender.close()
    sender = Sender(world, keys, Guard(["127.0.0.1"]))
    assert (await send(sender, Message(there.url))).status == 200
    assert (await send(sender, Message(there.url))).status == 200
    assert there.connections == 1
    await sender.close()


async def test_proxies_of_the_environment_are_not_asked(sender, there, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await send(sender, Message(there.url))).status == 200


@pytest.mark.parametrize(("status", "is_left_alone"), [(503, True), (500, False), (404, False)])
async def test_a_destination_in_trouble_is_left_alone(sender, there, world, status, is_left_alone):
    there.answer = lambda got: answered(status)
    for _ in range(FAILURES):
        assert (await send(sender, Message(there.url))).status == status
    found = await send(sender, Message(there.url))
    assert bool(found.held_back) is is_left_alone
    if is_left_alone:
        assert len(there.got) == FAILURES
        assert (await send(sender, Message(there.url), held=1)).status == status
        there.answer = lambda got: answered(200)
        await world.advance(300)
        assert (await send(sender, Message(there.url))).status == 200
        assert (await send(sender, Message(there.url))).status == 200


async def test_what_is_not_said_is_no_header():
    names = {name for name, _ in request_headers(Message("http://x"), "m", 0)}
    assert names == {
        "User-Agent", "Accept-Encoding", "Upstash-Message-Id", "Upstash-Retried", "Upstash-Retries",
        "Upstash-Max-Retries",
    }  # fmt: skip


async def test_a_message_of_a_queue_waits_for_a_connection_without_a_place(world):
    resting: list[str] = []

    @contextmanager
    def rests(queue: str):
        resting.append(queue)
        yield
        resting.remove(queue)

    sender = Sender(world, keys, None, connections=1, rests=rests)
    async with destination() as there:
        there.hold = asyncio.Event()
        sent = [asyncio.ensure_future(send(sender, Message(there.url, queue="q"))) for _ in range(3)]
        while not there.got:
            await asyncio.sleep(0.001)
        assert resting == ["dispatch.queue.q"] * 2
        there.hold.set()
        assert [answer.status for answer in await asyncio.gather(*sent)] == [200] * 3
        assert not resting
    await sender.close()
