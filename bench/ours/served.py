"""The workflows of `bench.serve`: served over HTTP, or (KIND=worker) worked by a worker on the same store."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys

import uvicorn
import uvloop

from perdure import Perdure, serve

IS_SERVED = os.environ["KIND"] == "served"

app = Perdure(os.environ["SERVER"], mode="serve") if IS_SERVED else Perdure(os.environ["STORE"], mode="worker")


@app.step
async def nothing(number: int) -> int:
    """Return what came."""
    return number


@app.workflow
async def steps(count: int) -> int:
    """Do that many steps, one after the other."""
    for number in range(count):
        await nothing(number)
    return count


async def main() -> None:
    """Serve, or work, until standard input ends."""
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    if not IS_SERVED:
        async with app:
            print(json.dumps({"ready": True}), flush=True)
            await ended
        return
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(serve.asgi(app), log_config=None, access_log=False, http="httptools"))
    serving = asyncio.ensure_future(server.serve([listener]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    print(json.dumps({"ready": True, "port": listener.getsockname()[1]}), flush=True)
    await asyncio.wait([ended, serving], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


uvloop.run(main())
