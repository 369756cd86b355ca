"""Schedules of messages, over HTTP: made, shown, fired, paused, removed."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from perdure.dispatch.messages.plans import PREFIX
from tests.dispatch.messages.destination import answered
from tests.server.conftest import Served
from tests.server.qstash.conftest import until

CRON = {"Upstash-Cron": "*/5 * * * *"}


async def made(served: Served, destination: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await served.http.post(f"/v2/schedules/{destination}", headers={**CRON, **named}, content=b"tick")
    assert answer.status_code == 200, answer.text
    return answer.json()["scheduleId"]


async def shown(served: Served, id_: str) -> dict[str, object]:
    return (await served.http.get(f"/v2/schedules/{id_}")).json()


async def fired(served: Served, id_: str) -> None:
    answer = await served.http.post(f"/api/v1/schedules/{PREFIX}{id_}/trigger")
    assert answer.status_code == 201
    served.server.dispatchers["default"].wake()


async def test_a_schedule_is_shown_as_it_was_made(served):
    id_ = await made(
        served,
        "https://a.example/x?b=c",
        Upstash_Cron="CRON_TZ=Europe/Paris  0 9 * * mon-fri ",
        Upstash_Method="PUT",
        Upstash_Retries="7",
        Upstash_Delay="10s",
        Upstash_Timeout="2m",
        Upstash_Callback="https://b.example",
        Upstash_Forward_X_A="1",
        Upstash_Queue_Name="q",
        Upstash_Label="a,b",
        Upstash_Flow_Control_Key="k",
        Upstash_Flow_Control_Value="rate=5,period=1m",
    )
    found = await shown(served, id_)
    assert id_.startswith("scd_")
    assert found["cron"] == "CRON_TZ=Europe/Paris  0 9 * * mon-fri"
    assert found["nextScheduleTime"] % 3_600_000 == 0
    expected = {
        "scheduleId": id_, "destination": "https://a.example/x?b=c", "method": "PUT", "retries": 7, "delay": 10,
        "timeout": 120, "callback": "https://b.example", "queueName": "q", "labels": ["a", "b"], "label": "a,b",
        "flowControlKey": "k", "rate": 5, "period": 60, "body": "tick", "isPaused": False, "callerIP": "127.0.0.1",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["header"]["X-A"] == ["1"]
    assert (await served.http.get("/v2/schedules")).json() == [found]


async def test_it_publishes_its_message_once_a_fire(served, there):
    id_ = await made(served, f"{there.url}/tick", Upstash_Schedule_Id="s1", Upstash_Forward_X_A="1")
    await fired(served, id_)
    (got,) = await until(lambda: there.got)
    assert (got.target, got.body, got.headers["x-a"]) == ("/tick", b"tick", "1")
    assert got.headers["upstash-schedule-id"] == "s1"
    events = (await served.http.get("/v2/events", params={"scheduleId": "s1", "state": "CREATED"})).json()["events"]
    assert [each["messageId"] for each in events] == [got.headers["upstash-message-id"]]


async def test_it_publishes_to_groups_queues_and_later(served, there):
    endpoints = [{"url": f"{there.url}/{name}"} for name in "ab"]
    id_ = await made(served, "g", Upstash_Queue_Name="q", Upstash_Delay="1h")
    await fired(served, id_)  # a group that is not there yet: nothing to publish to
    await served.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})
    await fired(served, id_)

    async def events() -> list[dict[str, object]]:
        found = (await served.http.get("/v2/events")).json()["events"]
        return found if len(found) == 2 else []

    found = await until(events)
    assert {each["url"] for each in found} == {each["url"] for each in endpoints}
    assert {(each["queueName"], each["topicName"]) for each in found} == {("q", "g")}
    assert all(each["nextDeliveryTime"] - each["time"] > 3_590_000 for each in found)


async def test_what_became_of_the_last_messages_is_shown(served, there):
    there.answer = lambda got: answered(200 if got.target == "/good" else 500)
    endpoints = [{"url": f"{there.url}/{name}"} for name in ("good", "bad")]
    await served.http.post("/v2/topics/g/endpoints", json={"endpoints": endpoints})
    id_ = await made(served, "g", Upstash_Retries="0", Upstash_Cron="* * * * *")
    now = served.app.world.now()
    (run,) = await served.app.schedules.backfill(PREFIX + id_, now / 1000 - 60, now / 1000)
    served.server.dispatchers["default"].wake()
    ids = await run.result()
    assert len(ids) == 2
    plans = served.server.dispatchers["default"].messages.plans
    summary = await served.app.schedules.get(PREFIX + id_)

    async def states() -> dict[str, str]:
        # The schedule itself has not fired yet: what it shows is asked of a run that was started in its place.
        found = await plans._last_states(replace(summary, last_run=run.id))
        return found if "IN_PROGRESS" not in found.values() else {}

    assert sorted((await until(states)).values()) == ["FAIL", "SUCCESS"]


async def test_one_of_that_id_is_replaced(served):
    await made(served, "https://a.example", Upstash_Schedule_Id="s1", Upstash_Retries="9")
    assert await made(served, "https://b.example", Upstash_Schedule_Id="s1", Upstash_Cron="0 0 1 1 *") == "s1"
    (found,) = (await served.http.get("/v2/schedules")).json()
    assert (found["destination"], found["retries"], found["cron"]) == ("https://b.example", 3, "0 0 1 1 *")


@pytest.mark.parametrize("method", ["PATCH", "POST"])
async def test_it_is_paused_and_goes_on(served, method):
    await made(served, "https://a.example", Upstash_Schedule_Id="pause")
    for what, is_paused in (("pause", True), ("resume", False)):
        assert (await served.http.request(method, f"/v2/schedules/pause/{what}")).json() == {}
        found = await shown(served, "pause")
        assert (found["isPaused"], "nextScheduleTime" in found) == (is_paused, not is_paused)


async def test_it_is_removed(served):
    await made(served, "https://a.example", Upstash_Schedule_Id="s1")
    assert (await served.http.delete("/v2/schedules/s1")).status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", "/pause")):
        answer = await served.http.request(method, f"/v2/schedules/s1{path}")
        assert (answer.status_code, answer.json()) == (404, {"error": "schedule 's1' is unknown"})
    assert (await served.http.get("/v2/schedules")).json() == []


async def test_other_schedules_are_none_of_its_business(served):
    await served.app.schedules.create("nightly", "report", cron="0 3 * * *")
    assert (await served.http.get("/v2/schedules")).json() == []
    assert (await served.http.get("/v2/schedules/nightly")).status_code == 404
    await made(served, "https://a.example", Upstash_Schedule_Id="nightly")
    assert {each.name for each in await served.app.schedules.list()} == {"nightly", "messages.nightly"}


@pytest.mark.parametrize(
    ("destination", "headers", "told"),
    [
        ("https://a.example", {"Upstash-Cron": ""}, "Upstash-Cron"),
        ("https://a.example", {"Upstash-Cron": "every day"}, "Upstash-Cron"),
        ("https://a.example", {"Upstash-Cron": "* * * * * *"}, "five fields"),
        ("https://a.example", {"Upstash-Cron": "0 0 30 2 *"}, "never"),
        ("https://a.example", {"Upstash-Cron": "CRON_TZ=Mars/Base 0 0 * * *"}, "Mars/Base"),
        ("https://a.example", {"Upstash-Schedule-Id": "a b"}, "Upstash-Schedule-Id"),
        ("https://a.example", {"Upstash-Schedule-Id": "x" * 101}, "Upstash-Schedule-Id"),
        ("https://a.example", {"Upstash-Not-Before": "1900000000"}, "Upstash-Not-Before"),
        ("ftp://a.example", {}, "invalid destination url"),
        ("a%20b", {}, "URL group"),
    ],
)
async def test_one_that_cannot_be_is_refused(served, destination, headers, told):
    answer = await served.http.post(f"/v2/schedules/{destination}", headers={**CRON, **headers})
    assert answer.status_code == 400
    assert told in json.loads(answer.content)["error"]
    assert (await served.http.get("/v2/schedules")).json() == []
