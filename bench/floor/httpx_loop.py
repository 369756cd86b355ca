"""A bare httpx loop that posts what messages carry, signed, with the headers of a delivery: see `bench.deliveries`.

It keeps nothing, tries nothing again, and has all it needs in memory. A line of JSON says how much of it to post.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator

import httpx
import uvloop

from bench.destination import body_of
from perdure.dispatch.messages.message import Message
from perdure.dispatch.messages.sending import request_headers
from perdure.dispatch.signing import HEADER, SigningKeys, sign

URL = os.environ["URL"]
KEYS = SigningKeys("c" * 40, "n" * 40)


async def post(client: httpx.AsyncClient, n: int, at: float) -> None:
    """Post one message."""
    body = body_of(n, at)
    message = Message(URL, headers=[("Content-Type", "application/json")])
    signature = sign(KEYS, URL, body, id=f"jwt_{n:032x}", now=time.time_ns() // 1_000_000, is_past=True)
    headers = [*request_headers(message, f"msg_{n:032x}", 0), (HEADER, signature)]
    answer = await client.post(URL, content=body, headers=headers)
    if answer.status_code != 200:
        raise RuntimeError(answer.text)


async def post_each(client: httpx.AsyncClient, numbers: Iterator[int], at: float) -> None:
    """Post messages one after the other; `at` is when they fell due, 0 for just now."""
    for n in numbers:
        await post(client, n, at or time.time())


async def main() -> None:
    """Post as often as we are told to, each time so much at once."""
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        print(json.dumps({"ready": True}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            numbers, at = iter(range(asked["first"], asked["first"] + asked["count"])), time.time()
            if asked["pace"]:
                await paced(client, numbers, asked["pace"])
            else:
                async with asyncio.TaskGroup() as group:
                    for _ in range(asked["at_once"]):
                        group.create_task(post_each(client, numbers, at))
            print(json.dumps({"began": at}), flush=True)


async def paced(client: httpx.AsyncClient, numbers: Iterator[int], pace: float) -> None:
    """Post so many a second."""
    due = time.time()
    async with asyncio.TaskGroup() as group:
        for n in numbers:
            due += 1 / pace
            await asyncio.sleep(max(0.0, due - time.time()))
            group.create_task(post(client, n, time.time()))


if __name__ == "__main__":
    uvloop.run(main())
