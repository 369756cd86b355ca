"""A worker: python -m examples.orders.worker"""

from __future__ import annotations

import asyncio

from examples.orders.fulfilment import app
from examples.orders.process import ready, wait_for_end


async def main() -> None:
    async with app:
        assert app.worker is not None
        ready(worker=app.worker.id)
        await asyncio.to_thread(wait_for_end)


if __name__ == "__main__":
    asyncio.run(main())
