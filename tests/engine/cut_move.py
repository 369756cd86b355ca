"""A move in a process of its own, which kills itself in the middle: `cut_move.py SOURCE TARGET STAGE PAGE`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from perdure.engine.moving import Stage, move
from perdure.store import open_store


async def main(source_url: str, target_url: str, stage: str, page: int) -> None:
    source, target = open_store(source_url), open_store(target_url)
    await source.open()
    await target.open()
    pages = 0

    def told(at: Stage, done: int, total: int) -> None:
        nonlocal pages
        pages += at == stage
        if pages == page:
            os.kill(os.getpid(), signal.SIGKILL)

    await move(source, target, batch=3, told=told)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
