from __future__ import annotations

from fastapi.routing import APIRoute

from perdure.server.access import PUBLIC, role_of


async def test_it_is_live_and_ready(serve):
    served = await serve()
    assert (await served.http.get("/livez")).json() == {"status": "ok"}
    assert (await served.http.get("/readyz")).json() == {"status": "ok"}


async def test_every_route_says_what_role_it_takes(serve):
    served = await serve()
    routes = [route for route in served.asgi.routes if isinstance(route, APIRoute)]
    assert len(routes) > 2
    assert [route.path for route in routes if role_of(route) is None and route.path not in PUBLIC] == []


async def test_what_is_not_there_is_a_problem_document(serve):
    served = await serve()
    answer = await served.http.get("/api/v1/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:perdure:error:not-found"


async def test_a_run_that_is_not_there_is_named(serve):
    served = await serve()
    answer = await served.http.get("/api/v1/runs/a%2Fb%25%C3%BC")
    assert answer.status_code == 404
    assert "'a/b%ü'" in answer.json()["detail"]
    assert answer.json()["type"] == "urn:perdure:error:run-not-found"


async def test_a_real_server(serving):
    served = await serving()
    answer = await served.http.get("/livez")
    assert answer.status_code == 200
