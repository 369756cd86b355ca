"""Runs of messages under virtual time: attempts, retries, callbacks, what is kept in order, and how they end."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from perdure import RunFailedError, RunStatus
from perdure.dispatch.messages.delivery import delivery_workflow
from perdure.dispatch.messages.message import QUEUE, Answer, Callback, FlowControl, Message
from perdure.model.decision import RunFilter
from tests.engine.world import NOW


class Destination:
    """What attempts come to, in turn; and when each was made."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.answers: list[Answer] = []
        self.got: list[tuple[int, str, int]] = []
        self.messages: list[Message] = []
        self.held: list[int] = []

    async def __call__(
        self, message: Message, message_id: str, retried: int, *, is_due: bool = False, held: int = 0
    ) -> Answer:
        self.got.append((self.world.now() - NOW, message.url, retried))
        self.messages.append(message)
        self.held.append(-1 if is_due else held)
        return self.answers.pop(0) if self.answers and "hook" not in message.url else Answer(200, body="fine")

    @property
    def attempts(self) -> list[tuple[int, int]]:
        """When each attempt was made that is no callback, in seconds, and after how many retries."""
        return [(round(at / 1000), retried) for at, url, retried in self.got if "hook" not in url]

    def told(self) -> list[dict[str, Any]]:
        """The callbacks that arrived."""
        return [json.loads(message.content) for message in self.messages if "hook" in message.url]


@pytest.fixture
def destination(world) -> Destination:
    return Destination(world)


@pytest.fixture
def engine(world, memory, destination):
    app = world.app(memory, queues=[QUEUE, "dispatch.queue.q", "dispatch.flow"])
    app.delivery = delivery_workflow(destination, world, asyncio.Event())
    app.registry.add_workflow(app.delivery)
    return app


async def start(engine, message: Message, run_id: str = "msg_1"):
    return await engine.start(engine.delivery, message, id=run_id, queue=message.place)


async def test_a_message_that_is_taken_is_complete(world, engine, destination):
    async with engine:
        run = await start(engine, Message("http://x/", body="hello"))
        await world.advance(1)
        assert (await run.get()).status is RunStatus.COMPLETE
        outcome = await run.result()
        assert (outcome.status, outcome.retried) == (200, 0)
        assert destination.attempts == [(0, 0)]


async def test_the_usual_back_off(world, engine, destination):
    destination.answers = [Answer(500)] * 9
    async with engine:
        run = await start(engine, Message("http://x/", retries=4))
        await world.advance(200_000)
        assert [at for at, _ in destination.attempts] == [0, 12, 161, 1969, 23995]
        row = await run.get()
        assert row.status is RunStatus.ERRORED
        with pytest.raises(RunFailedError, match="status 500"):
            await run.result()


@pytest.mark.parametrize(
    ("message", "answer", "seconds"),
    [
        (Message("http://x/", retry_delay="(retried + 1) * 7000"), Answer(500), 7),
        (Message("http://x/", retry_delay="7000"), Answer(429, retry_after=90_000), 90),
        (Message("http://x/"), Answer(0, error="no answer"), 12),
        (Message("http://x/", retry_delay="0 / 0"), Answer(301), 12),
    ],
)
async def test_who_says_when_the_next_attempt_is_made(world, engine, destination, message, answer, seconds):
    destination.answers = [answer]
    async with engine:
        await start(engine, message)
        await world.advance(500)
        assert destination.attempts == [(0, 0), (seconds, 1)]


async def test_what_is_final_is_not_tried_again(world, engine, destination):
    destination.answers = [Answer(489, is_final=True)]
    async with engine:
        run = await start(engine, Message("http://x/"))
        await world.advance(100_000)
        assert destination.attempts == [(0, 0)]
        assert (await run.get()).status is RunStatus.ERRORED


