"""What deliveries are timed by: it takes in requests however they are cut, and waits for different messages."""

from __future__ import annotations

import asyncio
import time

import httpx

from bench import destination
from bench.destination import Arrivals, Connection, body_of


async def test_what_comes_is_counted_until_all_messages_have() -> None:
    arrivals, loop = Arrivals(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(arrivals), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    began = time.time()
    waiting = asyncio.ensure_future(arrivals.of(3))
    async with httpx.AsyncClient() as client:
        for n in (0, 1, 1, 1):
            assert (await client.post(url, content=body_of(n, began - 1))).text == "ok"
        assert not waiting.done()
        await client.post(url, content=body_of(2, began - 1))
        found = await waiting
        assert (found["arrived"], began <= found["last"] <= time.time()) == (5, True)
        assert 1_000 <= found["p50"] <= found["p95"] < 60_000
        await client.post(url, content=body_of(0, began))
        assert (await arrivals.of(1))["arrived"] == 1
    server.close()
    await server.wait_closed()


async def test_requests_may_come_in_any_parts() -> None:
    arrivals, loop = Arrivals(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(arrivals), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    body = body_of(1, 0.0)
    request = b"POST / HTTP/1.1\r\ncontent-LENGTH: %d\r\n\r\n" % len(body) + body
    for part in (request[:10], request[10:60], request[60:] + request, request[:-1], request[-1:]):
        writer.write(part)
        await writer.drain()
    for _ in range(3):
        assert await reader.readexactly(len(destination.ANSWER)) == destination.ANSWER
    assert (await arrivals.of(1))["arrived"] == 3
    writer.close()
    server.close()
    await server.wait_closed()
