"""What a server tells Prometheus, and whom it tells."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from perdure import Perdure
from perdure.model.errors import StoreUnavailableError
from perdure.server import sampling
from perdure.store import namespaced
from tests.server.conftest import memory

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def samples(served, **headers) -> dict[tuple, float]:
    answer = await served.http.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def worker() -> Perdure:
    app = Perdure(memory())

    @app.workflow(name="w")
    async def w() -> None: ...

    return app


async def test_requests_are_measured_by_their_route(serve):
    served = await serve()
    for _ in range(2):
        await served.http.get("/api/v1/runs/nobody")
    await served.http.get("/nowhere")
    await served.http.request("BREW", "/livez")
    found = await samples(served)
    assert found["perdure_requests_total", "GET", "/api/v1/runs/{id:run}", "404"] == 2
    assert found["perdure_request_duration_seconds_count", "GET", "/api/v1/runs/{id:run}"] == 2
    assert found["perdure_requests_total", "GET", "(none)", "404"] == 1
    assert any(name[1] == "other" for name in found if name[0] == "perdure_requests_total")
    assert ("process_resident_memory_bytes",) in found


async def test_the_store_is_counted_now_and_then(serve):
    served = await serve(worker())
    run = await served.worker.start("w")
    await run.result(timeout=10)
    await served.app.start("nothing", anyway=True, queue="mail")
    await served.worker.worker.reporting.tell()
    first = await samples(served)
    assert first["perdure_runs", "default", "complete"] == 1
    assert first["perdure_runs", "default", "errored"] == 0
    assert first["perdure_queue_due", "default", "mail"] == 1
    assert first["perdure_queue_oldest_due_seconds", "default", "mail"] >= 0
    assert first["perdure_workers", "default", "at_work"] == 1
    assert first["perdure_store_up", "default"] == 1
    await served.app.start("nothing", anyway=True, queue="mail")
    second = await samples(served)
    assert second["perdure_queue_due", "default", "mail"] == 1, "it was counted a moment ago"
    assert second["perdure_counted_seconds_ago", "default"] >= 0


async def test_runs_that_workers_end_add_up(serve, monkeypatch):
    monkeypatch.setattr(sampling, "EVERY", 0.01)
    served = await serve(worker())
    assert ("perdure_queue_ended_total", "default", "default") not in await samples(served)
    for _ in range(3):
        await (await served.worker.start("w")).result(timeout=10)
    await served.worker.worker.reporting.tell()
    async with asyncio.timeout(10):
        while ("perdure_queue_ended_total", "default", "default") not in (found := await samples(served)):
            await asyncio.sleep(0.005)
    assert found["perdure_queue_ended_total", "default", "default"] == 3


async def test_each_sees_the_namespaces_that_it_may_see(serve):
    url = memory()
    served = await serve(store=url, namespaces={"acme": None, "ours": None})
    for name in ("acme", "ours"):
        async with Perdure(namespaced(url, name), mode="client") as app:
            await app.start("nothing", anyway=True)
    keys = served.server.authenticator.keys
    acme = await keys.create("prometheus", "viewer", ("acme",))
    found = await samples(served, authorization=f"Bearer {acme.token}")
    assert {name[1] for name in found if name[0] == "perdure_runs"} == {"acme"}
    assert (await served.http.get("/metrics")).status_code == 401


async def test_a_store_that_does_not_answer_is_down(serve, monkeypatch):
    served = await serve()

    async def fails(now: int) -> None:
        raise StoreUnavailableError("the store is gone")

    monkeypatch.setattr(served.app.store, "stats", fails)
    found = await samples(served)
    assert found["perdure_store_up", "default"] == 0
    assert not any(name[0] == "perdure_runs" for name in found)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(GIVEN, GIVEN), ("nonsense", None), (f"00-{'0' * 32}-b7ad6b7169203331-01", None), (GIVEN + "-x", None)],
)
async def test_a_run_that_a_request_starts_joins_its_trace(serve, given, kept):
    served = await serve(worker())
    answer = await served.http.post("/api/v1/runs", json={"workflow": "w", "id": "r"}, headers={"traceparent": given})
    assert answer.status_code == 201
    assert (await served.app.run("r").get()).tags.get("traceparent") == kept


async def test_what_a_request_tells_a_run_names_its_trace(serve):
    served = await serve()
    await served.app.start("nothing", anyway=True, id="r")
    for headers in ({"traceparent": GIVEN}, {}, {"traceparent": "nonsense"}):
        answer = await served.http.post("/api/v1/runs/r/events", json={"type": "go"}, headers=headers)
        assert answer.status_code == 200
    assert [message.ref for message in await served.app.store.inbox("r")] == [GIVEN, None, None]


async def test_what_a_request_has_an_event_start_names_its_trace_and_has_one_of_its_own(serve):
    app = worker()

    @app.on("placed")
    @app.workflow(name="ship")
    async def ship(order: int) -> None: ...

    served = await serve(app)
    answer = await served.http.post(
        "/api/v1/events", json={"type": "placed", "payload": 1, "id": "e"}, headers={"traceparent": GIVEN}
    )
    assert answer.status_code in {200, 201}, answer.text
    assert (await served.app.run("event:placed:e:ship").get()).tags == {"event": "placed", "tracelink": GIVEN}


async def test_queues_that_are_made_up_as_they_go_share_one(serve, monkeypatch):
    monkeypatch.setattr("perdure.server.metrics.QUEUES_TOLD_APART", 3)
    served = await serve()
    for number in range(7):
        await served.app.start("nothing", anyway=True, queue=f"q{number}", delay=60 if number == 6 else 0)
    found = {name[-1]: count for name, count in (await samples(served)).items() if name[0] == "perdure_queue_due"}
    assert found == {"q0": 1, "q1": 1, "q2": 1, "(other)": 3}
    counts = await samples(served)
    assert counts["perdure_queue_later", "default", "(other)"] == 1
    assert counts["perdure_queue_oldest_due_seconds", "default", "(other)"] >= 0


async def test_ends_in_queues_that_are_made_up_are_added_up(serve, monkeypatch):
    monkeypatch.setattr("perdure.server.metrics.QUEUES_TOLD_APART", 1)
    monkeypatch.setattr(sampling, "EVERY", 0.01)
    app = Perdure(memory(), queues=["a", "b", "c"])

    @app.workflow(name="w")
    async def w() -> None: ...

    served = await serve(app)
    await samples(served)
    for queue in ("a", "b", "c"):
        await (await app.start("w", queue=queue)).result(timeout=10)
    await app.worker.reporting.tell()
    async with asyncio.timeout(10):
        while not (
            found := {n[-1]: c for n, c in (await samples(served)).items() if n[0] == "perdure_queue_ended_total"}
        ):
            await asyncio.sleep(0.005)
    assert found == {"a": 1, "(other)": 2}
