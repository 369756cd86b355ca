"""Publishing: answers as QStash gives them, de-duplication, batches, URL groups, queues, flow control."""

from __future__ import annotations

import pytest
import pytest_asyncio

from perdure import UsageError
from perdure.dispatch.messages import flow_control as flow_module
from perdure.dispatch.messages import groups as groups_module
from perdure.dispatch.messages import outbox as outbox_module
from perdure.dispatch.messages.groups import GroupEndpoint, UnknownGroupError
from perdure.dispatch.messages.lines import UnknownQueueError
from perdure.dispatch.messages.message import message_of, run_id_of
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Outbox, Publication
from perdure.dispatch.messages.paces import flow_standings, reset_rate
from perdure.model.decision import Action, RunFilter
from perdure.model.errors import PayloadTooLargeError
from perdure.model.queue import Admission, KeyLimits, Rate
from perdure.model.run import Retention
from perdure.tasks.addresses import Guard
from tests.engine.world import NOW


@pytest_asyncio.fixture
async def outbox(world, url):
    app = world.app(url, mode="client")
    async with app:
        found = Outbox(app, Guard(["10.0.0.0/8"]))
        found.app = app
        yield found


def of(destination: str = "http://x.example/", body: bytes = b"", queue: str = "", **headers: str) -> Publication:
    said = read([(f"Upstash-{name.replace('_', '-')}", value) for name, value in headers.items()])
    return Publication(destination, said, body, queue)


async def runs(outbox):
    return (await outbox.app.store.find(RunFilter(), 100)).runs


async def run_of(outbox, answer):
    (run,) = await outbox.app.store.get([run_id_of(answer["messageId"])])
    return run


async def test_a_message_becomes_a_run(outbox):
    answer = await outbox.publish(of(body=b"\xff", Delay="1m", Label="a,b"), caller_ip="1.2.3.4", schedule="s")
    assert answer == {"messageId": answer["messageId"]}
    assert answer["messageId"].startswith("msg_")
    run = await run_of(outbox, answer)
    assert (run.workflow, run.queue, run.due_at, run.limit_key) == ("perdure.delivery", "dispatch", NOW + 60_000, "")
    assert {"host": "x.example", "caller": "1.2.3.4", "schedule": "s", "label:a": "1", "label:b": "1"}.items() <= (
        run.tags.items()
    )
    message = message_of((await outbox.app.store.journal(run.id))[0].payload)
    assert (message.content, message.published_at, message.not_before) == (b"\xff", NOW, NOW + 60_000)


async def test_what_was_published_once_is_not_published_again_for_ten_minutes(outbox, world):
    first = await outbox.publish(of(Deduplication_Id="d"))
    again = await outbox.publish(of("http://other.example/", Deduplication_Id="d"))
    assert again == {"messageId": first["messageId"], "deduplicated": True}
    assert await outbox.publish(of(Deduplication_Id="e")) != first
    await world.advance(599)
    assert (await outbox.publish(of(Deduplication_Id="d"))).get("deduplicated")
    await world.advance(2)
    assert "deduplicated" not in await outbox.publish(of(Deduplication_Id="d"))
    assert (await run_of(outbox, first)).id.startswith("msg_")
    assert "/" not in first["messageId"]


async def test_a_message_is_kept_for_as_long_as_it_stands_for_others(outbox):
    longer = Outbox(outbox.app, None, window=40 * 86_400_000)
    run = await run_of(outbox, await longer.publish(of(Deduplication_Id="d")))
    assert run.retention == Retention(*[40 * 86_400_000] * 3)
    assert (await run_of(outbox, await longer.publish(of()))).retention == outbox_module.RETENTION


async def test_content_that_was_published_once(outbox):
    same = {"Content_Based_Deduplication": "true", "Forward_A": "1"}
    first = await outbox.publish(of(body=b"x", **same))
    assert (await outbox.publish(of(body=b"x", Retries="1", **same)))["deduplicated"]
    for other in (of(body=b"y", **same), of("http://y/", b"x", **same), of(body=b"x", **{**same, "Forward_A": "2"})):
        assert "deduplicated" not in await outbox.publish(other)
    assert len(await runs(outbox)) == 4
    assert "deduplicated" not in first


