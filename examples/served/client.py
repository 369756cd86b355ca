"""Places the first orders of `examples/orders/orders.jsonl`: python -m examples.served.client [how many]

It asks the server, and knows nothing of the shop's code. A server that does not answer is asked again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from typing import Any

import msgspec

from examples.orders.intake import HERE, Order, read_catalogue, read_orders
from perdure import Perdure, StoreError

AT_ONCE = 8


async def place(client: Perdure, order: Order) -> Any:
    """Start an order and wait for its end; under the order's id it is one run, however often it is started."""
    while True:
        try:
            run = await client.start("fulfil", input={"order": msgspec.to_builtins(order)}, id=order.id)
            return await run.result()
        except StoreError as error:
            print(f"{order.id}: {error}", file=sys.stderr)
            await asyncio.sleep(0.5)


async def main(count: int) -> None:
    lines = read_orders(HERE / "orders.jsonl", read_catalogue())
    orders = [line.order for line in lines if line.order is not None][:count]
    places, ended = asyncio.Semaphore(AT_ONCE), Counter[str]()

    async def placed(order: Order) -> None:
        async with places:
            outcome = await place(client, order)
        ended[outcome] += 1
        print(f"{order.id}: {outcome}", flush=True)

    async with Perdure(os.environ.get("SHOP_SERVER", "http://127.0.0.1:8000")) as client:
        await asyncio.gather(*map(placed, orders))
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(ended.items())))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
