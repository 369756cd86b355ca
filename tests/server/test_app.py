"""What holds for every request."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fastapi.routing import APIRoute

from perdure.model.errors import StoreCorruptError, StoreFullError, StoreUnavailableError
from perdure.server import ServerSettings, create_server, server
from perdure.server.access import PUBLIC, role_of
from perdure.server.routing import StrictRoute
from tests.server.conftest import memory

RUNS = "/api/v1/runs"


async def test_it_is_live_and_ready(serve):
    served = await serve()
    assert (await served.http.get("/livez")).json() == {"status": "ok"}
    assert (await served.http.get("/readyz")).json() == {"status": "ok"}


async def test_it_is_not_ready_without_each_of_its_stores(serve, monkeypatch, caplog):
    served = await serve(namespaces={"beta": memory(), "slow": memory()})

    async def gone(run_ids):
        raise StoreUnavailableError("gone")

    async def slow(run_ids):
        await asyncio.Event().wait()

    monkeypatch.setattr(server, "READY_WITHIN", 0.01)
    monkeypatch.setattr(served.server.namespaces.engine("beta").store, "get", gone)
    monkeypatch.setattr(served.server.namespaces.engine("slow").store, "get", slow)
    answer = await served.http.get("/readyz")
    assert "beta" not in answer.text, "everybody may ask"
    assert "the store of namespace 'beta' does not answer: gone" in caplog.text
    assert "the store of namespace 'slow' has not answered within 0.01 s" in caplog.text
    assert "'default'" not in caplog.text
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert (await served.http.get("/livez")).status_code == 200


def test_every_route_says_what_role_it_takes_and_reads_strictly():
    routes = [route for route in create_server(ServerSettings(store=memory())).routes if isinstance(route, APIRoute)]
    assert len(routes) > 20
    assert [route.path for route in routes if role_of(route) is None and route.path not in PUBLIC] == []
    read = [route for route in routes if route.path.startswith("/api/") or route.methods != {"GET"}]
    assert [route.path for route in read if not isinstance(route, StrictRoute)] == []


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/runs/", "/api/v1//runs", "/API/v1/runs", "/livez/"])
async def test_what_is_not_there_is_a_problem_document(serve, path):
    served = await serve()
    answer = await served.http.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:perdure:error:not-found"


async def test_another_method_is_told_which_there_are(serve):
    served = await serve()
    answer = await served.http.put(RUNS, json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert (await served.http.get(f"{RUNS}/batch")).status_code == 405
    assert (await served.http.get(f"{RUNS}/batches")).status_code == 404


async def test_a_run_that_is_not_there_is_named(serve):
    served = await serve()
    answer = await served.http.get(f"{RUNS}/a%2Fb%25%C3%BC")
    assert answer.status_code == 404
    assert "'a/b%ü'" in answer.json()["detail"]
    assert answer.json()["type"] == "urn:perdure:error:run-not-found"


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (StoreUnavailableError("secret detail"), 503, "store-unavailable"),
        (StoreFullError("secret detail"), 507, "store-full"),
        (StoreCorruptError("secret detail"), 500, "internal-error"),
        (RuntimeError("secret detail"), 500, "internal-error"),
    ],
)
async def test_what_goes_wrong_behind_it(serve, monkeypatch, caplog, error, status, name):
    served = await serve()

    async def fails(run_ids):
        raise error

    monkeypatch.setattr(served.app.client, "get", fails)
    with caplog.at_level(logging.WARNING):
        answer = await served.http.get(f"{RUNS}/a")
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:perdure:error:{name}")
    assert ("retry-after" in answer.headers) == (status == 503)
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text
    if status == 500:
        assert answer.json()["detail"].endswith(answer.headers["x-request-id"])


async def test_pages_of_other_origins_may_ask_only_where_that_was_said(serve):
    theirs = {"Origin": "https://shop.example"}
    preflight = {**theirs, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    closed = await serve()
    assert "access-control-allow-origin" not in (await closed.http.options(RUNS, headers=preflight)).headers
    opened = await serve(cors=("https://shop.example",))
    allowed = await opened.http.options(RUNS, headers=preflight)
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in allowed.headers
    other = await opened.http.options(RUNS, headers={**preflight, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


async def test_a_real_server(serving):
    served = await serving()
    answer = await served.http.get("/livez")
    assert answer.status_code == 200


async def test_its_lifespan_opens_and_closes_the_stores():
    app = create_server(ServerSettings(store=memory()))
    async with app.router.lifespan_context(app):
        assert await app.state.server.namespaces.default.runs() is not None
    with pytest.raises(StoreUnavailableError):
        await app.state.server.namespaces.default.runs()


@pytest.mark.parametrize(("host", "status"), [("shop.example", 200), ("SHOP.example:8000", 200), ("evil.example", 421)])
async def test_names_of_hosts_are_the_same_in_capitals(serve, host, status):
    served = await serve(hosts=("Shop.Example",))
    assert (await served.http.get(RUNS, headers={"Host": host})).status_code == status
