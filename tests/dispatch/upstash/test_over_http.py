"""What the protocol's routes answer: statuses that clients know, errors in QStash's form, and bodies they can parse."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import pytest_asyncio

from perdure.dispatch.upstash.intake import DEPTH
from perdure.dispatch.upstash.waiting import HOOK_BYTES
from perdure.server.qstash import webhooks
from tests.dispatch.messages.destination import answered
from tests.dispatch.upstash.endpoint import JAVASCRIPT
from tests.server.conftest import Served, serve
from tests.server.qstash.conftest import there, until
from tests.server.security.conftest import keyed

__all__ = ["keyed", "serve", "there"]

NOBODY = "http://127.0.0.1:9/w"
DEEP = {
    "Workflow_Init": "true",
    "Workflow_Invoke": "true",
    "Forward_Upstash_Workflow_Invoke_Count": str(DEPTH + 1),
}
CALL = {"Workflow_CallType": "toCallback", "Callback": NOBODY}
LATER = {"Upstash-Delay": "1h"}


@pytest_asyncio.fixture
async def served(serve):
    return await serve(dispatch=False)


def own(run_id: str, **more: str) -> dict[str, str]:
    return {
        "Upstash-Workflow-Init": "false",
        "Upstash-Workflow-RunId": run_id,
        "Upstash-Workflow-Url": NOBODY,
        "Upstash-Feature-Set": JAVASCRIPT,
        **{f"Upstash-{name.replace('_', '-')}": value for name, value in more.items()},
    }


async def batch(served: Served, *items: dict[str, Any]) -> Any:
    found = [{"destination": NOBODY, "body": "{}", **item} for item in items]
    return await served.http.post("/v2/batch", json=found)


async def begin(served: Served, run_id: str = "wfr_1", **more: str) -> None:
    answer = await batch(served, {"headers": own(run_id, Workflow_Init="true", **more)})
    assert answer.status_code == 200, answer.text


async def test_a_batch_may_hold_plain_messages_beside_those_of_the_protocol(served):
    await begin(served)
    step = {"headers": own("wfr_1"), "body": '{"stepId":1,"stepName":"a","stepType":"Run","out":"1","concurrent":1}'}
    answer = (await batch(served, {"headers": LATER}, step, {"headers": LATER}, step)).json()
    assert [set(each) for each in answer] == [{"messageId"}] * 3 + [{"messageId", "deduplicated"}]
    assert answer[1]["messageId"] == answer[3]["messageId"]
    entries = (await served.http.get("/v2/workflows/runs/wfr_1")).json()
    assert [each["callType"] for each in entries] == ["step"]


async def test_of_a_batch_with_a_step_that_is_refused_no_message_is_published(served):
    await begin(served)
    answer = await batch(served, {"headers": LATER}, {"headers": own("wfr_none"), "body": '{"stepId":1}'})
    assert answer.status_code == 400
    assert (await served.http.get("/v2/logs")).json()["logs"] == []


async def test_what_cannot_be_taken_in_has_the_status_that_clients_know(served):
    await begin(served)
    body = '{"stepId":1,"stepName":"a","stepType":"Run"}'
    for headers, text, status in [
        (own("wfr_none"), body, 400),
        (own("wfr_1"), "{}", 412),
        (own("wfr_1", Workflow_CallType="stepConfig"), body, 412),
        (own("wfr_1"), '{"stepId":1,"out":' + "[" * 50_000, 412),
        (own("wfr_1", **CALL, Callback_Forward_Upstash_Workflow_StepId="²"), "", 412),
        (own("wfr_1", **CALL, Callback_Forward_Upstash_Workflow_StepId="10001"), "", 412),
        (own("wfr_1", Retries="101"), body, 412),
        (own("wfr_2", Workflow_Init="true", Retries="101"), body, 400),
        (own("wfr_1", Label="a b"), body, 412),
        (
            own("wfr_2", **DEEP),
            json.dumps({"workflowRunId": "wfr_1", "workflowUrl": NOBODY, "step": {"stepId": 1}}),
            412,
        ),
        (
            own("wfr_2", **{**DEEP, "Forward_Upstash_Workflow_Invoke_Count": "1"}),
            json.dumps({"workflowRunId": "wfr_1", "workflowUrl": "nowhere", "step": {"stepId": 1}}),
            412,
        ),
        (own("wfr_1"), json.dumps({"stepId": 1, "out": "x" * 1_100_000}), 413),
    ]:
        answer = await batch(served, {"headers": headers, "body": text})
        assert (answer.status_code, list(answer.json())) == (status, ["error"])


async def test_a_run_is_ended_once_and_by_nobody_else(served):
    await begin(served)
    path = "/v2/workflows/runs/wfr_1"
    for _ in range(2):
        answer = await served.http.request("DELETE", f"{path}?cancel=false", content=b'{"a":1}')
        assert (answer.status_code, answer.json()) == (200, {})
    assert (await served.http.delete("/v2/workflows/runs/wfr_2?cancel=false")).status_code == 404
    assert (await served.http.delete("/v2/workflows/runs/wfr_2")).status_code == 404
    assert (await served.http.delete(path)).status_code == 200
    assert (await served.http.delete(path)).status_code == 200
    assert (await served.http.get(path)).status_code == 404
    assert (await served.http.delete(f"{path}?cancel=false")).status_code == 200


@pytest.mark.parametrize(
    ("given", "cancelled"),
    [
        ({"content": b'{"workflowRunIds":["wfr_1","wfr_3"]}'}, ["wfr_1"]),
        ({"content": b'{"workflowRunIds":[]}'}, []),
        ({"content": b'{"workflowUrl":"http://127.0.0.1:9/"}'}, ["wfr_1", "wfr_2"]),
        ({"content": b"{}"}, ["wfr_1", "wfr_2"]),
        ({"params": {"workflowUrl": "http://127.0.0.1:9/", "workflowUrlExactMatch": "true"}}, []),
        ({"params": {"label": ["a", "x"], "count": "100"}}, ["wfr_1"]),
        ({"params": {"label": "b", "host": "127.0.0.1", "path": "/w"}}, ["wfr_2"]),
        ({"params": {"toDate": "5"}}, []),
    ],
)
async def test_cancelling_in_bulk_in_the_forms_of_old_and_new_clients(served, given, cancelled):
    await begin(served, "wfr_1", Label="a")
    await begin(served, "wfr_2", Label="b")
    answer = await served.http.request("DELETE", "/v2/workflows/runs", **given)
    assert answer.json() == {"cancelled": len(cancelled)}
    logs = (await served.http.get("/v2/workflows/logs")).json()["runs"]
    assert sorted(run["workflowRunId"] for run in logs if run["workflowState"] == "RUN_CANCELED") == cancelled


async def test_an_unknown_filter_cancels_nothing(served):
    await begin(served)
    for query in ("workflowRunID=wfr_1", "label=", "count=many"):
        answer = await served.http.delete(f"/v2/workflows/runs?{query}")
        assert answer.status_code == 400
        assert query.partition("=")[0] in answer.json()["error"]


async def test_logs_by_both_names(served):
    await begin(served, "wfr_1", Label="a")
    one = (await served.http.get("/v2/workflows/logs?label=a&state=RUN_STARTED")).json()
    assert one == (await served.http.get("/v2/workflows/events?groupBy=workflowRunId&workflowRunId=wfr_1")).json()
    (run,) = one["runs"]
    assert (run["workflowRunId"], run["steps"][0]["steps"][0]["out"]) == ("wfr_1", "{}")
    assert run["steps"][1]["type"] == "next"
    assert (await served.http.get("/v2/workflows/events")).status_code == 501
    assert (await served.http.get("/v2/workflows/logs?state=RUN_LOST")).status_code == 400
    assert (await served.http.get("/v2/workflows/logs?label=b")).json() == {"cursor": "", "runs": []}


async def test_dead_letters_that_are_not_there(served):
    await begin(served)
    for method, path, status in [
        ("GET", "/v2/workflows/dlq/wfr_1", 404),
        ("DELETE", "/v2/workflows/dlq/wfr_1", 404),
        ("POST", "/v2/workflows/dlq/resume/wfr_1", 404),
        ("POST", "/v2/workflows/dlq/remind/wfr_1", 404),
        ("POST", "/v2/workflows/dlq/callback/wfr_1", 400),
        ("DELETE", "/v2/workflows/dlq/callback/wfr_1", 400),
    ]:
        assert (await served.http.request(method, path)).status_code == status, path
    assert (await served.http.get("/v2/dlq?source=workflow")).json() == {"messages": [], "cursor": ""}
    assert (await served.http.post("/v2/workflows/dlq/resume")).json() == {"cursor": "", "workflowRuns": []}
    assert (await served.http.delete("/v2/workflows/dlq")).json() == {"deleted": 0, "cursor": ""}


async def test_a_dead_letter_of_a_run_is_shown_by_either_path(serve, there):
    served = await serve()
    there.answer = lambda got: answered(500, "Upstash-Workflow-Sdk-Version: 1\r\n")
    headers = own("wfr_1", Workflow_Init="true", Retries="0")
    assert (await served.http.post("/v2/batch", json=[{"destination": there.url, "headers": headers}])).is_success

    async def failed() -> Any:
        return (await served.http.get("/v2/dlq?source=workflow")).json()["messages"]

    (letter,) = await until(failed)
    for path in ("/v2/dlq/wfr_1", "/v2/workflows/dlq/wfr_1"):
        assert (await served.http.get(path)).json() == letter
    assert (await served.http.get("/v2/dlq/wfr_2")).status_code == 404


async def test_webhooks_of_runs_take_any_method_and_no_token(served):
    await begin(served)
    await served.server.authenticator.keys.create("admin", "admin", ["default"])
    served.app.world.ahead += 2_001  # the server looks for keys every two seconds
    assert (await served.http.get("/v2/workflows/logs")).status_code == 401
    path = "/v2/workflows/hooks/default/wfr_1/evt_x"
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert (await served.http.request(method, f"{path}?a=b")).status_code == 200
    large = await served.http.post(path, content=b"x" * (HOOK_BYTES + 1))
    assert (large.status_code, list(large.json())) == (413, ["error"])
    assert (await served.http.post("/v2/workflows/hooks/default/wfr_%00/evt_x")).status_code == 400
    assert (await served.http.post("/v2/workflows/hooks/default/wfr_2/evt_x")).status_code == 400
    assert (await served.http.post("/v2/workflows/hooks/default/wfr_2")).status_code == 401


async def test_calls_of_webhooks_have_a_bound_together(serve, monkeypatch):
    monkeypatch.setattr(webhooks, "BODIES_BYTES", 10)
    served = await serve(dispatch=False)
    await begin(served)
    path = "/v2/workflows/hooks/default/wfr_1/evt_x"
    full = await served.http.post(path, content=b"x" * 11)
    assert (full.status_code, full.headers["Retry-After"], list(full.json())) == (503, "5", ["error"])
    for _ in range(2):
        assert (await served.http.post(path, content=b"x" * 10)).status_code == 200


async def test_notifying_over_http(served):
    await begin(served)
    assert (await served.http.post("/v2/notify/some%20event", content=b"x")).json() == []
    await begin(served, "other")
    assert (await served.http.post("/v2/notify/other/e/f")).json()[0]["workflowRunId"] == "other"
    assert (await served.http.post("/v2/notify/evt/other")).json() == []
    kept = await served.http.post("/v2/notify/wfr_1/evt", content=b"x")
    assert (kept.status_code, kept.json()[0]["workflowRunId"]) == (201, "wfr_1")
    assert (await served.http.post("/v2/notify/wfr_none/evt")).status_code == 400
    assert (await served.http.get("/v2/waiters/evt")).json() == []
    body = {"url": NOBODY, "timeout": "1d", "step": {"stepId": 1, "stepType": "Wait", "stepName": "w", "concurrent": 1}}
    headers = {**own("wfr_1"), "Authorization": "Bearer secret"}
    for _ in range(2):
        answer = await served.http.post("/v2/wait/some%20event", json=body, headers=headers)
        assert answer.status_code == 200
    (waiter,) = (await served.http.get("/v2/waiters/some%20event")).json()
    assert "secret" not in json.dumps(waiter)


async def test_a_trigger_over_http(served):
    answer = await served.http.post(f"/v2/trigger/{NOBODY}?a=b", content=b"hello", headers={"Upstash-Label": "l"})
    run_id = answer.json()["workflowRunId"]
    (run,) = (await served.http.get(f"/v2/workflows/logs?workflowRunId={run_id}")).json()["runs"]
    assert (run["workflowUrl"], run["labels"]) == (f"{NOBODY}?a=b", ["l"])
    assert run["workflowRunCreatedAt"] == answer.json()["workflowCreatedAt"]


async def test_viewers_see_nothing_that_is_masked_and_change_nothing(keyed, there):
    keyed = await keyed(redact=("api_secret",))
    there.answer = lambda got: answered(200, "Upstash-Workflow-Sdk-Version: 1\r\n")
    secret = json.dumps({"api_secret": "canary-1", "number": 7})
    step = {"stepId": 1, "stepName": "a", "stepType": "Run", "out": secret, "concurrent": 1}
    call = {"body": base64.b64encode(secret.encode()).decode(), "header": {"Api-Secret": ["canary-3"]}}
    steps = [
        step,
        {"stepId": 2, "stepType": "Wait", "out": base64.b64encode(secret.encode()).decode()},
        {"stepId": 3, "stepType": "WaitForWebhook", "out": base64.b64encode(json.dumps(call).encode()).decode()},
    ]
    headers = own("wfr_1", Workflow_Init="true", Forward_Api_Secret="canary-2")
    first = {"destination": there.url, "headers": headers, "body": secret}
    rest = [{"destination": there.url, "headers": own("wfr_1"), "body": json.dumps(each)} for each in steps]
    assert (await keyed.ask("operator", "POST", "/v2/batch", json=[first])).status_code == 200
    assert (await keyed.ask("operator", "POST", "/v2/batch", json=rest)).status_code == 200

    async def shown() -> Any:
        run = (await keyed.ask("viewer", "GET", "/v2/workflows/logs")).json()["runs"][0]
        return [step for group in run["steps"] for step in group["steps"]] if len(run["steps"]) >= 4 else None

    found = await until(shown)
    outs = [base64.b64decode(step["out"]).decode() for step in found if step.get("stepType", "").startswith("Wait")]
    assert "canary" not in json.dumps([found, outs])
    assert all("number" in out for out in outs)
    assert found[0]["headers"]["Api-Secret"] == ["***"]
    assert "canary-1" in (await keyed.ask("operator", "GET", "/v2/workflows/logs")).text
    assert (await keyed.ask("viewer", "POST", "/v2/batch", json=rest)).status_code == 403
    assert (await keyed.ask("viewer", "GET", "/v2/workflows/runs/wfr_1")).status_code == 403
    assert (await keyed.ask("viewer", "DELETE", "/v2/workflows/runs/wfr_1")).status_code == 403