async def test_callbacks_tell_of_each_attempt_and_of_the_failure(world, engine, destination):
    destination.answers = [Answer(503, [("content-type", "text/plain")], "busy"), Answer(0, error="no route")]
    message = Message(
        "http://x/",
        body="hello",
        headers=[("content-type", "text/x")],
        retries=1,
        callback=Callback("http://hook/each", [("Upstash-Forward-A", "b"), ("Upstash-Retries", "7")]),
        failure_callback=Callback("http://hook/failed"),
        published_at=5,
        not_before=6,
        caller_ip="1.2.3.4",
        group="all",
    )
    async with engine:
        await start(engine, message)
        await world.advance(60)
        first, *others = destination.told()
        assert first == {
            "status": 503, "header": {"Content-Type": ["text/plain"]}, "body": base64.b64encode(b"busy").decode(),
            "retried": 0, "maxRetries": 1, "sourceMessageId": "msg_1", "url": "http://x/", "method": "POST",
            "sourceHeader": {"Content-Type": ["text/x"]}, "sourceBody": base64.b64encode(b"hello").decode(),
            "notBefore": 6, "createdAt": 5, "callerIP": "1.2.3.4", "topicName": "all",
        }  # fmt: skip
        assert [base64.b64decode(each["body"]) for each in others] == [b"no route"] * 2
        assert sum("dlqId" in each for each in others) == 1
        carrier = next(each for each in destination.messages if each.url == "http://hook/each")
        assert carrier.headers == [("Content-Type", "application/json"), ("A", "b")]
        assert (carrier.retries, carrier.caller_ip) == (7, "1.2.3.4")
        assert next(each for each in destination.messages if each.url == "http://hook/failed").retries == 1
        page = await engine.store.find(RunFilter(parent_id="msg_1"), 10)
        assert len(page.runs) == 3
        assert all(run.is_detached and run.id.startswith("msg_") for run in page.runs)


async def test_a_callback_is_created_by_the_decision_that_records_the_attempt(world, engine, destination):
    async with engine:
        run = await start(engine, Message("http://x/", callback=Callback("http://hook/")))
        await world.advance(1)
        records = {record.key: record for record in await run.journal()}
        child = next(record for record in records.values() if record.kind == "child")
        assert child.at == records["attempt"].at
        assert engine.store.calls.count("commit") <= 3


