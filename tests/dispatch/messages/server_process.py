"""What a test kills: a process that delivers the messages of a store, with leases that end soon."""

from __future__ import annotations

import asyncio
import sys

from perdure import Perdure
from perdure.dispatch.dispatcher import Dispatcher

LEASE = 1


async def main(store: str) -> None:
    assert Perdure.__init__.__kwdefaults__ is not None
    Perdure.__init__.__kwdefaults__["lease"] = LEASE
    async with Perdure(store, mode="client") as app:
        await Dispatcher(app, "default").open()
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
