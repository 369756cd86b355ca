"""The whole message API against a real server, and a real destination."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import random
from urllib.parse import urlsplit

import pytest

from perdure import Publisher, PublishError, UsageError
from perdure.publisher import Callback, Endpoint, FlowControl, Message
from perdure.server.qstash.dialect import qstash_token
from tests.dispatch.messages.destination import answered
from tests.server.qstash.conftest import until
from tests.serving.cut import cut

LATER = "1h"


async def refused(asking, status, field=""):
    with pytest.raises(PublishError) as caught:
        await asking
    assert (caught.value.status, caught.value.field) == (status, field), str(caught.value)
    return caught.value


async def everything(listed):
    return [each async for each in listed]


async def test_a_message_is_delivered(pub, there):
    sent = await pub.publish(f"{there.url}/x?y=z", json={"a": 1}, headers={"X-A": "é"}, method="PUT")
    await until(lambda: there.got)
    (got,) = there.got
    assert (got.method, got.target, got.body) == ("PUT", "/x?y=z", b'{"a":1}')
    assert (got.headers["x-a"], got.headers["content-type"]) == ("é", "application/json")
    assert (got.headers["upstash-message-id"], sent.is_new) == (sent.id, True)


async def test_a_message_waits_and_is_shown_and_cancelled(pub, there):
    at = dt.datetime.now(dt.UTC)
    sent = await pub.publish(
        there.url,
        body=b"\xff\x00",
        delay="1h",
        retries=7,
        labels=["a", "b"],
        timeout="5s",
        callback=Callback("https://b.example", retries=1),
        flow_control=FlowControl("k", rate=5, per="1m"),
    )
    found = await pub.messages.get(sent.id)
    assert (found.id, found.url, found.method, found.retries, found.labels) == (
        sent.id,
        there.url,
        "POST",
        7,
        ["a", "b"],
    )
    assert (found.content, found.callback, found.flow_control, found.rate, found.period) == (
        b"\xff\x00", "https://b.example", "k", 5, 60,
    )  # fmt: skip
    assert 3_590_000 < found.not_before - at.timestamp() * 1000 < 3_610_000
    await pub.messages.cancel(sent.id)
    await refused(pub.messages.get(sent.id), 404)
    await refused(pub.messages.cancel(sent.id), 404)
    assert {entry.state for entry in await everything(pub.logs(message_id=sent.id))} >= {"CREATED", "CANCELED"}


async def test_a_message_that_waits_is_run_now(pub, there):
    sent = await pub.publish(there.url, json=1, delay=LATER)
    await pub.messages.run_now(sent.id)
    await until(lambda: there.got)
    await refused(pub.messages.run_now("msg_unheard-of"), 404)
    queued = await pub.enqueue("q", there.url, delay=LATER)
    await refused(pub.messages.run_now(queued.id), 400)


async def test_not_before_is_a_moment(pub, there):
    moment = dt.datetime(2040, 1, 1, tzinfo=dt.UTC)
    sent = await pub.publish(there.url, not_before=moment, delay="1s")
    assert (await pub.messages.get(sent.id)).not_before == moment.timestamp() * 1000


async def test_a_message_of_the_same_id_is_the_first_one(pub, there):
    first = await pub.publish(there.url, json=1, dedup_id="order-1", delay=LATER)
    second = await pub.publish(there.url, json=2, dedup_id="order-1", delay=LATER)
    assert (second.id, first.is_new, second.is_new) == (first.id, True, False)
    alike = [await pub.publish(there.url, json=3, dedup_by_content=True, delay=LATER) for _ in range(2)]
    assert (alike[0].id == alike[1].id, alike[1].is_new) == (True, False)
    apart = [await pub.publish(there.url, json=1, delay=LATER) for _ in range(2)]
    assert apart[0].id != apart[1].id


@pytest.mark.parametrize("what", ["request", "answer"])
async def test_a_lost_answer_doubles_nothing(served, there, what):
    async with (
        cut(served.http.base_url.port) as line,
        Publisher(line.url(str(served.http.base_url)), patience=5) as pub,
    ):
        lose = line.lose_answer if what == "answer" else line.lose_request
        lose(b"/v2/publish/")
        one = await pub.publish(there.url, json="one")
        lose(b"/v2/enqueue/")
        two = await pub.enqueue("q", there.url, json="two")
        lose(b"/v2/batch")
        three, four = await pub.batch([Message(there.url, json="three"), Message(there.url, json="four")])
        lose(b"/v2/schedules/")
        await pub.schedules.create(there.url, cron="0 0 1 1 *")
        lose(b"/v2/publish/")
        with pub.blocking as blocking:
            five = await asyncio.to_thread(blocking.publish, there.url, json="five")
        assert line.lost == 5
        await until(lambda: len(there.got) >= 5)
        assert len(await pub.schedules.list()) == 1
        entries = await everything(pub.logs(state="CREATED"))
    sent = [one, two, three, four, five]
    assert [each.is_new for each in sent] == [True] * 5
    assert sorted(entry.message_id for entry in entries) == sorted(each.id for each in sent)


async def test_whatever_is_lost_each_message_is_published_once(served, there):
    dice = random.Random(11)
    async with (
        cut(served.http.base_url.port) as line,
        Publisher(line.url(str(served.http.base_url)), patience=5) as pub,
    ):
        sent = []
        for number in range(60):
            if dice.random() < 0.6:
                (line.lose_answer if dice.random() < 0.7 else line.lose_request)(b"POST ")
            if dice.random() < 0.5:
                sent.append(await pub.publish(there.url, json=number, delay=LATER))
            else:
                sent += await pub.batch([Message(there.url, json=number, delay=LATER)] * 3)
        line.lose_nothing()
        assert line.lost > 20
        entries = await everything(pub.logs(state="CREATED"))
    assert sorted(entry.message_id for entry in entries) == sorted(each.id for each in sent)
    assert all(each.is_new for each in sent)


async def test_a_message_that_was_cancelled_is_cancelled_though_the_answer_is_lost(served, there):
    async with (
        cut(served.http.base_url.port) as line,
        Publisher(line.url(str(served.http.base_url)), patience=5) as pub,
    ):
        sent = await pub.publish(there.url, delay=LATER)
        line.lose_answer(b"DELETE /v2/messages/")
        await pub.messages.cancel(sent.id)
        assert line.lost == 1


async def test_keys_are_rotated_once_though_the_answer_is_lost(served):
    async with (
        cut(served.http.base_url.port) as line,
        Publisher(line.url(str(served.http.base_url)), patience=5) as pub,
    ):
        before = await pub.keys.get()
        line.lose_answer(b"/v2/keys/rotate")
        await refused(pub.keys.rotate(), 0)
        assert (await pub.keys.get()).current == before.next


async def test_a_batch_is_published_in_portions(pub, there):
    messages = (Message(there.url, json=number, delay=LATER, labels="many") for number in range(601))
    sent = await pub.batch(messages)
    assert [each.index for each in sent] == list(range(601))
    assert len({each.id for each in sent}) == 601
    assert (await pub.messages.get(sent[600].id)).content == b"600"
    assert await pub.messages.cancel_many(label="many") == 601
    assert await pub.batch([]) == []


async def test_long_messages_take_more_requests(pub, there):
    sent = await pub.batch(Message(there.url, body="x" * 300_000, delay=LATER) for _ in range(7))
    assert len(sent) == 7


async def test_a_batch_that_is_refused_tells_which_message_and_what_was_published(pub, there):
    messages = [Message(there.url, delay=LATER) for _ in range(300)]
    messages[260] = Message(there.url, retries=1_000)
    error = await refused(pub.batch(messages), 400, "messages[260].retries")
    assert str(error).endswith("the 250 messages before messages[250] are published")
    assert len(error.published) == 250
    assert await pub.messages.cancel_many([each.id for each in error.published]) == 250
    first = await refused(pub.batch(messages[255:]), 400, "messages[5].retries")
    assert first.published == ()


async def test_a_batch_goes_to_groups_and_queues_too(pub, there):
    await pub.groups.add("g", [f"{there.url}/1", Endpoint(f"{there.url}/2", "two")])
    sent = await pub.batch(
        [
            Message(group="g", json=1, delay=LATER),
            Message(there.url, json=2, queue="q", delay=LATER),
            Message(there.url, delay=LATER, dedup_id="d"),
            Message(there.url, delay=LATER, dedup_id="d"),
        ]
    )
    assert [each.index for each in sent] == [0, 0, 1, 2, 3]
    assert [each.url for each in sent[:2]] == [f"{there.url}/1", f"{there.url}/2"]
    assert [each.is_new for each in sent] == [True, True, True, True, False]
    assert (await pub.messages.get(sent[2].id)).queue == "q"


async def test_what_no_batch_can_carry_is_told(pub):
    with pytest.raises(UsageError, match=r"^messages\[1\].body: a batch carries text"):
        await pub.batch([Message("https://a.example"), Message("https://a.example", body=b"\xff")])
    with pytest.raises(UsageError, match=r"^messages\[0\]: an object of type dict"):
        await pub.batch([{}])
    several = [Message("https://a.example", delay=LATER)] * 300
    with pytest.raises(
        UsageError, match=r"^messages\[300\]: .*; the 250 messages before messages\[250\] are published$"
    ):
        await pub.batch([*several, "https://a.example"])


async def test_a_group_gets_a_message_at_each_endpoint(pub, there):
    await pub.groups.add("g", [f"{there.url}/1", Endpoint(f"{there.url}/2", "two")])
    sent = await pub.groups.publish("g", json=1)
    assert [each.url for each in sent] == [f"{there.url}/1", f"{there.url}/2"]
    await until(lambda: len(there.got) == 2)
    assert {got.target for got in there.got} == {"/1", "/2"}
    assert len(await pub.groups.enqueue("q", "g", json=1)) == 2
    group = await pub.groups.get("g")
    assert (group.name, group.endpoints) == ("g", [Endpoint(f"{there.url}/1"), Endpoint(f"{there.url}/2", "two")])
    assert [each.name for each in await pub.groups.list()] == ["g"]
    await pub.groups.remove("g", [f"{there.url}/1"])
    assert len((await pub.groups.get("g")).endpoints) == 1
    await pub.groups.delete("g")
    await refused(pub.groups.get("g"), 404)
    await refused(pub.groups.publish("g", json=1), 404)
    with pytest.raises(UsageError, match="give a list"):
        await pub.groups.add("g", there.url)


async def test_a_queue_keeps_its_order(pub, there):
    await pub.queues.set("q", parallelism=1, paused=True)
    for number in range(5):
        await pub.enqueue("q", there.url, json=number)
    queue = await pub.queues.get("q")
    assert (queue.name, queue.parallelism, queue.paused, queue.lag) == ("q", 1, True, 5)
    await pub.queues.resume("q")
    await until(lambda: len(there.got) == 5)
    assert [got.body for got in there.got] == [b"0", b"1", b"2", b"3", b"4"]
    await pub.queues.pause("q")
    assert [each.paused for each in await pub.queues.list()] == [True]
    await pub.queues.delete("q")
    await refused(pub.queues.get("q"), 404)
    with pytest.raises(UsageError, match="^parallelism: "):
        await pub.queues.set("q", parallelism=0)


async def test_a_schedule_is_made_shown_paused_and_deleted(pub, there):
    made = await pub.schedules.create(
        there.url,
        cron="0 9 * * mon-fri",
        tz="Europe/Paris",
        json={"a": 1},
        retries=2,
        delay="10s",
        queue="q",
        labels="l",
    )
    found = await pub.schedules.get(made)
    assert (found.id, found.destination, found.cron) == (made, there.url, "CRON_TZ=Europe/Paris 0 9 * * mon-fri")
    assert (found.content, found.retries, found.delay, found.queue, found.labels) == (b'{"a":1}', 2, 10, "q", ["l"])
    assert found.next_at is not None
    assert dt.datetime.fromtimestamp(found.next_at / 1000, dt.UTC).minute == 0
    await pub.schedules.pause(made)
    assert (await pub.schedules.get(made)).is_paused
    await pub.schedules.resume(made)
    assert not (await pub.schedules.get(made)).is_paused
    assert await pub.schedules.create(there.url, cron="0 0 1 1 *", id=made) == made
    assert [(each.id, each.cron) for each in await pub.schedules.list()] == [(made, "0 0 1 1 *")]
    await pub.schedules.delete(made)
    await refused(pub.schedules.get(made), 404)
    await pub.groups.add("g", [there.url])
    assert await pub.schedules.create(group="g", cron="0 0 1 1 *", id="yearly") == "yearly"


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "every day"])
async def test_a_schedule_that_never_fires_is_refused(pub, cron):
    assert "cron" in str(await refused(pub.schedules.create("https://a.example", cron=cron), 400, "cron"))


async def test_flow_control_is_shown_and_pinned(pub, there):
    for number in range(3):
        await pub.publish(
            there.url, json=number, delay=LATER, flow_control=FlowControl("k", rate=5, per="1m", parallelism=2)
        )
    found = await pub.flow_control.get("k")
    assert (found.key, found.rate, found.period, found.parallelism, found.is_paused) == ("k", 5, 60, 2, False)
    await pub.flow_control.pin("k", parallelism=7, rate=9, per="2m")
    found = await pub.flow_control.get("k")
    assert (found.rate, found.period, found.parallelism) == (9, 120, 7)
    assert (found.is_parallelism_pinned, found.is_rate_pinned) == (True, True)
    await pub.flow_control.pin("k", parallelism=8)
    assert (await pub.flow_control.get("k")).parallelism == 8
    await pub.flow_control.unpin("k", rate=False)
    found = await pub.flow_control.get("k")
    assert (found.is_parallelism_pinned, found.is_rate_pinned) == (False, True)
    await pub.flow_control.pause("k")
    assert (await pub.flow_control.get("k")).is_paused
    await pub.flow_control.resume("k")
    await pub.flow_control.reset_rate("k")
    assert [each.key for each in await pub.flow_control.list()] == ["k"]
    assert await pub.flow_control.list("other") == []
    assert (await pub.flow_control.total()).parallelism > 0
    await refused(pub.flow_control.get("unheard-of"), 404)
    with pytest.raises(UsageError, match="give parallelism, rate or both"):
        await pub.flow_control.pin("k")


async def test_what_failed_is_listed_retried_and_deleted(pub, there):
    there.answer = lambda got: answered(500, body=b"broken")
    sent = [await pub.publish(f"{there.url}/{n}", json=n, retries=0, labels=["bad", f"n{n}"]) for n in range(4)]
    await until(lambda: len(there.got) == 4)

    async def all_are_dead():
        return len(await everything(pub.dlq.list(label="bad"))) == 4

    await until(all_are_dead)
    assert await everything(pub.dlq.list(label="good")) == []
    assert len(await everything(pub.dlq.list(label="bad", status=500))) == 4
    (dead,) = await everything(pub.dlq.list(label="n0"))
    assert (dead.id, dead.status, dead.response, dead.content, dead.url) == (
        sent[0].id, 500, b"broken", b"0", f"{there.url}/0",
    )  # fmt: skip
    assert await pub.dlq.get(dead.dead_id) == dead
    there.answer = lambda got: answered(200)
    again = await pub.dlq.retry([dead.dead_id], changes={"retries": 5, "headers": {"X-Again": "1"}})
    assert len(again) == 1
    await until(lambda: len(there.got) == 5)
    assert (there.got[4].headers["upstash-max-retries"], there.got[4].headers["x-again"]) == ("5", "1")
    (one,) = await everything(pub.dlq.list(label="n1"))
    await pub.dlq.delete(one.dead_id)
    await refused(pub.dlq.get(one.dead_id), 404)
    assert await pub.dlq.delete_many(label="n2") == 1
    assert len(await pub.dlq.retry(everything=True)) == 1
    await until(lambda: len(there.got) == 6)
    assert await everything(pub.dlq.list()) == []


async def test_what_failed_is_retried_once_though_the_answer_is_lost(served, there):
    there.answer = lambda got: answered(500)
    async with (
        cut(served.http.base_url.port) as line,
        Publisher(line.url(str(served.http.base_url)), patience=5) as pub,
    ):
        await pub.publish(there.url, retries=0)

        async def dead():
            return await everything(pub.dlq.list())

        (letter,) = await until(dead)
        there.answer = lambda got: answered(200)
        line.lose_answer(b"/v2/dlq/retry")
        await refused(pub.dlq.retry([letter.dead_id]), 0)
        assert await pub.dlq.retry([letter.dead_id]) == []
        await until(lambda: len(there.got) == 2)


@pytest.mark.parametrize(
    "ask",
    [
        lambda pub: pub.messages.cancel_many(),
        lambda pub: pub.messages.cancel_many(["a"], label="b"),
        lambda pub: pub.messages.cancel_many(["a"], everything=True),
        lambda pub: pub.dlq.delete_many(everything=True, label="b"),
        lambda pub: pub.dlq.retry(),
        lambda pub: pub.dlq.resume(),
        lambda pub: pub.workflows.cancel_many(),
        lambda pub: pub.messages.cancel_many("msg_1"),
        lambda pub: pub.messages.cancel_many(labels="a"),
        lambda pub: pub.messages.cancel_many(label=[]),
        lambda pub: pub.messages.cancel_many(label=1),
        lambda pub: pub.dlq.delete_many(status="500"),
        lambda pub: pub.dlq.retry(["d"], changes={"json": 1}),
    ],
)
async def test_what_is_meant_must_be_clear(asked, recorder, ask):
    with pytest.raises(UsageError):
        await ask(asked)
    assert recorder.got == []


async def test_all_messages_or_those_of_a_filter_are_cancelled(pub, there):
    for number in range(3):
        await pub.publish(f"{there.url}/{number}", delay=LATER, labels=f"n{number}")
    assert await pub.messages.cancel_many([]) == 0
    assert await pub.messages.cancel_many(label=["n0", "n1"], host="elsewhere") == 0
    assert await pub.messages.cancel_many(label=["n0", "n1"], host=urlsplit(there.url).hostname) == 2
    assert await pub.messages.cancel_many(everything=True) == 1


async def test_logs_come_page_by_page(pub, there):
    start = dt.datetime.now(dt.UTC)
    sent = [await pub.publish(there.url, json=number, delay=LATER, labels="paged") for number in range(120)]
    entries = await everything(pub.logs(label="paged", state="CREATED"))
    assert [each.message_id for each in entries] == [each.id for each in reversed(sent)]
    assert entries[0].content == b"119"
    listed = pub.logs(label="paged")
    first = await listed.page()
    assert listed.cursor
    rest = await everything(pub.logs(label="paged", cursor=listed.cursor))
    assert [each.message_id for each in (*first, *rest)] == [each.message_id for each in entries]
    assert await everything(pub.logs(until=start)) == []
    assert len(await everything(pub.logs(since=start, message_id=[sent[0].id, sent[1].id]))) == 2
    with pub.blocking as blocking:

        def listed_here():
            listed = blocking.logs(label="paged")
            return [*listed.page(), *listed], listed.cursor

        assert await asyncio.to_thread(listed_here) == (entries, "")


async def test_deliveries_are_told_of(pub, there):
    there.answer = lambda got: answered(500 if len(there.got) == 1 else 200, "X-B: 1\r\n", b"said")
    sent = await pub.publish(there.url, retry_delay=0.01, json=1)
    await until(lambda: len(there.got) == 2)

    async def delivered():
        return (await everything(pub.logs(message_id=sent.id)))[0].state == "DELIVERED"

    await until(delivered)
    entries = {each.state: each for each in await everything(pub.logs(message_id=sent.id))}
    assert entries["ERROR"].status == 500
    assert entries["DELIVERED"].response_body == "said"
    assert entries["RETRY"].next_at is not None
    assert base64.b64decode(entries["CREATED"].body or "") == b"1"


async def test_keys_rotate(pub):
    before = await pub.keys.get()
    after = await pub.keys.rotate()
    assert after.current == before.next
    assert after.current not in repr(after)
    assert await pub.keys.get() == after


async def test_what_a_server_refuses_is_told_with_the_option(pub):
    await refused(pub.publish("https://a.example", retries=1_000), 400, "retries")
    await refused(pub.publish("https://a.example", labels="not good"), 400, "labels")
    await refused(pub.publish("https://a.example", retry_delay="retried ** 2"), 400, "retry_delay")
    await refused(pub.publish("https://a.example", timeout="1d"), 400, "timeout")
    await refused(pub.publish("https://a.example", flow_control=FlowControl("a b", rate=1)), 400, "flow_control")
    error = await refused(pub.messages.get("msg_x"), 404)
    assert "msg_x" in str(error)


async def test_a_key_says_who_asks_and_what_they_may(serving, there):
    served = await serving()
    keys = served.server.authenticator.keys
    made = {role: (await keys.create(role, role, ["default"])).token for role in ("viewer", "operator")}
    served.app.world.ahead += 2_001  # the server looks for keys every two seconds
    url = str(served.http.base_url)
    async with Publisher(url, made["operator"]) as operator, Publisher(url, made["viewer"]) as viewer:
        sent = await operator.publish(there.url, delay=LATER)
        assert (await viewer.messages.get(sent.id)).id == sent.id
        await refused(viewer.messages.cancel(sent.id), 403)
        await refused(viewer.publish(there.url), 403)
    async with Publisher(url, "wrong") as nobody, Publisher(url) as somebody:
        assert "QSTASH_TOKEN" in str(await refused(nobody.publish(there.url), 401))
        await refused(nobody.batch([Message(there.url)]), 401)
        await refused(somebody.messages.get("msg_1"), 401)


async def test_a_namespace_has_messages_of_its_own(serving, there):
    served = await serving(namespaces={"acme": None})
    url = str(served.http.base_url)
    async with Publisher(url) as default, Publisher(url, namespace="acme") as acme:
        sent = await acme.publish(there.url, delay=LATER)
        assert (await acme.messages.get(sent.id)).id == sent.id
        await refused(default.messages.get(sent.id), 404)


async def test_a_token_in_the_form_of_the_official_clients_will_do(serving, there):
    served = await serving(namespaces={"acme": None})
    made = await served.server.authenticator.keys.create("shop", "operator", ["acme"])
    served.app.world.ahead += 2_001  # the server looks for keys every two seconds
    async with Publisher(str(served.http.base_url), qstash_token("acme", made.token)) as pub:
        assert (await pub.publish(there.url, delay=LATER)).is_new
