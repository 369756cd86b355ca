"""Serves workflows of upstash-workflow with FastAPI, as its users do, and awaits; it tells what `endpoint.py` tells."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from upstash_workflow import AsyncWorkflowContext
from upstash_workflow.fastapi import Serve

PORT = int(sys.argv[1])


@contextlib.asynccontextmanager
async def up(app: FastAPI) -> AsyncIterator[None]:
    tell("UP")
    yield


app = FastAPI(lifespan=up)
serve = Serve(app)


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def done(name: str, value: Any) -> None:
    tell(f"DONE {name} {json.dumps(value)}")


async def failed(context: Any, status: int, response: str, headers: Any) -> None:
    done("failure_function", [status, response, context.request_payload])


@app.post("/third")
async def third(request: Request) -> dict[str, Any]:
    return {"got": await request.json()}


@serve.post("/linear", failure_function=failed)
async def linear(context: AsyncWorkflowContext[Any]) -> None:
    async def first() -> str:
        return f"{context.request_payload['name']}!"

    a = await context.run("first", first)
    await context.sleep("nap", 1)
    url = f"http://127.0.0.1:{PORT}/third"
    answer = await context.call("ask", url=url, method="POST", body={"q": a})

    async def told() -> None:
        done("linear", {"a": a, "body": answer.body, "user": context.headers.get("x-user")})

    await context.run("tell", told)


@serve.post("/fails", failure_function=failed, retries=0)
async def fails(context: AsyncWorkflowContext[Any]) -> None:
    async def boom() -> None:
        raise ValueError("it broke")

    await context.run("boom", boom)


uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