async def test_a_batch_is_answered_in_order(outbox, world):
    await outbox.groups.add("g", [GroupEndpoint("http://a/", "one"), GroupEndpoint("http://b/")])
    answers = await outbox.publish_each(
        [of(Deduplication_Id="d"), of("g", b"x"), of(queue="q"), of(Deduplication_Id="d"), of(Queue_Name="r")]
    )
    one, group, queued, again, other = answers
    assert again == {"messageId": one["messageId"], "deduplicated": True}
    assert [each["url"] for each in group] == ["http://a/", "http://b/"]
    assert [(await run_of(outbox, each)).tags["group"] for each in group] == ["g", "g"]
    assert (await run_of(outbox, queued)).queue == "dispatch.queue.q"
    assert (await run_of(outbox, other)).queue == "dispatch.queue.r"
    assert await outbox.publish_each([]) == []
    assert await outbox.publish(of("g")) != []


async def test_group_messages_are_deduplicated_each(outbox):
    await outbox.groups.add("g", [GroupEndpoint("http://a/"), GroupEndpoint("http://b/")])
    await outbox.groups.add("h", [GroupEndpoint("http://a/")])
    first = await outbox.publish(of("g", Deduplication_Id="d"))
    again = await outbox.publish(of("g", Deduplication_Id="d"))
    assert [each | {"deduplicated": True} for each in first] == again
    (other,) = await outbox.publish(of("h", Deduplication_Id="d"))
    assert "deduplicated" not in other


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (of("ftp://x"), r"invalid destination url"),
        (of("nobody"), r"URL group 'nobody' is unknown"),
        (of("a b"), r"URL group"),
        (of("http://127.0.0.1/"), r"invalid destination url: .*not on the public internet"),
        (of("http://[::1]/"), r"invalid destination url: .*not on the public internet"),
        (of(queue="a/b"), r"queue: 'a/b'"),
        (of(body=b"x" * 1_000_001), r"MESSAGE_BYTES"),
        (of(body=b"\x01" * 200_000), r"MESSAGE_BYTES"),
    ],
)
async def test_a_batch_is_published_whole_or_not_at_all(outbox, wrong, told):
    with pytest.raises(UsageError, match=rf"batch\[1\]: .*{told}"):
        await outbox.publish_each([of(queue="q"), wrong, of()])
    with pytest.raises(UsageError, match=told):
        await outbox.publish(wrong)
    assert await runs(outbox) == []
    assert await outbox.app.store.queues() == []


async def test_addresses_that_are_allowed(outbox):
    assert await outbox.publish(of("http://10.1.2.3/"))


async def test_bounds(outbox, monkeypatch):
    monkeypatch.setattr(outbox_module, "BATCH", 3)
    with pytest.raises(UsageError, match=r"4 messages, over 3 \(BATCH\)"):
        await outbox.publish_each([of()] * 4)
    await outbox.groups.add("g", [GroupEndpoint("http://a/"), GroupEndpoint("http://b/")])
    with pytest.raises(UsageError, match="with those of URL groups"):
        await outbox.publish_each([of("g"), of("g", body=b"x" * 1_000_000)])  # counted before any of them is made
    with pytest.raises(PayloadTooLargeError):
        await outbox.publish(of(body=b"x" * 1_000_000))
    assert await runs(outbox) == []


async def test_a_batch_is_one_store_operation(outbox):
    await outbox.publish_each([of(body=b"%d" % number) for number in range(500)])
    assert outbox.app.store.calls.count("create") == 1
    assert {call for call in outbox.app.store.calls if call in ("put", "set_queue")} == set()


async def test_queues(outbox, world):
    await outbox.publish(of(queue="q"))
    line = await outbox.lines.get("q")
    assert (line.parallelism, line.lag, line.is_paused, line.created_at) == (1, 1, False, NOW)
    await world.advance(1)
    await outbox.lines.put("q", 5, paused=True)
    await outbox.lines.put("p")
    await outbox.publish(of(queue="q"))
    assert [(line.name, line.parallelism, line.is_paused) for line in await outbox.lines.all()] == [
        ("p", 1, False), ("q", 5, True)
    ]  # fmt: skip
    assert (await outbox.lines.get("q")).updated_at == NOW + 1_000
    await outbox.lines.set_paused("q", False)
    assert not (await outbox.lines.get("q")).is_paused
    await outbox.lines.delete("q")
    await outbox.lines.delete("q")
    for refused in (outbox.lines.get("q"), outbox.lines.set_paused("q", True)):
        with pytest.raises(UnknownQueueError):
            await refused
    for name, parallelism in (("a/b", 1), ("q", 0), ("", None)):
        with pytest.raises(UsageError):
            await outbox.lines.put(name, parallelism)


