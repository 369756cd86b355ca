"""The REST API of runs, asked as a client would."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from perdure import NonRetryableError, Perdure, flow
from perdure.server import portions
from perdure.server.live import Live
from tests.server.conftest import Serve, Served, memory

RUNS = "/api/v1/runs"


@pytest.fixture
def worker():
    app = Perdure(memory())

    @app.workflow
    async def order(customer: int, note: str = "") -> dict[str, int]:
        return {"customer": customer}

    @app.workflow
    async def waits() -> str:
        return await flow.wait_for_event("answer", type="go", timeout="1 hour")

    @app.workflow
    async def fails() -> None:
        await charge()

    @app.step
    async def charge() -> None:
        raise NonRetryableError("no money, password=hunter2")

    return app


async def start(served: Served, workflow: str, **body) -> str:
    answer = await served.http.post(RUNS, json={"workflow": workflow, **body})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()["id"]


async def result(served: Served, run_id: str) -> dict:
    answer = await served.http.get(f"{RUNS}/{quote(run_id, safe='')}/result", params={"wait": 10})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until(served: Served, run_id: str, status: str) -> dict:
    async with asyncio.timeout(10):
        while (run := (await served.http.get(f"{RUNS}/{run_id}")).json())["status"] != status:
            await asyncio.sleep(0.01)
    return run


async def test_from_the_start_to_the_result(serve: Serve, worker):
    served = await serve(worker)
    answer = await served.http.post(RUNS, json={"workflow": "order", "input": {"customer": 7}, "tags": {"a": "b"}})
    assert answer.status_code == 201
    run_id = answer.json()["id"]
    assert answer.json() == {"id": run_id, "workflow": "order", "is_new": True}
    assert answer.headers["location"] == f"{RUNS}/{run_id}"
    assert await result(served, run_id) == {
        "id": run_id,
        "status": "complete",
        "is_over": True,
        "output": {"customer": 7},
        "error": None,
        "waits": [],
    }
    run = (await served.http.get(f"{RUNS}/{run_id}")).json()
    assert (run["tags"], run["output"], run["created_at"][-1]) == ({"a": "b"}, {"customer": 7}, "Z")


@pytest.mark.parametrize("run_id", ["a/b", "100%", "%2F", "ü/日本 #?&=+", "a/journal", "batch", "..%2f", "\U0001f600"])
async def test_ids_of_any_kind(serve: Serve, worker, run_id):
    served = await serve(worker)
    answer = await served.http.post(RUNS, json={"workflow": "order", "input": {"customer": 7}, "id": run_id})
    path = answer.headers["location"].replace("/batch", "/%62atch")
    assert (await served.http.get(path)).json()["id"] == run_id
    assert (await served.http.get(f"{path}/journal")).json()["items"][0]["payload"] == {"customer": 7}
    assert (await result(served, run_id))["output"] == {"customer": 7}
    forked = await served.http.post(f"{path}/events", json={"type": "late"})
    assert forked.json()["type"] == "urn:perdure:error:run-finished"


async def test_a_start_that_is_repeated(serve: Serve, worker):
    served = await serve(worker)
    body = {"workflow": "waits", "id": "one"}
    first, second = await served.http.post(RUNS, json=body), await served.http.post(RUNS, json=body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["is_new"] is False
    other = await served.http.post(RUNS, json={"workflow": "order", "input": {"customer": 1}, "id": "one"})
    assert (other.status_code, other.json()["type"]) == (409, "urn:perdure:error:run-exists")
    assert other.json()["errors"][0]["path"] == "body.id"


async def test_an_idempotency_key(serve: Serve, worker):
    served = await serve(worker)
    body = {"workflow": "order", "input": {"customer": 7}}
    key = {"Idempotency-Key": "payment-7"}
    first = await served.http.post(RUNS, json=body, headers=key)
    await result(served, first.json()["id"])
    second = await served.http.post(RUNS, json=body, headers=key)  # the first has ended, and stands all the same
    assert (second.status_code, second.json()["id"]) == (200, first.json()["id"])
    other = await served.http.post(RUNS, json={**body, "input": {"customer": 8}}, headers=key)
    assert (other.status_code, other.json()["errors"][0]["path"]) == (409, "header.Idempotency-Key")
    assert (await served.http.post(RUNS, json=body)).status_code == 201
    assert (await served.http.post(RUNS, json={**body, "id": "mine"}, headers=key)).json()["id"] == "mine"
    longest = {"Idempotency-Key": "k" * 180}
    assert (await served.http.post(RUNS, json=body, headers=longest)).status_code == 201
    longer = await served.http.post(RUNS, json=body, headers={"Idempotency-Key": "k" * 181})
    assert (longer.status_code, longer.json()["errors"][0]["path"]) == (422, "header.Idempotency-Key")


async def test_a_batch(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "order", id="taken", input={"customer": 0})
    runs = [{"workflow": "order", "input": {"customer": n}, "id": f"run-{n}"} for n in range(3)]
    runs.append({"workflow": "order", "input": {"customer": 9}, "id": "taken"})
    answer = await served.http.post(f"{RUNS}/batch", json={"runs": runs})
    items = answer.json()["items"]
    assert [item["is_new"] for item in items] == [True, True, True, False]
    assert [item["problem"] and item["problem"]["status"] for item in items] == [None, None, None, 409]
    assert (await result(served, "run-2"))["output"] == {"customer": 2}


async def test_a_batch_with_mistakes_starts_nothing_and_names_each(serve: Serve, worker):
    served = await serve(worker)
    runs = [{"workflow": "order"}, {"workflow": 7}, {"workflow": "order", "delay": "soon"}, {"workflow": "o/o"}]
    answer = await served.http.post(f"{RUNS}/batch", json={"runs": runs})
    assert answer.status_code == 422
    paths = [error["path"] for error in answer.json()["errors"]]
    assert paths == ["body.runs[1].workflow", "body.runs[2].delay", "body.runs[3].workflow"]
    unknown = await served.http.post(f"{RUNS}/batch", json={"runs": [{"workflow": "waits"}, {"workflow": "ordr"}]})
    assert unknown.status_code == 404
    assert unknown.json()["errors"][0]["path"] == "body.runs[1].workflow"
    assert "did you mean 'order'?" in unknown.json()["detail"]
    assert (await served.http.get(RUNS)).json()["items"] == []
    anyway = [{"workflow": "ordr", "anyway": True, "id": "x"}, {"workflow": "ordr"}]
    assert (await served.http.post(f"{RUNS}/batch", json={"runs": anyway})).status_code == 404
    too_many = await served.http.post(f"{RUNS}/batch", json={"runs": [{"workflow": "order"}] * 1_001})
    assert (too_many.status_code, too_many.json()["errors"][0]["path"]) == (422, "body.runs")


async def test_lists_by_filters_and_pages(serve: Serve, worker):
    served = await serve(worker)
    for number in range(5):
        await start(served, "waits", id=f"w-{number}", tags={"parity": str(number % 2)})
    await start(served, "order", id="o-1", input={"customer": 1})
    await result(served, "o-1")

    async def ids(**params) -> list[str]:
        answer = await served.http.get(RUNS, params=params)
        assert answer.status_code == 200, answer.text
        return [run["id"] for run in answer.json()["items"]]

    assert await ids(workflow="order") == ["o-1"]
    assert await ids(status="complete") == ["o-1"]
    assert await ids(tag=["parity=1"]) == ["w-3", "w-1"]
    assert await ids(prefix="w-", limit=2) == ["w-4", "w-3"]
    assert await ids(since="1 hour", queue="nowhere") == []
    assert await ids(since="0") == []
    assert await ids(created_until="2020-01-01T00:00:00Z") == []
    assert len(await ids(created_from="2020-01-01T00:00:00+02:00")) == 6
    pages, cursor = [], None
    while True:
        page = (await served.http.get(RUNS, params={"limit": 4, **({"cursor": cursor} if cursor else {})})).json()
        pages.append(len(page["items"]))
        cursor = page["next"]
        if cursor is None:
            break
    assert pages == [4, 2]
    complete = (await served.http.get(RUNS, params={"status": "complete"})).json()["items"][0]
    assert "output" not in complete
    failed = await start(served, "fails")
    await result(served, failed)
    errored = (await served.http.get(RUNS, params={"status": "errored"})).json()["items"][0]
    assert errored["error"]["type"] == "NonRetryableError"


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("status=done", "query.status[0]"),
        ("limit=0", "query.limit"),
        ("limit=x", "query.limit"),
        ("cursor=x", "query.cursor"),
        ("tag=a", "query.tag[0]"),
        ("since=soon", "query.since"),
        ("since=nan", "query.since"),
        ("created_from=2020-01-01T00:00:00", "query.created_from"),
        ("workflow=a%00b", "query.workflow"),
        ("workflow=%ff", "query"),
        ("sort=id", "query.sort"),
        ("workflow=a/b", "query.workflow"),
    ],
)
async def test_a_wrong_filter_is_named(serve: Serve, query, path):
    served = await serve()
    answer = await served.http.get(f"{RUNS}?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path)


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
async def test_a_page_of_large_records_ends_early(serve: Serve, monkeypatch, limit):
    monkeypatch.setattr(portions, "CHARACTERS", 1_000)
    monkeypatch.setattr(portions, "AT_ONCE", 2)
    app = Perdure(memory())

    @app.step
    async def large(number: int) -> str:
        return "x" * 600

    @app.workflow
    async def many() -> None:
        for number in range(5):
            await large(number)

    served = await serve(app)
    await start(served, "many", id="a")
    await result(served, "a")
    after: int | None = -1
    found: list[int] = []
    while after is not None:
        page = (await served.http.get(f"{RUNS}/a/journal", params={"after": after, "limit": limit})).json()
        assert 1 <= len(page["items"]) <= min(limit, 2)
        found += [each["position"] for each in page["items"]]
        after = page["next"]
    assert found == list(range(7))


async def test_the_journal_comes_in_pages(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "order", id="a", input={"customer": 1})
    await result(served, "a")
    first = (await served.http.get(f"{RUNS}/a/journal", params={"limit": 1})).json()
    assert ([record["kind"] for record in first["items"]], first["next"]) == (["input"], 0)
    second = (await served.http.get(f"{RUNS}/a/journal", params={"after": 0})).json()
    assert ([record["kind"] for record in second["items"]], second["next"]) == (["output"], None)
    assert (await served.http.get(f"{RUNS}/a/journal", params={"after": 9})).json()["items"] == []
    assert (await served.http.get(f"{RUNS}/none/journal")).status_code == 404


async def test_a_failed_run_tells_its_error_and_no_trace(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "fails", id="a")
    found = await result(served, "a")
    assert found["status"] == "errored"
    assert (found["error"]["type"], found["error"]["message"][:8]) == ("NonRetryableError", "no money")
    journal = await served.http.get(f"{RUNS}/a/journal")
    assert "Traceback" not in journal.text
    assert "test_runs.py" not in journal.text


async def test_why_it_waits_and_an_event(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "waits", id="a")
    run = await until(served, "a", "waiting")
    assert run["waits"][0]["kind"] == "event"
    reasons = (await served.http.get(f"{RUNS}/a/explain")).json()["reasons"]
    assert any("'go'" in reason for reason in reasons)
    event = {"type": "go", "payload": "yes", "id": "e1"}
    assert (await served.http.post(f"{RUNS}/a/events", json=event)).json() == {"is_new": True}
    assert (await served.http.post(f"{RUNS}/a/events", json=event)).json() == {"is_new": False}
    assert (await result(served, "a"))["output"] == "yes"
    assert (await served.http.get(f"{RUNS}/a/undos")).json() == {"items": []}


async def test_a_result_that_takes_longer(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "waits", id="a")
    answer = await served.http.get(f"{RUNS}/a/result", params={"wait": 1})
    assert (answer.status_code, answer.json()["is_over"]) == (202, False)
    waiting = asyncio.create_task(served.http.get(f"{RUNS}/a/result", params={"wait": 60}))
    await until(served, "a", "waiting")
    await served.server.stop()
    assert (await waiting).status_code == 202
    assert (await served.http.get(f"{RUNS}/a/result", params={"wait": 61})).status_code == 422
    assert (await served.http.get(f"{RUNS}/none/result")).status_code == 404


async def test_runs_are_moved(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "waits", id="a")
    await until(served, "a", "waiting")

    async def move(action: str, **body) -> tuple[int, str]:
        answer = await served.http.post(f"{RUNS}/a/{action}", json=body)
        return answer.status_code, answer.json().get("status")

    assert await move("pause", reason="lunch") == (200, "paused")
    assert (await served.http.post(f"{RUNS}/a/resume")).json()["status"] == "queued"
    assert await move("terminate") == (200, "terminated")
    assert (await move("pause"))[0] == 409
    assert await move("restart") == (200, "queued")
    assert (await move("undos/retry"))[0] == 409
    assert (await move("undos/done", key="charge", reason="by hand"))[0] == 409
    assert (await move("terminate", undo=True))[0] == 200
    assert (await move("terminate", undo="yes"))[0] == 422
    assert (await served.http.post(f"{RUNS}/none/pause")).status_code == 404


async def test_a_fork(serve: Serve, worker):
    served = await serve(worker)
    await start(served, "fails", id="a")
    await result(served, "a")
    forked = await served.http.post(f"{RUNS}/a/fork", json={"from_step": "charge", "id": "b"})
    assert (forked.status_code, forked.json()) == (201, {"id": "b", "workflow": "fails", "is_new": True})
    assert (await result(served, "b"))["status"] == "errored"
    assert (await served.http.post(f"{RUNS}/a/fork", json={"from_step": "nothing"})).status_code == 409


async def test_many_runs_in_one_go(serve: Serve, worker):
    served = await serve(worker)
    for number in range(5):
        await start(served, "waits", id=f"w-{number}")
        await until(served, f"w-{number}", "waiting")
    actions = f"{RUNS}/actions"
    dry = (
        await served.http.post(actions, json={"action": "pause", "filter": {"workflow": "waits"}, "dry_run": True})
    ).json()
    assert (dry["matched"], dry["done"], dry["next"]) == (5, 0, None)
    first = {"action": "pause", "filter": {"prefix": "w-"}, "limit": 3, "reason": "maintenance"}
    done = (await served.http.post(actions, json=first)).json()
    assert (done["done"], done["ids"]) == (3, ["w-4", "w-3", "w-2"])
    rest = (await served.http.post(actions, json={**first, "cursor": done["next"]})).json()
    assert (rest["ids"], rest["next"]) == (["w-1", "w-0"], None)
    named = (await served.http.post(actions, json={"action": "terminate", "ids": ["w-0", "w-0", "none"]})).json()
    assert (named["matched"], named["done"], named["failed"][0]["problem"]["status"]) == (2, 1, 404)
    for wrong in (
        {},
        {"ids": ["a"], "filter": {}},
        {"ids": []},
        {"filter": {"status": ["done"]}},
        {"ids": ["a"] * 1_001},
        {"ids": ["w-1"], "undo": True},
    ):
        assert (await served.http.post(actions, json={"action": "pause", **wrong})).status_code == 422


async def test_what_could_not_be_done_to_some_is_written_down(serve: Serve):
    served = await serve()
    await start(served, "w", id="a")
    await served.http.post(f"{RUNS}/actions", json={"action": "terminate", "ids": ["a", "none"]})
    last, first = await served.server.auditor.log("default").page(10)
    assert (first.details["ids"], first.outcome) == (["a", "none"], "")
    assert (last.details["ids"], last.outcome) == (["none"], "failed (409)")


@pytest.mark.parametrize("run_id", ["batch", "actions", ".", "..", "a/b", "%2F", "\U0001f600 x?y#z"])
async def test_a_run_is_where_the_answer_says(serve: Serve, run_id):
    served = await serve()
    started = await served.http.post(RUNS, json={"workflow": "w", "id": run_id})
    found = await served.http.get(started.headers["location"])
    assert (found.status_code, found.json()["id"]) == (200, run_id)


@pytest.mark.parametrize("workflow", ["perdure.schedule", "perdure.webhook:orders"])
async def test_what_is_ours_is_not_started_by_others(serve: Serve, workflow):
    served = await serve()
    for path, body in ((RUNS, {"workflow": workflow}), (f"{RUNS}/batch", {"runs": [{"workflow": workflow}]})):
        answer = await served.http.post(path, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["path"][-8:]) == (422, "workflow"), answer.text


async def test_who_tells_a_schedule_something_is_written_down(serve: Serve):
    served = await serve()
    await served.http.post("/api/v1/schedules", json={"name": "s", "workflow": "w", "every": "1 hour"})
    await served.http.post(f"{RUNS}/schedule%3As/events", json={"type": "schedule.change", "payload": {"paused": True}})
    last, _ = await served.server.auditor.log("default").page(10)
    assert (last.action, last.target) == ("schedules.change", "s")


async def test_many_runs_with_long_ids_fit_the_audit_log(serve: Serve):
    served = await serve()
    ids = [f"{number}/" + "\U0001f600" * 3_000 for number in range(8)]
    answer = await served.http.post(f"{RUNS}/actions", json={"action": "pause", "ids": ids})
    assert (answer.status_code, len(answer.json()["failed"])) == (200, 8)


async def test_events_start_what_is_subscribed(serve: Serve):
    app = Perdure(memory())

    @app.on("order.placed")
    @app.workflow
    async def ship(order: dict) -> int:
        return order["number"]

    served = await serve(app)
    emitted = await served.http.post(
        "/api/v1/events", json={"type": "order.placed", "payload": {"number": 3}, "id": "e"}
    )
    (run_id,) = emitted.json()["runs"]
    assert (await result(served, run_id))["output"] == 3
    again = await served.http.post("/api/v1/events", json={"type": "order.placed", "payload": {"number": 3}, "id": "e"})
    assert again.json()["runs"] == [run_id]


async def test_delays_priorities_and_queues(serve: Serve, worker):
    served = await serve(worker)
    body = {"workflow": "order", "input": {"customer": 1}, "delay": "1 hour", "priority": 5, "queue": "slow", "id": "a"}
    assert (await served.http.post(RUNS, json=body)).status_code == 201
    run = (await served.http.get(f"{RUNS}/a")).json()
    assert (run["priority"], run["queue"], run["status"], run["due_at"] > run["created_at"]) == (
        5,
        "slow",
        "queued",
        True,
    )
    first = await start(served, "order", input={"customer": 1}, delay=3600, dedup={"key": "k"})
    assert await start(served, "order", input={"customer": 2}, delay=3600, dedup={"key": "k"}) == first
    bounced = await start(served, "order", input={"customer": 1}, debounce={"key": "d", "wait": 3600})
    assert await start(served, "order", input={"customer": 2}, debounce={"key": "d", "wait": 3600}) == bounced
    assert (await served.http.get(f"{RUNS}/{quote(bounced, safe='')}/journal")).json()["items"][0]["payload"] == {
        "customer": 2
    }
    both = await served.http.post(RUNS, json={"workflow": "waits", "id": "x", "dedup": {"key": "k"}})
    assert (both.status_code, both.json()["errors"][0]["path"]) == (422, "body.id")
    kept = await start(
        served, "order", input={"customer": 1}, delay=60, retention={"complete": None, "errored": "1 day"}
    )
    assert (await served.app.client.get(kept)).retention.errored == 86_400_000


async def test_namespaces_see_nothing_of_each_other(serve: Serve):
    served = await serve(namespaces={"acme": None})
    acme = {"Perdure-Namespace": "acme"}
    await served.http.post(RUNS, json={"workflow": "w", "id": "a"}, headers=acme)
    assert (await served.http.get(f"{RUNS}/a")).status_code == 404
    assert (await served.http.get(f"{RUNS}/a", headers=acme)).status_code == 200
    assert (await served.http.get(RUNS)).json()["items"] == []
    assert (await served.http.get(RUNS, headers={"Perdure-Namespace": "beta"})).status_code == 404
    assert isinstance(served.server.live("acme"), Live)
