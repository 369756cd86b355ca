"""Streams that are open when somebody may watch no longer."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure, flow
from perdure.server import live
from perdure.server.security import remembered
from tests.server.conftest import Serve, memory


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


WAIT = "/api/v1/store/wait"


async def waiting_for(count: int) -> None:
    """Return as soon as so many requests wait for something to end or to change."""
    async with asyncio.timeout(5):
        while sum("wait_for_end" in name or "Hearing.wait" in name for name in map(str, asyncio.all_tasks())) < count:
            await asyncio.sleep(0.005)


@pytest.fixture
def worker() -> Perdure:
    app = Perdure(memory())

    @app.workflow
    async def order() -> str:
        return await flow.wait_for_event("go", type="go", timeout="1 hour")

    return app


async def test_a_long_poll_tells_nothing_to_a_key_that_was_revoked_meanwhile(keyed, worker):
    keyed = await keyed(worker)
    run = await worker.start("order", id="a")
    result = asyncio.create_task(keyed.ask("viewer", "GET", "/api/v1/runs/a/result?wait=30"))
    await waiting_for(1)
    while (await run.get()).status.value != "waiting":
        await asyncio.sleep(0.005)
    last: dict[str, str] = {"last": ""}
    while (now := (await keyed.ask("viewer", "POST", WAIT, json={**last, "timeout": 0.2})).json()) != last:
        last = now
    wait = asyncio.create_task(keyed.ask("viewer", "POST", WAIT, json={**last, "timeout": 20}))
    await waiting_for(2)
    await keyed.served.server.authenticator.keys.revoke(keyed.keys["viewer"].key.id)
    await run.send_event("go", "canary")
    keyed.served.server.hearing("default").changed()
    for answer in await asyncio.gather(result, wait):
        assert answer.status_code == 401
        assert "canary" not in answer.text


async def test_one_key_has_so_many_streams_and_long_polls_and_others_have_theirs(keyed, worker):
    keyed = await keyed(worker, streams_per_key=3)
    await worker.start("order", id="a")
    polls = [asyncio.create_task(keyed.ask("viewer", "GET", "/api/v1/runs/a/result?wait=30")) for _ in range(30)]
    await waiting_for(3)
    async with asyncio.timeout(5):
        while sum(poll.done() for poll in polls) < 27:
            await asyncio.sleep(0.005)
    for answer in (poll.result() for poll in polls if poll.done()):
        assert (answer.status_code, answer.json()["type"]) == (429, "urn:perdure:error:too-many-streams")
        assert answer.headers["retry-after"] == "10"
        assert "streams_per_key" in answer.json()["detail"]
    browser = await keyed.log_in("viewer")
    for asked in (
        keyed.ask("viewer", "GET", "/api/v1/watch"),
        keyed.ask("viewer", "GET", "/api/v1/runs/a/watch"),
        keyed.ask("viewer", "POST", WAIT, json={"timeout": 20, "last": ""}),
        browser.ask("GET", "/api/v1/watch"),  # a session has what its key has
    ):
        assert (await asked).status_code == 429
    for role in ("viewer", "operator"):
        assert (await keyed.ask(role, "GET", "/api/v1/runs/a")).status_code == 200
    other = asyncio.create_task(keyed.ask("operator", "GET", "/api/v1/runs/a/result?wait=30"))
    await waiting_for(4)
    waiting = [poll for poll in polls if not poll.done()]
    await worker.run("a").send_event("go", "done")
    assert [answer.status_code for answer in await asyncio.gather(other, *waiting)] == [200] * 4
    assert not keyed.served.server.streams._open


async def test_a_stream_gives_its_place_back_when_its_client_goes(serving: Serve):
    served = await serving(streams_per_key=1)
    made = await served.server.authenticator.keys.create("ada", "viewer", ["default"])
    served.app.world.ahead += 2_001
    headers = {"Authorization": f"Bearer {made.token}"}
    async with served.http.stream("GET", "/api/v1/watch", headers=headers) as answer:
        assert b"retry" in await anext(answer.aiter_raw())
        assert (await served.http.get("/api/v1/watch", headers=headers)).status_code == 429
    async with asyncio.timeout(5):
        while served.server.streams._open:
            await asyncio.sleep(0.005)
    async with served.http.stream("GET", "/api/v1/watch", headers=headers) as answer:
        assert answer.status_code == 200


async def test_streams_that_are_opened_at_once_are_counted_too(serving: Serve):
    served = await serving(streams_per_key=3)
    made = await served.server.authenticator.keys.create("ada", "viewer", ["default"])
    served.app.world.ahead += 2_001
    url = served.http.base_url
    head = f"GET /api/v1/watch HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {made.token}\r\n\r\n".encode()

    async def begin() -> tuple[asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head)
        return writer, (await reader.readuntil(b"\r\n"))[9:12]

    opened = await asyncio.gather(*(begin() for _ in range(30)))
    assert sorted(status for _, status in opened) == [b"200"] * 3 + [b"429"] * 27
    for writer, _ in opened:
        writer.close()