async def test_a_queue_is_looked_up_now_and_then(outbox, world):
    await outbox.publish(of(queue="q"))
    calls = len(outbox.app.store.calls)
    await outbox.publish(of(queue="q"))
    assert outbox.app.store.calls[calls:] == ["create"]
    await outbox.lines.delete("q")
    await outbox.publish(of(queue="q"))
    assert (await outbox.lines.get("q")).parallelism == 1


async def test_flow_control(outbox, world):
    flow = {"Flow_Control_Key": "k", "Flow_Control_Value": "rate=5,period=1m,parallelism=2"}
    answer = await outbox.publish(of(**flow))
    run = await run_of(outbox, answer)
    assert (run.queue, run.limit_key) == ("dispatch.flow", "k")
    limits, pins = await outbox.flows.get("k")
    assert limits == KeyLimits(2, Rate(5, 60_000))
    calls = len(outbox.app.store.calls)
    await outbox.publish_each([of(**flow)] * 3)
    assert outbox.app.store.calls[calls:] == ["create"]
    await outbox.flows.set_paused("k", True)
    await outbox.publish(of(**{**flow, "Flow_Control_Value": "parallelism=9"}))
    assert (await outbox.flows.get("k"))[0] == KeyLimits(9, None, is_paused=True)
    await outbox.flows.set_paused("k", False)
    await outbox.flows.pin("k", parallelism=3)
    await outbox.publish(of(**flow))
    limits, pins = await outbox.flows.get("k")
    assert (limits.concurrency, limits.rate) == (3, Rate(5, 60_000))
    assert (pins.parallelism, pins.rate) == (True, False)
    await outbox.flows.pin("k", rate=7, period=10)
    await outbox.publish(of(**{**flow, "Flow_Control_Value": "rate=1"}))
    assert (await outbox.flows.get("k"))[0] == KeyLimits(3, Rate(7, 10_000))
    await outbox.flows.unpin("k", rate=False)
    await outbox.publish(of(**flow))
    assert (await outbox.flows.get("k"))[0] == KeyLimits(2, Rate(7, 10_000))
    assert list(await outbox.flows.all()) == ["k"]
    for refused in (outbox.flows.get("no"), outbox.flows.set_paused("no", True), outbox.flows.pin("k")):
        with pytest.raises(UsageError):
            await refused


async def test_flow_control_in_a_queue_bounds_that_queue(outbox):
    await outbox.publish(of(queue="q", Flow_Control_Key="k", Flow_Control_Value="rate=5"))
    (state,) = await outbox.app.store.queues()
    assert (state.name, state.limits.concurrency) == ("dispatch.queue.q", 1)
    assert state.limits.own == {"k": KeyLimits(None, Rate(5, 1_000))}
    assert (await outbox.flows.get("k"))[0] == KeyLimits(None, Rate(5, 1_000))
    assert list(await outbox.flows.all()) == ["k"]


async def test_what_an_operator_says_of_a_key_holds_in_every_queue(outbox):
    async def own(*queues: str) -> list[KeyLimits]:
        states = {state.name: state.limits.own for state in await outbox.app.store.queues()}
        return [states[queue]["k"] for queue in queues]

    flow = {"Flow_Control_Key": "k", "Flow_Control_Value": "rate=5"}
    await outbox.publish(of(queue="a", **flow))
    await outbox.publish(of(**flow))
    await outbox.flows.set_paused("k", True)
    await outbox.publish(of(queue="b", **flow))
    assert all(limits.is_paused for limits in await own("dispatch.flow", "dispatch.queue.a", "dispatch.queue.b"))
    await outbox.flows.set_paused("k", False)
    await outbox.flows.pin("k", parallelism=7)
    await outbox.publish(of(queue="c", **flow))
    pinned = KeyLimits(7, Rate(5, 1_000))
    assert await own("dispatch.flow", *(f"dispatch.queue.{each}" for each in "abc")) == [pinned] * 4


