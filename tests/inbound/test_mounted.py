"""In the applications of others: FastAPI and Starlette, whose own routes come first."""

from __future__ import annotations

from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from perdure import inbound
from tests.inbound.asking import client, signed, verifier


def keeping(app):
    @app.webhook("/hooks/stripe", verify=verifier())
    @app.workflow
    async def keep(event: dict) -> None: ...


async def statuses(http: httpx.AsyncClient, *paths: str) -> list[int]:
    body, headers = signed({"id": "evt_1", "type": "x"})
    return [(await http.post(path, content=body, headers=headers)).status_code for path in paths]


async def test_in_fastapi(app):
    keeping(app)

    @asynccontextmanager
    async def lifespan(api):
        async with app:
            yield

    api = FastAPI(lifespan=lifespan)

    @api.post("/own")
    async def own() -> str:
        return "own"

    api.mount("/", inbound.asgi(app))
    async with api.router.lifespan_context(api), client(api) as http:
        assert await statuses(http, "/own", "/hooks/stripe", "/hooks/other") == [200, 200, 404]
        assert len((await app.runs()).runs) == 1


async def test_below_a_path(app):
    keeping(app)
    api = Starlette(routes=[Mount("/in", inbound.asgi(app)), Mount("/a", routes=[Mount("/b", inbound.asgi(app))])])
    async with app, client(api) as http:
        found = await statuses(http, "/in/hooks/stripe", "/a/b/hooks/stripe", "/hooks/stripe", "/in/in/hooks/stripe")
        assert found == [200, 200, 404, 404]
        assert len((await app.runs()).runs) == 1
