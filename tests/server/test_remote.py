"""`Perdure("http://…")`: what an application does with a server is what it does with a store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Perdure, flow
from perdure.model.errors import RunFailedError, RunFinishedError, RunNotFoundError, RunTerminatedError, UsageError
from perdure.model.queue import Rate
from perdure.model.run import RunStatus
from tests.server.conftest import memory


def shop(url: str, **options: Any) -> Perdure:
    """An application with a few workflows, on a store or on a server."""
    app = Perdure(url, **options)

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def doubled(n: int) -> int:
        return await double(n)

    @app.workflow
    async def failing() -> None:
        raise ValueError("no tea")

    @app.workflow
    async def approved() -> str:
        flow.set("asked", "ada")
        return str(await flow.wait_for_event("answer", type="approval"))

    return app


@pytest.fixture
async def remote(serving):
    """A worker, a server beside it, and an application that knows only the server."""
    served = await serving(shop(memory()))
    async with shop(str(served.http.base_url)) as app:
        app.served = served
        yield app


async def test_a_run_is_started_and_its_result_told(remote):
    run = await remote.start(remote.registry.workflows["doubled"], 21, id="a/b %ü")
    assert await run.result(timeout=10) == 42
    assert (await run.status()).output == 42
    again = await remote.start("doubled", input={"n": 21}, id="a/b %ü")
    assert not again.is_new
    assert [record.key for record in await run.journal()] == ["input", "double", "output"]
