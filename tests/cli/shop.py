"""An application for the tests of the command line: in this process, and as `shop.py:app` in a worker's."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from perdure import NonRetryableError, Perdure, Retry, flow


@dataclass
class Order:
    number: int
    customer: str = "ada"


def folder() -> Path:
    """Where steps leave signs of what they did, and look for what they may do."""
    return Path(os.environ["SHOP_FOLDER"])


def note(line: str) -> None:
    with (folder() / "effects.txt").open("a", encoding="utf-8") as effects:
        effects.write(f"{line}\n")


def make_app(url: str) -> Perdure:
    app = Perdure(url, lease=os.environ.get("SHOP_LEASE", "15s"))

    @app.step
    async def reserve(number: int) -> dict[str, int]:
        return {"reserved": number}

    @app.step(retry=Retry(attempts=2, delay=0.001, jitter=0))
    async def charge(number: int) -> str:
        if flow.attempt() < 2:
            raise ConnectionError("the [red]bank[/red] does not\x1b[2J answer")
        return f"payment-{number}"

    @app.workflow
    async def parcel(number: int) -> str:
        return f"parcel-{number}"

    @app.workflow
    async def order(order: Order) -> dict[str, str]:
        flow.set("stage", "charging")
        await reserve(order.number)
        payment = await charge(order.number)
        approval = await flow.wait_for_event("approval", type="approved", timeout="2 days")
        return {"payment": payment, "parcel": await parcel(order.number), "by": approval["by"]}

    @app.step
    async def refuse() -> None:
        raise NonRetryableError("no such card")

    @app.workflow
    async def broken() -> None:
        await refuse()

    @app.workflow
    async def nap(seconds: float) -> None:
        await flow.sleep(seconds, name="nap")

    @app.workflow(queue="mail")
    async def letter() -> str:
        return "sent"

    @app.step
    async def hold() -> str:
        note("hold begins")
        while not (folder() / "go").exists():
            await asyncio.sleep(0.01)
        note("hold ends")
        return "held"

    @app.step
    async def after() -> str:
        note("after")
        return "done"

    @app.workflow
    async def held() -> str:
        return f"{await hold()}, {await after()}"

    @app.step
    def stubborn() -> None:
        note("stubborn begins")
        time.sleep(600)  # in one call, so that nothing but the end of the process ends it

    @app.workflow
    async def stuck() -> None:
        await stubborn()

    return app


app = make_app(os.environ.get("SHOP_STORE", "memory://"))
