"""A worker for some of the queues: python -m examples.invoice.worker default mail"""

from __future__ import annotations

import asyncio
import sys

from examples.invoice.app import QUEUES, Settings, make_app


async def main(queues: list[str]) -> None:
    async with make_app(Settings.from_environment(), queues or QUEUES):
        await asyncio.to_thread(sys.stdin.read)  # until Ctrl-D, or until whoever started it is gone


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
