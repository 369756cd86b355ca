"""All of it behind HTTP: python -m examples.invoice.server

Perdure's server, its dashboard too, with one path of this application's own:

    curl -X POST http://localhost:3000/invoice/start -H "Content-Type: application/json" -d '{"customerId": "cust-01"}'
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import ExitStack
from typing import Annotated

from fastapi import FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field

from examples.invoice.__main__ import worker
from examples.invoice.app import DEFINITION, QUEUES, Settings, make_app
from examples.invoice.outside import post_box, source
from perdure import Dedup, Perdure
from perdure.server import ServerSettings, create_server
from perdure.server.access import Operator
from perdure.server.listening import Listener
from perdure.server.routing import router

PORT = 3000

routes = router("invoices")


class InvoiceBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    customerId: str = Field(min_length=1, max_length=100)  # as callers know it


class Started(BaseModel):
    id: str
    status: str


@routes.post("/invoice/start", operation_id="start_invoice", status_code=201)
async def start_invoice(
    access: Operator,
    body: InvoiceBody,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=100)] = None,
) -> Started:
    """Start an invoice for a customer; a second request with the same key finds the first one."""
    dedup = None if key is None else Dedup(key, within="1 day")
    run = await access.app.start("invoice", input={"customerId": body.customerId}, dedup=dedup)
    return Started(id=run.id, status=(await run.get()).status.value)


def make_server(app: Perdure) -> FastAPI:
    """The server over an open engine; what it asks of who asks, and its bounds, hold for our own path too."""
    server = create_server(ServerSettings(store=app.url, port=PORT), {"default": app})
    server.router.routes.extend(routes.routes)
    return server


async def main() -> None:
    with ExitStack() as stack, source() as orders:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        async with post_box() as box:
            settings = Settings(
                f"sqlite:///{folder}/invoice.db", f"{folder}/accounts.db", orders.url, "127.0.0.1", box.port
            )
            async with make_app(settings, mode="client") as app:
                await app.publish(DEFINITION)
                for queue in QUEUES:
                    stack.enter_context(worker(queue, settings))
                await Listener(make_server(app), print).work()  # until Ctrl-C


if __name__ == "__main__":
    asyncio.run(main())