async def test_keys_that_no_message_uses_make_room_for_others(outbox, world, monkeypatch):
    monkeypatch.setattr(flow_module, "LIMITED_KEYS", 4)

    async def publish(key: str, **more: str) -> dict:
        return await outbox.publish(of(Flow_Control_Key=key, Flow_Control_Value="rate=4", **more))

    used = await publish("used", Delay="1h")
    await outbox.flows.pin("pinned", rate=5)
    for key in ("paused", "gone"):
        answer = await publish(key)
        await outbox.app.client.control(run_id_of(answer["messageId"]), Action.TERMINATE)
    await outbox.flows.set_paused("paused", True)
    assert list(await outbox.flows.all()) == ["gone", "paused", "pinned", "used"]
    await publish("new")
    assert list(await outbox.flows.all()) == ["new", "paused", "pinned", "used"]
    monkeypatch.setattr(flow_module, "LOOKED_AT", 0)
    await publish("other")
    assert len(await outbox.flows.all()) == 5
    await outbox.app.client.control(run_id_of(used["messageId"]), Action.TERMINATE)
    await publish("used")
    assert "used" in await outbox.flows.all()


async def test_how_keys_stand(outbox, world):
    store, now = outbox.app.store, world.now()
    for key, queue, count in (("a", "", 3), ("a", "q", 2), ("b", "", 1), ("ab", "", 1)):
        for _ in range(count):
            await outbox.publish(of(queue=queue, Flow_Control_Key=key, Flow_Control_Value="rate=4,parallelism=5"))
    for key, queue in (("a", "dispatch.flow"), ("a", "dispatch.queue.q"), ("b", "dispatch.flow")):
        view = await store.look_into(queue, now, 9, 9, None)
        run_id = next(each.run_id for each in view.candidates if each.limit_key == key)
        assert await store.admit(Admission(queue, view.state.turns, (run_id,), {key: now + 250}), "w", now, now + 9)
    found = await flow_standings(outbox.app, ["a", "ab", "b", "none"])
    assert {key: (each.waiting, each.under_way, each.used) for key, each in found.items()} == {
        "a": (3, 2, 2), "ab": (1, 0, 0), "b": (0, 1, 0), "none": (0, 0, 0)
    }  # fmt: skip
    assert await flow_standings(outbox.app, ["a"]) == {"a": found["a"]}
    await reset_rate(outbox.app, "a")
    assert (await flow_standings(outbox.app, ["a"]))["a"].used == 0


async def test_groups(outbox, world, monkeypatch):
    groups = outbox.groups
    await groups.add("g", [GroupEndpoint("http://a/", "one"), GroupEndpoint("http://a/", "two")])
    assert (await groups.get("g")).endpoints == (GroupEndpoint("http://a/", "two"),)
    await world.advance(1)
    await groups.add("g", [GroupEndpoint("http://b/"), GroupEndpoint("http://c/", "two")])
    group = await groups.get("g")
    assert group.endpoints == (GroupEndpoint("http://b/"), GroupEndpoint("http://c/", "two"))
    assert (group.created_at, group.updated_at) == (NOW, NOW + 1_000)
    await groups.remove("g", [GroupEndpoint(name="two"), GroupEndpoint("http://no/")])
    assert [each.name for each in await groups.all()] == ["g"]
    await groups.remove("g", [GroupEndpoint("http://b/")])
    await groups.remove("g", [GroupEndpoint("http://b/")])
    with pytest.raises(UnknownGroupError):
        await groups.get("g")
    await groups.delete("g")
    monkeypatch.setattr(groups_module, "ENDPOINTS", 2)
    for wrong in ([], [GroupEndpoint("x")], [GroupEndpoint("http://x", "a b")],
                  [GroupEndpoint(f"http://{number}/") for number in range(3)]):  # fmt: skip
        with pytest.raises(UsageError, match="endpoints"):
            await groups.add("g", wrong)
    assert await groups.all() == []


async def test_callbacks_have_their_queues_and_their_bounds_too(outbox):
    await outbox.publish(
        of(
            Callback="http://cb.example/",
            Callback_Queue_Name="told",
            Callback_Callback="http://cb.example/",
            Callback_Callback_Flow_Control_Key="deep",
            Callback_Callback_Flow_Control_Value="rate=3",
            Failure_Callback="http://cb.example/",
            Failure_Callback_Flow_Control_Key="k",
            Failure_Callback_Flow_Control_Value="parallelism=2",
        )
    )
    assert (await outbox.lines.get("told")).parallelism == 1
    assert {key: limits.concurrency for key, (limits, _) in (await outbox.flows.all()).items()} == {
        "deep": None,
        "k": 2,
    }
