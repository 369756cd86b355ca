"""Runs of the workflow protocol under virtual time: every kind of step, retries, duplicates, and how runs end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from perdure import RunStatus
from perdure.dispatch.messages.message import Answer
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.upstash.driving import QUIET
from perdure.dispatch.upstash.intake import DEPTH
from perdure.dispatch.upstash.reading import WantedRuns
from perdure.dispatch.upstash.refusing import RefusedError, RunEndedError
from perdure.model.decision import RunFilter
from perdure.model.errors import UsageError
from tests.dispatch.upstash.endpoint import OK, THIRD, URL, Endpoint


@pytest.fixture
def endpoint(world) -> Endpoint:
    return Endpoint(world)


@pytest.fixture
def engine(endpoint, url):
    """An engine on a store of each kind that delivers to the endpoint."""
    return endpoint.app(url)


@pytest.fixture
def memory_engine(endpoint, memory):
    return endpoint.app(memory)


async def run_of(app, run_id: str = "wfr_1"):
    (run,) = await app.store.get([run_id])
    return run


async def test_steps_one_after_the_other(world, engine, endpoint):
    endpoint.plans["w"] = [("run", "first", 1), ("sleep", "nap", "10s"), ("run", "second", 2)]
    async with engine:
        answer = await endpoint.trigger("w")
        again = await endpoint.trigger("w")
        assert again == {**answer, "deduplicated": True}
        await world.advance(20)
        run = await run_of(engine)
        assert run.status is RunStatus.COMPLETE
        assert json.loads(run.output) == {"response": "[1, 2, 3]"}
        assert endpoint.ran == [("wfr_1", "first"), ("wfr_1", "nap"), ("wfr_1", "second")]
        assert endpoint.got == [(0, "step", 1), (0, "step", 2), (10, "step", 3), (10, "step", 4)]
        assert endpoint.headers["x-user"] == "bob"
        assert endpoint.headers["upstash-workflow-createdat"] == str(run.created_at)
        with pytest.raises(RunEndedError):
            await endpoint.submit("wfr_1", URL + "w", [{"stepId": 4, "stepName": "x", "stepType": "Run"}])


async def test_steps_at_once(world, engine, endpoint):
    endpoint.plans["w"] = [[("run", "left", 1), ("run", "right", 2), ("sleep", "rest", "3s")], ("run", "sum", 3)]
    async with engine:
        await endpoint.trigger("w")
        await world.advance(5)
        assert (await run_of(engine)).status is RunStatus.COMPLETE
        assert sorted(endpoint.ran) == [("wfr_1", name) for name in ("left", "rest", "right", "sum")]


@pytest.mark.parametrize(("name", "shown"), [("ask", "ask"), ("frâge ぉ", "frâge ぉ")])
async def test_a_call_is_retried_and_its_answer_is_a_step(world, memory_engine, endpoint, name, shown):
    endpoint.plans["w"] = [("call", name, {"Upstash-Retries": "2", "Upstash-Retry-Delay": "1000"}), ("run", "end", 1)]
    answers = [Answer(503, body="busy"), Answer(200, body="fine")]
    endpoint.third = lambda message: answers.pop(0)
    submitted = endpoint.submit

    async def mangled(run_id: str, url: str, steps: Any, delays: Any = None) -> Any:
        return await submitted(
            run_id, url, [{**each, "stepName": "?"} if "Call" in str(each) else each for each in steps], delays
        )

    endpoint.submit = mangled  # what became of the name in a header
    async with memory_engine as app:
        await endpoint.trigger("w")
        await world.advance(5)
        assert (await run_of(app)).status is RunStatus.COMPLETE
        assert [kind for _, kind, _ in endpoint.got] == ["step", "third", "third", "callback", "step", "step"]
        entries = [noted.entry for noted in (await endpoint.workflows.reading.one("wfr_1")).ledger.entries]
        step = json.loads(entries[1].content)
        assert (step["stepName"], json.loads(step["out"])) == (shown, {"status": 200, "body": "fine"})


@pytest.mark.parametrize(
    "last", [Answer(500, body="no"), Answer(0, error="no route"), Answer(489, is_final=True, body="never")]
)
async def test_a_call_that_fails_is_a_step_and_no_failed_run(world, memory_engine, endpoint, last):
    endpoint.plans["w"] = [("call", "ask", {"Upstash-Retries": "1", "Upstash-Retry-Delay": "1000"})]
    endpoint.third = lambda message: last
    seen = []
    endpoint.before = lambda message: (
        seen.append(json.loads(message.content)) if "callback" in str(message.headers) else None
    )
    async with memory_engine as app:
        await endpoint.trigger("w")
        await world.advance(5)
        assert (await run_of(app)).status is RunStatus.COMPLETE
        told = [each for each in seen if isinstance(each, dict)]
        assert [(each["status"], each["retried"] == each["maxRetries"]) for each in told] == [(last.status, True)]


async def test_waits_are_notified_expire_or_take_what_was_kept(world, engine, endpoint):
    endpoint.plans["w"] = [
        ("wait", "one", "evt-1", "100s"),
        ("wait", "two", "evt-2", "3s"),
        ("wait", "three", "kept", "1d"),
    ]
    async with engine:
        await endpoint.trigger("w")
        await world.advance(1)
        waiting = endpoint.workflows.waiting
        assert [each["url"] for each in await waiting.waiters("evt-1")] == [URL + "w"]
        await waiting.notify("kept", b"early", "wfr_1")
        assert await waiting.notify("nobody", b"x") == []
        told = await waiting.notify("evt-1", b'{"some":"data"}')
        assert [each["workflowRunId"] for each in told] == ["wfr_1"]
        assert await waiting.notify("evt-1", b"again") == []
        assert await waiting.waiters("evt-1") == []
        await world.advance(10)
        assert (await run_of(engine)).status is RunStatus.COMPLETE
        ledger = (await endpoint.workflows.reading.one("wfr_1")).ledger
        ends = [json.loads(noted.entry.content) for noted in ledger.entries[1:]]
        assert [(each["waitTimeout"], each.get("out")) for each in ends] == [
            (False, base64.b64encode(b'{"some":"data"}').decode()),
            (True, None),
            (False, base64.b64encode(b"early").decode()),
        ]
        assert await waiting.waiters("evt-2") == []


async def test_invoked_runs_end_as_steps(world, engine, endpoint):
    endpoint.plans |= {
        "w": [("invoke", "good", "child"), ("invoke", "bad", "broken"), ("invoke", "gone", "sleeper")],
        "child": [("run", "x", 1)],
        "broken": [("run", "x", 1)],
        "sleeper": [("sleep", "x", "1d")],
    }
    endpoint.before = lambda message: Answer(489, is_final=True) if message.url.endswith("broken") else None
    async with engine:
        await endpoint.trigger("w")
        await world.advance(2)
        assert await endpoint.workflows.cancel(["wfr_child3", "wfr_nothing"]) == 1
        await world.advance(2)
        assert (await run_of(engine)).status is RunStatus.COMPLETE
        shown = await endpoint.workflows.reading.one("wfr_1")
        outs = [json.loads(json.loads(noted.entry.content)["out"]) for noted in shown.ledger.entries[1:]]
        assert outs == [
            {"body": "[1]", "isFailed": False, "isCanceled": False},
            {"body": None, "isFailed": True, "isCanceled": False},
            {"body": None, "isFailed": False, "isCanceled": True},
        ]
        child = (await endpoint.workflows.reading.one("wfr_child1")).logged()
        assert child["invoker"]["workflowRunId"] == "wfr_1"
        entry = (await endpoint.workflows.reading.one("wfr_child1")).ledger.entries[0].entry
        assert json.loads(entry.content) == {"n": 1}


async def test_a_failed_delivery_fails_the_run_and_is_told_of_once(world, engine, endpoint):
    endpoint.plans["w"] = [("run", "x", 1), ("run", "boom", 2)]
    failing = Answer(500, [("Upstash-Error-Step-Name", "boom")], body='{"error":"Error","message":"it broke"}')
    endpoint.before = lambda message: failing if len(json.loads(message.content)) == 2 else None
    async with engine:
        options = {"Failure_Callback": URL + "w", "Failure_Callback_Forward_Upstash_Workflow_Is_Failure": "true"}
        await endpoint.trigger("w", Retries="2", Retry_Delay="1000", Label="l1", **options)
        await world.advance(10)
        assert (await run_of(engine)).status is RunStatus.ERRORED
        (told,) = endpoint.failures
        assert (told["status"], told["retried"], told["workflowRunId"], told["dlqId"]) == (500, 2, "wfr_1", "wfr_1")
        assert base64.b64decode(told["sourceBody"]) == b'{"name":"ann"}'
        assert json.loads(base64.b64decode(told["body"]))["message"] == "it broke"
        assert endpoint.headers["x-user"] == "bob"
        assert "upstash-workflow-sdk-version" not in endpoint.headers
        shown = await endpoint.workflows.reading.one("wfr_1")
        log = shown.logged()
        assert (log["workflowState"], log["failureFunction"]["state"]) == ("RUN_FAILED", "CALLBACK_SUCCESS")
        following = log["steps"][-1]
        assert following["type"] == "next"
        assert [each["status"] for each in following["steps"][0]["errors"]] == [500, 500, 500]
        assert (following["steps"][0]["state"], following["steps"][0]["stepName"]) == ("STEP_FAILED", "boom")
        dead = shown.dead()
        assert (dead["responseStatus"], dead["failureCallbackInfo"]["state"]) == (500, "CALLBACK_SUCCESS")


async def test_what_is_told_of_a_failure_is_json_whatever_was_answered(world, memory_engine, endpoint):
    endpoint.plans["w"] = []
    endpoint.before = lambda message: Answer(502, body="<html>") if message.content.startswith(b"[") else None
    async with memory_engine:
        await endpoint.trigger(
            "w",
            Retries="0",
            Failure_Callback=URL + "w",
            Failure_Callback_Forward_Upstash_Workflow_Is_Failure="true",
        )
        await world.advance(2)
        body = json.loads(base64.b64decode(endpoint.failures[0]["body"]))
        assert body == {"error": "Error", "message": "<html>"}


async def test_lost_answers_repeat_nothing_that_was_handed_in(world, memory_engine, endpoint):
    endpoint.plans |= {
        "w": [("run", "a", 1), ("wait", "b", "e", "5s"), ("invoke", "c", "child"), ("call", "d", {}), ("run", "f", 1)],
        "child": [("run", "x", 1)],
    }
    lost: set[bytes] = set()

    def spoil(message: Any, answer: Answer) -> Answer:
        if message.content not in lost:
            lost.add(message.content)
            return Answer(0, error="the answer is lost")
        return answer

    endpoint.spoil = spoil
    async with memory_engine as app:
        await endpoint.trigger("w", Retry_Delay="1000")
        await world.advance(60)
        assert (await run_of(app)).status is RunStatus.COMPLETE
        assert [name for _, name in endpoint.ran].count("a") == 1
        children = await app.store.find(RunFilter(workflow="perdure.upstash", id_prefix="wfr_child"), 10)
        assert len(children.runs) == 1
        assert [kind for _, kind, _ in endpoint.got].count("third") == 1


async def test_what_is_handed_in_twice_is_answered_alike_and_kept_once(world, memory_engine, endpoint):
    endpoint.plans |= {"w": [("sleep", "x", "1d")], "child": [("sleep", "x", "1d")]}
    async with memory_engine as app:
        await endpoint.trigger("w")
        await world.advance(1)
        step = {"stepId": 2, "stepName": "x", "stepType": "Run", "out": "1", "concurrent": 1}
        first = await endpoint.submit("wfr_1", URL + "w", [step])
        second = await endpoint.submit("wfr_1", URL + "w", [{**step, "out": "2"}])
        assert second == [{**first[0], "deduplicated": True}]
        for what in (endpoint.call, endpoint.invoke):
            more = {} if what == endpoint.call else {"child": "child"}
            one = await what("wfr_1", URL + "w", {**step, "stepId": 3 if more else 4}, **more)
            two = await what("wfr_1", URL + "w", {**step, "stepId": 3 if more else 4}, **more)
            assert two == [{**one[0], "deduplicated": True}]
        await world.advance(1)
        assert [kind for _, kind, _ in endpoint.got].count("third") == 1
        ledger = (await endpoint.workflows.reading.one("wfr_1")).ledger
        assert [noted.fields.step_id for noted in ledger.entries[1:3]] == [1, 2]
        assert json.loads(ledger.entries[2].entry.content)["out"] == "1"
        runs = await app.store.find(RunFilter(workflow="perdure.upstash"), 10)
        assert len(runs.runs) == 2


async def test_a_run_goes_on_in_another_engine(world, url, endpoint):
    endpoint.plans["w"] = [
        ("run", "a", 1),
        ("wait", "b", "e", "50s"),
        [("run", "l", 1), ("sleep", "r", "20s")],
        ("invoke", "c", "child"),
    ]
    endpoint.plans["child"] = [("sleep", "x", "30s")]
    for _ in range(8):
        app = endpoint.app(url)
        await app.open()
        if await run_of(app) is None:
            await endpoint.trigger("w")
        await world.advance(20)
        await world.crash(app)
        world.at += 60_000
    async with endpoint.app(url) as app:
        await world.advance(100)
        assert (await run_of(app)).status is RunStatus.COMPLETE
        assert [noted.fields.step_id for noted in (await endpoint.workflows.reading.one("wfr_1")).ledger.entries[1:]]


@pytest.mark.parametrize(
    ("answer", "features", "fails"),
    [
        (Answer(200), "WF_DetectTrigger", True),
        (Answer(200), "", False),
        (Answer(200, [("Upstash-Workflow-Sdk-Version", "1")]), "WF_DetectTrigger", False),
    ],
)
async def test_a_destination_that_is_no_endpoint(world, memory, answer, features, fails):
    endpoint = Endpoint(world, features)
    endpoint.before = lambda message: answer
    async with endpoint.app(memory) as app:
        await endpoint.trigger("w")
        await world.advance(2)
        run = await run_of(app)
        assert (run.status is RunStatus.ERRORED) is fails
        if fails:
            assert "detected a non-workflow destination" in run.output
        await world.advance(QUIET + 5)
        run = await run_of(app)
        assert run.status is RunStatus.ERRORED
        assert fails or "handed in no step" in run.output


async def test_a_trigger_of_an_unknown_client_begins_anew_with_the_endpoints_own(world, memory_engine, endpoint):
    endpoint.plans["w"] = [("run", "a", 1)]

    def before(message: Any) -> None:
        headers = {name.lower() for name, _ in message.extra}
        assert ("upstash-workflow-unknown-sdk" in headers) is (not again)

    again: list[Any] = []
    endpoint.before = before
    work = endpoint.work

    async def working(message: Any, headers: dict[str, str]) -> Answer:
        if "upstash-workflow-unknown-sdk" not in headers:
            return await work(message, headers)
        again.append(headers["x-from"])
        given = {**endpoint.own(headers["upstash-workflow-runid"], URL + "w"), "Upstash-Workflow-Init": "true"}
        given |= {"Upstash-Workflow-Trigger-By-Sdk": "true", "Upstash-Forward-X-User": "bob"}
        await endpoint.workflows.publish_each([Publication(URL + "w", read(given.items()), b'"body"')])
        return OK

    endpoint.work = working
    async with memory_engine as app:
        given = Publication(URL + "w", read([("Upstash-Forward-X-From", "rest")]), b'"body"')
        answer = await endpoint.workflows.intake.trigger(given)
        await world.advance(2)
        assert again == ["rest"]
        run = await run_of(app, answer["workflowRunId"])
        assert (run.status, run.created_at) == (RunStatus.COMPLETE, answer["workflowCreatedAt"])
        assert endpoint.headers["x-user"] == "bob"


async def test_each_delivery_counts_under_the_flow_control_key_of_the_trigger(world, memory_engine, endpoint):
    endpoint.plans["w"] = [("run", "a", 1), ("sleep", "b", "1s"), ("run", "c", 1)]
    async with memory_engine as app:
        flow = {"Flow_Control_Key": "k", "Flow_Control_Value": "rate=1, period=60s"}
        await endpoint.trigger("w", **flow)
        await world.advance(300)
        assert (await run_of(app)).status is RunStatus.COMPLETE
        assert [at for at, _, _ in endpoint.got] == [0, 60, 120, 180]
        log = (await endpoint.workflows.reading.one("wfr_1")).logged()
        assert log["flowControlKey"] == "k"


@pytest.mark.parametrize(("features", "retries"), [("", 1), ("WF_TriggerOnConfig", 3)])
async def test_whose_configuration_holds_for_a_step(world, memory, features, retries):
    endpoint = Endpoint(world, features)
    endpoint.plans["w"] = [("run", "a", 1), ("run", "b", 2)]
    endpoint.before = lambda message: Answer(500) if len(json.loads(message.content)) == 2 else None
    submitted = endpoint.own
    endpoint.own = lambda run_id, url: {**submitted(run_id, url), "Upstash-Retries": "1", "Upstash-Retry-Delay": "10"}
    async with endpoint.app(memory):
        await endpoint.trigger("w", Retries="3")
        await world.advance(60)
        assert [sizes for _, _, sizes in endpoint.got].count(2) == retries + 1


async def test_bad_input_is_refused_with_its_field(world, memory_engine, endpoint):
    endpoint.plans["w"] = [("sleep", "x", "1d")]
    async with memory_engine as app:
        with pytest.raises(RunEndedError):
            await endpoint.submit("wfr_none", URL, [{"stepId": 1}])
        await app.start(app.registry.workflows["perdure.delivery"], _message(), id="wfr_other")
        with pytest.raises(RunEndedError):
            await endpoint.submit("wfr_other", URL, [{"stepId": 1}])
        await endpoint.trigger("w")
        for step, field in [({}, "stepId"), ({"stepId": -1}, "stepId"), ({"stepId": 1, "concurrent": 0}, "concurrent")]:
            with pytest.raises(UsageError, match=field):
                await endpoint.submit("wfr_1", URL, [step])
        for header, value, field in [
            ("Upstash-Workflow-RunId", "a b", "RunId"),
            ("Upstash-Workflow-CallType", "stepConfig", "CallType"),
        ]:
            given = {**endpoint.own("wfr_1", URL), header: value}
            with pytest.raises(UsageError, match=field):
                await endpoint.workflows.publish_each([Publication(URL, read(given.items()), b'{"stepId":1}')])
        given = {**endpoint.own("wfr_2", URL), "Upstash-Workflow-Init": "true", "Upstash-Workflow-Invoke": "true"}
        with pytest.raises(UsageError, match="envelope"):
            await endpoint.workflows.publish_each([Publication(URL, read(given.items()), b"{}")])
        given |= {"Upstash-Forward-Upstash-Workflow-Invoke-Count": str(DEPTH + 1)}
        body = json.dumps({"workflowRunId": "wfr_1", "workflowUrl": URL, "step": {"stepId": 1}}).encode()
        with pytest.raises(RefusedError, match="DEPTH"):
            await endpoint.workflows.publish_each([Publication(URL, read(given.items()), body)])
        with pytest.raises(RefusedError, match="payload_bytes"):
            await endpoint.submit("wfr_1", URL, [{"stepId": 1, "stepName": "x", "out": "x" * 1_100_000}])


def _message() -> Any:
    return {"url": THIRD}


async def test_a_run_is_resumed_once_under_another_id_or_restarted(world, memory_engine, endpoint):
    endpoint.plans["w"] = [("run", "a", 1), ("wait", "b", "e", "1d"), ("run", "c", 1)]
    endpoint.before = lambda message: Answer(489, is_final=True) if is_broken else None
    wanted = WantedRuns(ids=("wfr_1", "wfr_2"))
    is_broken = False
    async with memory_engine as app:
        workflows = endpoint.workflows
        for run_id in ("wfr_1", "wfr_2"):
            await endpoint.trigger("w", run_id)
        await world.advance(1)
        assert await workflows.again(wanted, 50, lambda message: message, resumes=True) == []
        is_broken = True
        await workflows.waiting.notify("e", b"x")
        await world.advance(1)
        assert [(await run_of(app, each)).status for each in wanted.ids] == [RunStatus.ERRORED] * 2
        is_broken = False
        endpoint.ran.clear()
        (resumed,) = await workflows.again(WantedRuns(ids=("wfr_1",)), 50, lambda message: message, resumes=True)
        assert await workflows.again(WantedRuns(ids=("wfr_1",)), 50, lambda message: message, resumes=True) == []
        (restarted,) = await workflows.again(WantedRuns(ids=("wfr_2",)), 50, lambda message: message, resumes=False)
        await world.advance(1)
        await workflows.waiting.notify("e", b"x")
        await world.advance(1)
        for answer in (resumed, restarted):
            assert (await run_of(app, answer["workflowRunId"])).status is RunStatus.COMPLETE
        assert [name for run_id, name in endpoint.ran if run_id == resumed["workflowRunId"]] == ["c"]
        assert [name for run_id, name in endpoint.ran if run_id == restarted["workflowRunId"]] == ["a", "b", "c"]
        assert await run_of(app, "wfr_1") is None


async def test_a_run_stays_in_memory_for_what_is_handed_in_about_when_the_answer_comes(world, memory_engine, endpoint):
    endpoint.plans["w"] = [("run", f"s{number}", number) for number in range(5)]
    late = []

    async def answers_first(message: Any, headers: Any) -> Answer:
        late.append((message, headers))
        return OK

    worked, endpoint.work = endpoint.work, answers_first
    async with memory_engine as app:
        await endpoint.trigger("w")
        for _ in range(6):
            await world.advance(0.5)
            await worked(*late.pop())
        await world.advance(0.5)
        run = await run_of(app)
        assert (run.status, run.epoch) == (RunStatus.COMPLETE, 1)


async def test_a_run_tells_what_it_waits_for(world, memory_engine, endpoint):
    endpoint.plans["w"] = [("run", "charge", 1), ("wait", "w", "shipped/7", "1d")]
    async with memory_engine as app:
        await endpoint.trigger("w")
        await world.advance(5)
        keys = [record.key for record in await app.store.journal("wfr_1")]
        assert keys == ["input", "deliver 0", "message", "deliver 1: charge", "message#2"]
        assert "wait 2: shipped 7" in str((await run_of(app)).wait)
