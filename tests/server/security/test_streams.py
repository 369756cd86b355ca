"""Streams that are open when somebody may watch no longer."""

from __future__ import annotations

import asyncio

import pytest

from perdure.server import live
from perdure.server.security import remembered
from tests.server.conftest import Serve


@pytest.mark.parametrize("is_session", [False, True])
async def test_a_stream_ends_soon_after_its_key(serving: Serve, monkeypatch, is_session):
    monkeypatch.setattr(live, "RECHECK", 0.05)
    monkeypatch.setattr(remembered, "REMEMBERED", 50)
    served = await serving()
    authenticator = served.server.authenticator
    made = await authenticator.keys.create("ada", "viewer", ["default"])
    served.app.world.ahead += 2_001
    headers = {"Authorization": f"Bearer {made.token}"}
    if is_session:
        headers = {"Cookie": f"perdure={await authenticator.sessions.begin(made.key.id)}"}
    async with asyncio.timeout(10), served.http.stream("GET", "/api/v1/watch", headers=headers) as answer:
        parts = answer.aiter_raw()
        assert b"retry" in await anext(parts)
        await authenticator.keys.revoke(made.key.id)
        async for _ in parts:
            pass
    assert (await served.http.get("/api/v1/runs", headers=headers)).status_code == 401


def test_what_is_waited_for_is_less_than_five_seconds():
    assert live.RECHECK + remembered.REMEMBERED / 1000 <= 5
