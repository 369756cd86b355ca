"""The rest of QStash's API, over HTTP: messages, dead letters, logs, groups, queues, flow control, keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.dispatch.signing import verify
from perdure.server.qstash.missing import MISSING
from tests.dispatch.messages.destination import answered
from tests.server.conftest import Served
from tests.server.qstash.conftest import until

LATER = {"Upstash-Delay": "1h"}
ONCE = {"Upstash-Retries": "0"}


async def publish(served: Served, destination: str, headers: dict[str, str], body: bytes = b"") -> str:
    answer = await served.http.post(f"/v2/publish/{destination}", headers=headers, content=body)
    return answer.json()["messageId"]


async def dead(served: Served, there, count: int, **headers: str) -> list[str]:
    """Have messages fail for good; return their ids, latest first."""
    there.answer = lambda got: answered(500, "X-Why: no\r\n", b"broken")
    for number in range(count):
        await publish(served, f"{there.url}/{number}", {**ONCE, **headers}, b"%d" % number)

    async def found() -> list[str]:
        messages = (await served.http.get("/v2/dlq")).json()["messages"]
        return [each["dlqId"] for each in messages] if len(messages) == count else []

    return await until(found)


class TestMessages:
    async def test_one_is_shown_and_cancelled(self, served):
        id_ = await publish(served, "https://a.example/x", {**LATER, "Upstash-Forward-test-header": "v"}, b"body")
        found = (await served.http.get(f"/v2/messages/{id_}")).json()
        assert (found["url"], found["body"], found["header"]) == ("https://a.example/x", "body", {"Test-Header": ["v"]})
        assert found["notBefore"] - found["createdAt"] == 3_600_000
        answer = await served.http.delete(f"/v2/messages/{id_}")
        assert (answer.status_code, answer.json()) == (202, {"cancelled": 1})
        assert (await served.http.get(f"/v2/messages/{id_}")).status_code == 404
        assert (await served.http.delete(f"/v2/messages/{id_}")).status_code == 404
        (entry,) = (await served.http.get("/v2/events", params={"state": "CANCELED"})).json()["events"]
        assert entry["messageId"] == id_

    @pytest.mark.parametrize("form", ["body", "query", "commas"])
    async def test_some_are_cancelled_by_their_ids(self, served, form):
        ids = [await publish(served, "https://a.example", LATER) for _ in range(3)]
        how = {
            "body": {"json": {"messageIds": ids[:2]}},
            "query": {"params": [("messageIds", ids[0]), ("messageIds", ids[1])]},
            "commas": {"params": {"messageIds": ",".join(ids[:2])}},
        }[form]
        answer = await served.http.request("DELETE", "/v2/messages", **how)
        assert (answer.status_code, answer.json()) == (202, {"cancelled": 2})
        assert (await served.http.get(f"/v2/messages/{ids[2]}")).status_code == 200

    async def test_some_are_cancelled_by_filters(self, served):
        for label, url in (("a", "https://a.example/x,y"), ("b", "https://a.example/x,y"), ("a", "https://b.example")):
            await publish(served, url, {**LATER, "Upstash-Label": label})
        for query, count in (
            ({"url": "https://a.example/x"}, 0),
            ({"url": "https://a.example/x,y", "label": "a,c"}, 1),
            ({"host": "a.example", "fromDate": "1", "toDate": "2"}, 0),
            ({"host": "a.example"}, 1),
            ({"count": "100"}, 1),
            ({}, 0),
        ):
            answer = await served.http.request("DELETE", "/v2/messages", params=query)
            assert answer.json() == {"cancelled": count}, query

    @pytest.mark.parametrize(
        "how",
        [
            {"params": {"lable": "a"}},
            {"params": {"label": ""}},
            {"params": {"fromDate": "yesterday"}},
            {"json": {"messageId": ["x"]}},
            {"json": {"messageIds": [""]}},
            {"json": ["x"]},
            {"content": b"{"},
        ],
    )
    async def test_what_says_nothing_that_is_known_cancels_nothing(self, served, how):
        id_ = await publish(served, "https://a.example", LATER)
        answer = await served.http.request("DELETE", "/v2/messages", **how)
        assert answer.status_code == 400
        assert answer.json()["error"]
        assert (await served.http.get(f"/v2/messages/{id_}")).status_code == 200

    async def test_no_ids_are_none(self, served):
        id_ = await publish(served, "https://a.example", LATER)
        assert (await served.http.request("DELETE", "/v2/messages", json={"messageIds": []})).json() == {"cancelled": 0}
        assert (await served.http.get(f"/v2/messages/{id_}")).status_code == 200


class TestDeadLetters:
    async def test_one_is_shown_and_forgotten(self, served, there):
        (id_,) = await dead(served, there, 1)
        found = (await served.http.get(f"/v2/dlq/{id_}")).json()
        assert (found["responseStatus"], found["responseBody"], found["body"]) == (500, "broken", "0")
        assert found["responseHeader"]["X-Why"] == ["no"]
        assert (await served.http.delete(f"/v2/dlq/{id_}")).status_code == 200
        for method in ("GET", "DELETE"):
            assert (await served.http.request(method, f"/v2/dlq/{id_}")).status_code == 404
        assert (await served.http.get("/v2/dlq")).json() == {"messages": []}

    async def test_they_come_in_pages(self, served, there):
        ids = await dead(served, there, 3)
        first = (await served.http.get("/v2/dlq", params={"count": 2})).json()
        rest = (await served.http.get("/v2/dlq", params={"count": 2, "cursor": first["cursor"]})).json()
        assert [each["dlqId"] for each in first["messages"] + rest["messages"]] == ids
        assert "cursor" not in rest
        for query, expected in (
            ([("dlqIds", ids[0]), ("dlqIds", ids[2])], [ids[0], ids[2]]),
            ([("responseStatus", "500"), ("responseStatus", "502")], ids),
            ([("responseStatus", "502")], []),
            ([("url", f"{there.url}/1")], [ids[1]]),
        ):
            found = (await served.http.get("/v2/dlq", params=query)).json()["messages"]
            assert [each["dlqId"] for each in found] == expected
        for wrong in ({"cursor": "x"}, {"count": "x"}, {"responseStatus": "x"}):
            assert (await served.http.get("/v2/dlq", params=wrong)).status_code == 400

    async def test_some_are_forgotten_in_each_form(self, served, there):
        ids = await dead(served, there, 4)
        answer = await served.http.request("DELETE", "/v2/dlq", json={"dlqIds": [ids[0], "none"]})
        assert answer.json() == {"deleted": 1}
        assert (await served.http.delete("/v2/dlq", params={"dlqIds": ids[1]})).json() == {"deleted": 1}
        assert (await served.http.delete("/v2/dlq", params={"label": "x"})).json() == {"deleted": 0}
        first = (await served.http.delete("/v2/dlq", params={"count": 1})).json()
        assert first["deleted"] == 1
        assert (await served.http.delete("/v2/dlq", params=first | {"count": 100})).status_code == 400
        rest = await served.http.delete("/v2/dlq", params={"count": 100, "cursor": first["cursor"]})
        assert rest.json() == {"deleted": 1}

    async def test_they_are_published_anew(self, served, there):
        ids = await dead(served, there, 3, **{"Upstash-Forward-X-A": "1"})
        there.answer = lambda got: answered(200)
        there.got.clear()
        one = await served.http.post(f"/v2/dlq/retry/{ids[0]}", headers={"Upstash-Forward-X-B": "2"})
        assert one.status_code == 201
        await until(lambda: len(there.got) == 1)
        (got,) = there.got
        assert (got.target, got.body, got.headers["x-a"], got.headers["x-b"]) == ("/2", b"2", "1", "2")
        assert got.headers["upstash-message-id"] == one.json()["messageId"]
        several = await served.http.post("/v2/dlq/retry", params={"count": 100}, headers={"Upstash-Method": "PUT"})
        assert several.status_code == 201
        assert len(several.json()["responses"]) == 2
        await until(lambda: len(there.got) == 3)
        assert {got.method for got in there.got[1:]} == {"PUT"}
        assert (await served.http.get("/v2/dlq")).json() == {"messages": []}
        assert (await served.http.post(f"/v2/dlq/retry/{ids[0]}")).status_code == 404
        assert (await served.http.post("/v2/dlq/retry", headers={"Upstash-Retries": "x"})).status_code == 400


async def test_logs_have_two_names_and_come_in_pages(served, there):
    ids = [await publish(served, f"{there.url}/{number}", {}) for number in range(3)]

    async def delivered() -> bool:
        found = (await served.http.get("/v2/events", params={"state": "DELIVERED"})).json()["events"]
        return len(found) == 3

    await until(delivered)
    every = (await served.http.get("/v2/logs")).json()["logs"]
    assert [each["messageId"] for each in every if each["state"] == "CREATED"] == ids[::-1]
    pages, cursor = [], ""
    while True:
        page = (await served.http.get("/v2/events", params={"count": 4, "cursor": cursor})).json()
        pages += page["events"]
        if not (cursor := page.get("cursor", "")):
            break
    assert pages == every
    some = await served.http.get("/v2/events", params=[("messageIds", ids[0]), ("messageIds", ids[1])])
    assert {each["messageId"] for each in some.json()["events"]} == set(ids[:2])


async def test_groups_are_kept(served):
    post = served.http.post
    before = {"endpoints": [{"url": "https://a.example", "name": "one"}, {"url": "https://b.example", "name": None}]}
    await post("/v2/topics/g/endpoints", json=before)
    found = (await served.http.get("/v2/topics/g")).json()
    assert found["endpoints"] == [{"url": "https://a.example", "name": "one"}, {"url": "https://b.example"}]
    assert (await served.http.get("/v2/topics")).json() == [found]
    await served.http.request("DELETE", "/v2/topics/g/endpoints", json={"endpoints": [{"name": "one"}]})
    assert (await served.http.get("/v2/topics/g")).json()["endpoints"] == [{"url": "https://b.example"}]
    await served.http.request("DELETE", "/v2/topics/g/endpoints", json={"endpoints": [{"url": "https://b.example"}]})
    assert (await served.http.get("/v2/topics/g")).status_code == 404
    assert (await served.http.delete("/v2/topics/g")).status_code == 200
    for wrong in ({}, {"endpoints": "x"}, {"endpoints": [5]}, {"endpoints": [{"url": "x"}]}, {"endpoints": []}):
        assert (await post("/v2/topics/g/endpoints", json=wrong)).status_code == 400
    assert (await post("/v2/topics/b%20d/endpoints", json=before)).status_code == 400


async def test_queues_are_kept(served):
    assert (await served.http.post("/v2/queues", json={"queueName": "q", "parallelism": 3})).json() == {}
    found = (await served.http.get("/v2/queues/q")).json()
    assert (found["name"], found["parallelism"], found["paused"], found["lag"]) == ("q", 3, False, 0)
    for what, paused in (("pause", True), ("resume", False)):
        assert (await served.http.post(f"/v2/queues/q/{what}")).status_code == 200
        assert (await served.http.get("/v2/queues/q")).json()["paused"] is paused
    assert (await served.http.delete("/v2/queues/q")).status_code == 200
    assert (await served.http.delete("/v2/queues/q")).status_code == 200
    assert (await served.http.post("/v2/queues/q/pause")).status_code == 404
    for wrong in ({"queueName": "a b"}, {"queueName": 5}, {"queueName": "q", "parallelism": 0},
                  {"queueName": "q", "parallelism": "1"}, {"queueName": "q", "paused": "yes"}):  # fmt: skip
        assert (await served.http.post("/v2/queues", json=wrong)).status_code == 400


async def test_a_queue_goes_with_its_messages(served, there):
    post = served.http.post
    headers = {"Upstash-Delay": "1h"}
    id_ = (await post(f"/v2/enqueue/q/{there.url}", headers=headers)).json()["messageId"]
    assert (await post(f"/v2/messages/{id_}/retry")).status_code == 400
    assert (await served.http.delete("/v2/queues/q")).status_code == 200
    assert (await served.http.get(f"/v2/messages/{id_}")).status_code == 404


async def test_a_message_that_waits_is_run_now(served, there):
    post = served.http.post
    id_ = (await post(f"/v2/publish/{there.url}", headers={"Upstash-Delay": "1h"})).json()["messageId"]
    assert (await post(f"/v2/messages/{id_}/retry")).json() == {}
    await until(lambda: there.got)
    await until_gone(served, id_)
    assert (await post(f"/v2/messages/{id_}/retry")).status_code == 404


async def until_gone(served, id_: str) -> None:
    async def is_gone() -> bool:
        return (await served.http.get(f"/v2/messages/{id_}")).status_code == 404

    await until(is_gone)


class TestFlowControl:
    FLOW = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=2, rate=3, period=1m"}

    async def shown(self, served: Served) -> dict[str, object]:
        return (await served.http.get("/v2/flowControl/k")).json()

    async def test_a_key_is_shown(self, served):
        assert (await served.http.get("/v2/flowControl/k")).status_code == 404
        await publish(served, "https://a.example", {**self.FLOW, **LATER})
        found = await self.shown(served)
        expected = {
            "flowControlKey": "k", "waitListSize": 0, "parallelismMax": 2, "parallelismCount": 0, "rateMax": 3,
            "rateCount": 0, "ratePeriod": 60, "isPaused": False, "isPinnedParallelism": False, "isPinnedRate": False,
        }  # fmt: skip
        assert {name: found[name] for name in expected} == expected
        assert len((await served.http.get("/v2/flowControl")).json()) == 1
        assert (await served.http.get("/v2/flowControl", params={"search": "x"})).json() == []

    async def test_it_is_pinned_against_what_messages_say(self, served):
        await served.http.post("/v2/flowControl/k/pin?parallelism=7&rate=8&period=9")
        await publish(served, "https://a.example", {**self.FLOW, **LATER})
        found = await self.shown(served)
        assert (found["parallelismMax"], found["rateMax"], found["ratePeriod"]) == (7, 8, 9)
        assert (found["isPinnedParallelism"], found["isPinnedRate"]) == (True, True)
        await served.http.post("/v2/flowControl/k/unpin?parallelism=true")
        await publish(served, "https://a.example", {**self.FLOW, **LATER})
        found = await self.shown(served)
        assert (found["parallelismMax"], found["rateMax"]) == (2, 8)
        assert (found["isPinnedParallelism"], found["isPinnedRate"]) == (False, True)
        for wrong in ("pin", "pin?rate=x", "pin?parallelism=0", "unpin", "unpin?rate=false"):
            assert (await served.http.post(f"/v2/flowControl/k/{wrong}")).status_code == 400, wrong

    async def test_it_is_paused_and_goes_on(self, served, there):
        await publish(served, there.url, {**self.FLOW, **LATER})
        await served.http.post("/v2/flowControl/k/pause")
        await publish(served, f"{there.url}/now", self.FLOW)
        found = await self.shown(served)
        assert (found["isPaused"], found["waitListSize"]) == (True, 1)
        assert there.got == []
        await served.http.post("/v2/flowControl/k/resume")
        await until(lambda: there.got)

    async def test_its_rate_is_begun_anew(self, served, there):
        flow = {**self.FLOW, "Upstash-Flow-Control-Value": "rate=2, period=1h"}
        for _ in range(3):
            await publish(served, there.url, flow)
        await until(lambda: len(there.got) == 2)
        found = await self.shown(served)
        assert (found["rateCount"], found["waitListSize"]) == (2, 1)
        assert (await served.http.post("/v2/flowControl/k/resetRate")).json() == {}
        await until(lambda: len(there.got) == 3)
        assert (await served.http.post("/v2/flowControl/none/resetRate")).status_code == 404

    async def test_all_messages_together_have_a_bound(self, served):
        found = (await served.http.get("/v2/globalParallelism")).json()
        assert (found["parallelismMax"] > 0, found["parallelismCount"]) == (True, 0)


async def test_keys_are_shown_and_rotated(served, there):
    before = (await served.http.get("/v2/keys")).json()
    after = (await served.http.post("/v2/keys/rotate")).json()
    assert after["current"] == before["next"]
    assert (await served.http.get("/v2/keys")).json() == after
    await publish(served, there.url, {})
    (got,) = await until(lambda: there.got)
    keys = (await served.server.dispatchers["default"].kept_keys()).signing
    assert keys.current == after["current"]
    verify(keys, got.headers["upstash-signature"], b"", now=served.app.world.now(), url=there.url)


def test_what_is_missing_is_listed_in_the_guide():
    page = (Path(__file__).parents[3] / "docs" / "dispatcher.md").read_text(encoding="utf-8")
    assert [path for path in MISSING if path.removesuffix("/{id}") not in page] == []


async def test_for_development_the_keys_are_those_that_clients_know(serve):
    served = await serve(qstash_dev=True)
    known = {"current": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "next": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"}
    assert (await served.http.get("/v2/keys")).json() == known
    assert (await served.http.post("/v2/keys/rotate")).status_code == 400
    assert (await served.http.get("/v2/keys")).json() == known


async def test_messages_are_found_on_the_dashboard_by_where_they_go(served):
    url = "https://a.example/x?a=b&c=d"
    found = (await served.http.post(f"/v2/publish/{url}", headers=LATER)).json()["messageId"]
    other = (await served.http.post("/v2/publish/https://a.example/y", headers=LATER)).json()["messageId"]
    query = {"workflow": "perdure.delivery", "tag": f"url={url}"}
    page = (await served.http.get("/runs", params=query, headers={"Accept": "text/html"})).text
    assert found in page
    assert other not in page
    everywhere = await served.http.get("/runs", params={"tag": f"url={url}"}, headers={"Accept": "text/html"})
    assert found not in everywhere.text


async def test_the_dashboard_says_what_a_message_was_answered(served, there):
    there.answer = lambda got: answered(503)
    found = (await served.http.post(f"/v2/publish/{there.url}")).json()["messageId"]
    await until(lambda: there.got)

    async def told() -> bool:
        page = await served.http.get(f"/runs/{found}", headers={"Accept": "text/html"})
        return "the latest attempt: the destination answered with status 503" in page.text

    assert await until(told)