async def test_a_callback_has_a_queue_of_its_own_bounds(world, engine, destination):
    callback = Callback(
        "http://hook/",
        [("Upstash-Flow-Control-Key", "k"), ("Upstash-Flow-Control-Value", "rate=1"), ("Upstash-Delay", "30s")],
    )
    async with engine:
        await start(engine, Message("http://x/", callback=callback))
        await world.advance(5)
        (child,) = (await engine.store.find(RunFilter(parent_id="msg_1"), 10)).runs
        assert (child.queue, child.limit_key, child.due_at) == ("dispatch.flow", "k", NOW + 30_000)
        await world.advance(30)
        assert [at // 1000 for at, url, _ in destination.got if "hook" in url] == [30]


async def test_a_long_answer_leaves_the_source_out():
    from perdure.dispatch.messages.delivery import CALLBACK_LENGTH, callback_of

    message = Message("http://x/", body="x" * CALLBACK_LENGTH)
    carrier = callback_of(
        Callback("http://y/"), message, Answer(200), message_id="m", retried=0, now=1, is_failure=False
    )
    assert "sourceBody" not in json.loads(carrier.content)
    assert len(carrier.content) < 1000


async def test_a_callback_fits_into_a_run_however_much_of_it_is_escaped():
    from perdure.dispatch.messages.delivery import callback_of
    from perdure.dispatch.messages.message import payload_of
    from perdure.model.limits import Limits

    message = Message("http://x/", body="x" * 450_000, headers=[("a", '"' * 60_000)])
    carrier = callback_of(
        Callback("http://y/"), message, Answer(200, [("b", '"' * 16_000)], body="y" * 200_000),
        message_id="m", retried=0, now=1, is_failure=False,
    )  # fmt: skip
    assert len(payload_of(carrier)) < Limits().payload_bytes


async def test_a_message_of_a_queue_keeps_its_place(world, engine, destination):
    destination.answers = [Answer(500), Answer(200), Answer(200)]
    async with engine:
        await engine.queue("dispatch.queue.q").set_limits(concurrency=1)
        await start(engine, Message("http://x/1", queue="q"), "msg_1")
        await world.advance(1)
        await start(engine, Message("http://x/2", queue="q"), "msg_2")
        await world.advance(60)
        assert [(url, at // 1000) for at, url, _ in destination.got] == [
            ("http://x/1", 0), ("http://x/1", 12), ("http://x/2", 12)
        ]  # fmt: skip


async def test_messages_that_wait_in_their_queues_take_no_place_in_the_worker(world, memory, destination):
    lines = [f"dispatch.queue.{number}" for number in range(4)]
    destination.answers = [Answer(500)] * 4
    app = world.app(memory, queues=[QUEUE, *lines], concurrency=2)
    app.delivery = delivery_workflow(
        destination, world, asyncio.Event(), lambda queue: app.worker.lingering.rests(queue)
    )
    app.registry.add_workflow(app.delivery)
    async with app:
        for number, line in enumerate(lines):
            await app.queue(line).set_limits(concurrency=1)
            await start(app, Message(f"http://x/{number}", queue=str(number)), f"msg_{number}")
        await world.advance(5)
        assert [at for at, _ in destination.attempts] == [0] * 4
        places = app.worker.claiming.places
        assert (len(app.worker.turns), places.taken) == (4, 0)
        await world.advance(60)
        assert len(destination.attempts) == 8
        assert (len(app.worker.turns), places.taken, places.lingering.total()) == (0, 0, 0)


async def test_any_other_gives_its_place_away(world, engine, destination):
    destination.answers = [Answer(500), Answer(200), Answer(200)]
    async with engine:
        await engine.queue(QUEUE).set_limits(concurrency=1)
        await start(engine, Message("http://x/1"), "msg_1")
        await world.advance(1)
        await start(engine, Message("http://x/2"), "msg_2")
        await world.advance(60)
        assert [url for _, url, _ in destination.got] == ["http://x/1", "http://x/2", "http://x/1"]


@pytest.mark.parametrize("queue", ["", "q"])
async def test_a_destination_that_is_left_alone_is_tried_once_that_is_over(world, engine, destination, queue):
    destination.answers = [Answer(0, held_back=20_000)]
    async with engine:
        run = await start(engine, Message("http://x/", queue=queue))
        await world.advance(60)
        assert destination.attempts == [(0, 0), (20, 0)]
        assert destination.held == [0, -1 if queue else 1]
        assert (await run.get()).status is RunStatus.COMPLETE


async def test_a_message_is_held_back_as_long_as_others_wait(world, engine, destination):
    destination.answers = [Answer(0, held_back=1_000), Answer(0, held_back=2_000), Answer(500)]
    async with engine:
        await start(engine, Message("http://x/", retries=1))
        await world.advance(60)
        assert destination.attempts == [(0, 0), (1, 0), (3, 0), (15, 1)]
        assert destination.held == [0, 1, 2, 0]


async def test_a_message_can_be_cancelled_while_it_waits(world, engine, destination):
    destination.answers = [Answer(500)] * 9
    async with engine:
        for run_id, queue in (("msg_1", ""), ("msg_2", "q")):
            run = await start(engine, Message("http://x/", queue=queue), run_id)
            await world.advance(1)
            await run.terminate()
            await world.advance(1_000)
            assert (await run.get()).status is RunStatus.TERMINATED
        assert len(destination.got) == 2


async def test_flow_control_is_a_limit_key():
    message = Message("http://x/", flow_control=FlowControl("k", rate=1))
    assert (message.place, message.limit_key) == ("dispatch.flow", "k")
    assert Message("http://x/", queue="a", flow_control=FlowControl("k")).place == "dispatch.queue.a"
