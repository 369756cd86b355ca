"""A server for `bench.server`: ours, or (KIND=bare) a FastAPI route that takes the same body and does no more."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel

from perdure.server import ServerSettings, create_server
from perdure.server.listening import Listener


class Body(BaseModel):
    """What a run is started with, as a newcomer would write it."""

    workflow: str
    input: dict[str, object]


class Started(BaseModel):
    """What is answered."""

    id: str
    workflow: str
    is_new: bool


def bare() -> FastAPI:
    """FastAPI as it comes."""
    app = FastAPI()

    @app.post("/api/v1/runs", status_code=201)
    async def start(body: Body) -> Started:
        return Started(id="0" * 32, workflow=body.workflow, is_new=True)

    @app.post("/api/v1/runs/batch")
    async def start_batch(body: dict[str, list[Body]]) -> list[Started]:
        return [Started(id="0" * 32, workflow=each.workflow, is_new=True) for each in body["runs"]]

    return app


def ready(port: int) -> None:
    """Tell the runner where to ask."""
    print(json.dumps({"ready": True, "port": port}), flush=True)


async def main() -> None:
    """Serve until standard input ends."""
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server: uvicorn.Server
    if os.environ["KIND"] == "bare":
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(bare(), log_config=None, access_log=False, http="httptools"))
        ready(listener.getsockname()[1])
        serving = asyncio.ensure_future(server.serve([listener]))
    else:
        app = create_server(ServerSettings(store=os.environ["STORE"], port=0))
        ours = server = Listener(app, lambda url: ready(int(url.rpartition(":")[2])))
        serving = asyncio.ensure_future(ours.work())
    await asyncio.wait([ended, serving], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


uvloop.run(main())
