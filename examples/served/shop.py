"""A shop's web service, with the workflow of its orders: a Perdure server pushes them here.

uvicorn examples.served.shop:api --port 8001
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from examples.orders.intake import Order, read_catalogue
from examples.orders.shop import OutOfStockError, Shop
from examples.served.payments import Payments
from perdure import Perdure, flow, serve

app = Perdure(os.environ.get("SHOP_SERVER", "http://127.0.0.1:8000"), mode="serve")
shop = Shop("shop.db", read_catalogue())
payments = Payments("payments.db")


@app.step
def price(order: Order) -> int:
    return sum(shop.catalogue[item.sku].cents * item.quantity for item in order.items)


@app.step
def charge(order: Order, cents: int) -> str:
    """May run twice, if a process dies in it or an answer is lost; the key makes it one charge all the same."""
    return payments.charge(flow.idempotency_key(), order.id, cents)


@app.step
def give_back(charge_id: str) -> None:
    payments.give_back(charge_id)


@app.step
def reserve(order: Order) -> None:
    shop.reserve(order.id, order.items)


@app.step
def mail(order: Order, subject: str, body: str) -> None:
    shop.mail(flow.idempotency_key(), order.customer.email, subject, body)


@app.workflow
async def fulfil(order: Order) -> str:
    cents = await price(order)
    charge_id = await charge(order, cents)
    try:
        await reserve(order)
    except OutOfStockError:
        await give_back(charge_id)
        await mail(order, f"Cancelled: {order.id}", "We are out of stock, and have given your money back.")
        return "cancelled"
    await mail(order, f"Confirmed: {order.id}", f"Thank you for your order of {cents / 100:.2f}.")
    await flow.sleep("2 seconds")  # days, in a shop: nothing waits for it meanwhile
    await mail(order, f"Thanks for {order.id}", "How do you like it?")
    return "completed"


workflows = serve.asgi(app)


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    yield
    await workflows.close()


api = FastAPI(lifespan=lifespan)
api.mount("/workflows", workflows)


@api.get("/catalogue")
def catalogue() -> dict[str, int]:
    """The rest of the web service: what there is to buy, and for how many cents."""
    return {sku: product.cents for sku, product in shop.catalogue.items()}
