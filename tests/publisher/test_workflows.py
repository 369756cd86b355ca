"""Workflow runs: begun as the official clients begin them, told of events, cancelled, resumed; on a real server."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest

from perdure import PublishError, UsageError
from perdure.publisher import FlowControl
from perdure.publisher.answers import Notified
from tests.dispatch.messages.destination import answered
from tests.publisher.conftest import said
from tests.publisher.test_server import everything, refused
from tests.server.qstash.conftest import until

SDK = "Upstash-Workflow-Sdk-Version: 1\r\nUpstash-Workflow-Sdk: v1.3.2\r\n"
URL = "http://127.0.0.1:3000/linear"


async def test_a_run_is_begun_as_the_official_client_begins_it(asked, recorder):
    recorder.answer = said(b'[{"messageId": "msg_1"}]')
    run = await asked.workflows.trigger(
        URL,
        json={"name": "ann"},
        run_id="lin1",
        headers={"x-user": "bob"},
        labels=["l1", "l2"],
        delay="1s",
        retries=2,
        retry_delay="1000",
        flow_control=FlowControl("fc", rate=5, per="1m", parallelism=3),
        redact=["body", "header[x-user]"],
    )
    assert (run.id, run.is_new) == ("wfr_lin1", True)
    (got,) = recorder.got
    (item,) = json.loads(got.body)
    features = "InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"
    assert (got.target, item["destination"], item["body"]) == ("/v2/batch", URL, '{"name":"ann"}')
    assert {name.lower(): value for name, value in item["headers"].items()} == {
        "content-type": "application/json", "upstash-method": "POST", "upstash-delay": "1s",
        "upstash-workflow-init": "true", "upstash-workflow-runid": "wfr_lin1", "upstash-workflow-url": URL,
        "upstash-workflow-sdk-version": "1", "upstash-forward-upstash-workflow-sdk-version": "1",
        "upstash-feature-set": features,
        "upstash-forward-x-user": "bob", "upstash-forward-upstash-label": "l1,l2", "upstash-label": "l1,l2",
        "upstash-retries": "2", "upstash-retry-delay": "1000", "upstash-flow-control-key": "fc",
        "upstash-flow-control-value": "parallelism=3, rate=5, period=60s",
        "upstash-redact-fields": "body,header[x-user]",
        "upstash-failure-callback": URL,
        "upstash-failure-callback-workflow-runid": "wfr_lin1", "upstash-failure-callback-workflow-init": "false",
        "upstash-failure-callback-workflow-url": URL, "upstash-failure-callback-workflow-calltype": "failureCall",
        "upstash-failure-callback-feature-set": features,
        "upstash-failure-callback-forward-upstash-workflow-is-failure": "true",
        "upstash-failure-callback-forward-upstash-workflow-failure-callback": "true",
        "upstash-failure-callback-forward-x-user": "bob",
        "upstash-failure-callback-retries": "2", "upstash-failure-callback-retry-delay": "1000",
        "upstash-failure-callback-flow-control-key": "fc",
        "upstash-failure-callback-flow-control-value": "parallelism=3, rate=5, period=60s",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"run_id": "a/b"}, "run_id: "),
        ({"run_id": ""}, "run_id: "),
        ({"callback": "https://a.example"}, "callback: trigger has no such option"),
        ({"timeout": 1}, "timeout: trigger has no such option"),
        ({"failure_url": "no"}, "failure_url: "),
        ({"body": b"\xff"}, "body: a workflow's input is text"),
    ],
)
async def test_what_begins_no_run_is_told(asked, recorder, options, told):
    with pytest.raises(UsageError, match=f"^{told}"):
        await asked.workflows.trigger(URL, **options)
    assert recorder.got == []


async def test_a_run_goes_through_a_server(pub, there):
    there.answer = lambda got: answered(200, SDK, b"{}")
    run = await pub.workflows.trigger(f"{there.url}/w", json={"n": 1}, headers={"x-user": "bob"}, labels="l")
    again = await pub.workflows.trigger(f"{there.url}/w", run_id=run.id)
    assert (run.id[:4], run.is_new, again.id, again.is_new) == ("wfr_", True, run.id, False)
    await until(lambda: there.got)
    (got,) = there.got
    (entry,) = json.loads(got.body)
    assert (base64.b64decode(entry["body"]), got.headers["x-user"]) == (b'{"n":1}', "bob")
    assert got.headers["upstash-workflow-runid"] == run.id
    (log,) = await everything(pub.workflows.logs(run_id=run.id))
    assert (log.id, log.url, log.state, log.labels) == (run.id, f"{there.url}/w", "RUN_STARTED", ["l"])
    await pub.workflows.cancel(run.id)
    (log,) = await everything(pub.workflows.logs(label="l"))
    assert log.state == "RUN_CANCELED"
    await refused(pub.workflows.cancel("wfr_unheard-of"), 404)


async def test_runs_are_cancelled_in_bulk(pub, there):
    there.answer = lambda got: answered(200, SDK, b"{}")
    runs = [await pub.workflows.trigger(f"{there.url}/{name}", labels=name) for name in ("aa", "ab", "b", "c")]
    assert await pub.workflows.cancel_many(url=f"{there.url}/a") == 0
    assert await pub.workflows.cancel_many(url=f"{there.url}/a", is_exact=False) == 2
    assert await pub.workflows.cancel_many([runs[0].id, runs[2].id, "wfr_unheard-of"]) == 1
    assert await pub.workflows.cancel_many(label="c") == 1
    assert await pub.workflows.cancel_many(everything=True) == 0


async def test_waiters_are_notified(pub, served, there):
    there.answer = lambda got: answered(200, SDK, b"{}")
    run = await pub.workflows.trigger(f"{there.url}/w")
    await until(lambda: there.got)
    assert await pub.workflows.notify("paid", {"total": 1}) == []
    step = {"stepId": 1, "stepName": "wait", "stepType": "Wait", "concurrent": 1}
    headers = {
        "Upstash-Workflow-Init": "false", "Upstash-Workflow-RunId": run.id, "Upstash-Workflow-Url": f"{there.url}/w",
        "Upstash-Workflow-CallType": "step", "Upstash-Forward-Upstash-Workflow-Sdk-Version": "1",
    }  # fmt: skip
    wait = {
        "url": f"{there.url}/w",
        "timeout": "100s",
        "timeoutUrl": f"{there.url}/w",
        "timeoutHeaders": {},
        "step": step,
    }
    answer = await served.http.post("/v2/wait/paid", headers=headers, json=wait)
    assert answer.status_code == 200, answer.text
    (waiter,) = await pub.workflows.waiters("paid")
    assert (waiter.url, waiter.deadline > 0) == (f"{there.url}/w", True)
    (told,) = await pub.workflows.notify("paid", {"total": 1})
    assert (told.run_id, told.error) == (run.id, "")
    assert told.waiter is not None
    await until(lambda: len(there.got) == 2)
    step = json.loads(base64.b64decode(json.loads(there.got[1].body)[1]["body"]))
    assert json.loads(base64.b64decode(step["out"])) == {"total": 1}


async def test_an_event_of_one_run_may_come_as_an_object(asked, recorder):
    recorder.answer = said(b'{"messageId": "msg_1"}')
    assert await asked.workflows.notify("paid", "text", run_id="wfr_1") == [Notified("msg_1")]
    recorder.answer = said(b"[]")
    await asked.workflows.notify("a/b")
    one, two = recorder.got
    assert (one.target, one.body, one.headers["content-type"]) == (
        "/v2/notify/wfr_1/paid", b"text", "text/plain; charset=utf-8",
    )  # fmt: skip
    assert (two.target, two.body) == ("/v2/notify/a%2Fb", b"")


async def test_an_event_is_told_once_whatever_becomes_of_the_answer(asked, recorder):
    recorder.answer = lambda got: None
    with pytest.raises(PublishError, match="may or may not have happened"):
        await asked.workflows.notify("paid")
    assert len(recorder.got) == 1


async def test_runs_that_failed_are_resumed_restarted_and_deleted(pub, there):

    def broken(got):
        is_failure = "upstash-workflow-is-failure" in got.headers
        return answered(200, SDK, b"{}") if is_failure else answered(500, body=b'{"message": "broken"}')

    there.answer = broken
    for name in ("a", "b", "c"):
        await pub.workflows.trigger(f"{there.url}/{name}", json=name, retries=0, labels=name)

    async def dead():
        found = await everything(pub.dlq.runs())
        return found if len(found) == 3 else None

    letters = {each.labels[0]: each for each in await until(dead)}
    one = letters["a"]
    assert (one.run_id[:4], one.status, one.response) == ("wfr_", 500, b'{"message": "broken"}')
    assert await pub.dlq.get_run(one.dead_id) == one
    assert await everything(pub.dlq.list()) == []
    there.answer = lambda got: answered(200, SDK, b"{}")
    (resumed,) = await pub.dlq.resume([one.dead_id], changes={"retries": 1})
    assert (resumed.id[:4], resumed.id != one.run_id, resumed.created_at is not None) == ("wfr_", True, True)
    (restarted,) = await pub.dlq.restart(label="b")
    (log,) = await everything(pub.workflows.logs(run_id=restarted.id))
    assert log.state == "RUN_STARTED"
    assert await pub.dlq.delete_runs(everything=True) == 1
    assert await everything(pub.dlq.runs()) == []
    await refused(pub.dlq.get_run(one.dead_id), 404)


async def test_many_take_several_requests(asked, recorder):
    recorder.answer = said(b'{"cancelled": 50}')
    assert await asked.messages.cancel_many(f"msg_{number}" for number in range(120)) == 150
    assert [got.target.count("messageIds=") for got in recorder.got] == [50, 50, 20]
    recorder.got.clear()
    recorder.answer = said(b'{"cancelled": 100}', b'{"cancelled": 7}')
    assert await asked.workflows.cancel_many(label="l") == 107
    assert len(recorder.got) == 2
    recorder.got.clear()
    recorder.answer = said(b'{"deleted": 5, "cursor": "next"}', b'{"deleted": 5, "cursor": "next"}', b'{"deleted": 0}')
    assert await asked.dlq.delete_many(everything=True) == 10
    assert ["cursor=next" in got.target for got in recorder.got] == [False, True, True]
    recorder.answer = said(b'{"deleted": 0, "cursor": "next"}')
    with pytest.raises(PublishError, match="names no end"):
        await asked.dlq.delete_many(everything=True)


async def test_a_failure_that_nobody_heard_of_is_told_once_more(pub, there):
    there.answer = lambda got: answered(489, "Upstash-NonRetryable-Error: true\r\n")
    run = await pub.workflows.trigger(f"{there.url}/w", retries=0, failure_url=f"{there.url}/failed")
    await until(lambda: any(got.target == "/failed" for got in there.got))
    told = sum(got.target == "/failed" for got in there.got)
    (dead,) = await everything(pub.dlq.runs())

    async def again():
        with contextlib.suppress(PublishError):  # until it is written down what the first telling came to
            return await pub.dlq.retry_failure_function(dead.dead_id)

    again = await until(again)
    assert (again.id, again.is_new) == (run.id, False)
    await until(lambda: sum(got.target == "/failed" for got in there.got) > told)
    await refused(pub.dlq.retry_failure_function("wfr_unheard-of"), 400)


async def test_what_was_done_before_a_refusal_is_told(asked, recorder):
    again = [{"messageId": f"msg_{number}"} for number in range(50)]
    refusal = answered(400, body=b'{"error": "no more"}')
    recorder.answer = lambda got: (
        refusal if len(recorder.got) % 2 == 0 else answered(200, body=json.dumps({"responses": again}).encode())
    )
    error = await refused(asked.dlq.retry([f"dlq_{number}" for number in range(60)]), 400)
    assert str(error).endswith("no more; it was done to 50 before")
    assert [each.id for each in error.published] == [each["messageId"] for each in again]
    recorder.got.clear()
    recorder.answer = lambda got: refusal if len(recorder.got) == 2 else answered(200, body=b'{"cancelled": 100}')
    error = await refused(asked.messages.cancel_many(label="l"), 400)
    assert str(error).endswith("no more; it was done to 100 before")
    assert error.published == ()
