"""A shop's order, from the price to the thank-you mail a day later, as one function.

The worker that runs it may be killed at any line. What is done is done; another worker goes on from there.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from examples.orders.intake import Order, read_catalogue
from examples.orders.shop import OutOfStockError, Shop
from perdure import EventTimeoutError, NonRetryableError, Perdure, Retry, flow

STORE = os.environ.get("ORDERS_STORE", "sqlite:///orders.db")
PAYMENTS = os.environ.get("ORDERS_PAYMENTS", "http://127.0.0.1:8081")
PAY_WITHIN = os.environ.get("ORDERS_PAY_WITHIN", "10 minutes")
FOLLOW_UP = os.environ.get("ORDERS_FOLLOW_UP", "24 hours")

app = Perdure(STORE, mode="worker", lease=os.environ.get("ORDERS_LEASE", "15 seconds"))
shop = Shop(os.environ.get("ORDERS_SHOP", "shop.db"), read_catalogue())


@dataclass
class Charge:
    id: str
    cents: int


@dataclass
class Outcome:
    status: str
    reason: str = ""


@app.step
def price(order: Order) -> int:
    return sum(shop.catalogue[item.sku].cents * item.quantity for item in order.items)


@app.step(retry=Retry(attempts=6, delay="200ms"), timeout="20 seconds")
def charge(order: Order, cents: int) -> Charge:
    """May run twice, if a worker dies in it or an answer is lost; the key makes it one charge all the same."""
    body = {"order_id": order.id, "cents": cents, "card": order.card}
    answer = call_payments("/charges", body, {"Idempotency-Key": flow.idempotency_key()})
    return Charge(answer["id"], answer["cents"])


@app.step(retry=Retry(attempts=6, delay="200ms"), timeout="20 seconds")
def give_back(charge_id: str) -> str:
    return str(call_payments(f"/charges/{charge_id}/return", {}, {})["status"])


@app.step
def reserve(order: Order) -> None:
    shop.reserve(order.id, order.items)


@app.step
def mail(order: Order, subject: str, body: str) -> None:
    shop.mail(flow.idempotency_key(), order.customer.email, subject, body)


@app.workflow
async def fulfil(order: Order) -> Outcome:
    flow.set("stage", "charging")
    cents = await price(order)
    charged = await charge(order, cents)
    flow.set("stage", "paying")
    try:
        payment = await flow.wait_for_event("payment", type=f"payment.{charged.id}", timeout=PAY_WITHIN)
    except EventTimeoutError:
        return await cancel(order, charged, "payment timed out")
    if payment["type"] == "payment.failed":
        return await cancel(order, charged, "card declined")
    flow.set("stage", "packing")
    try:
        await reserve(order)
    except OutOfStockError:
        return await cancel(order, charged, "out of stock")
    await mail(order, f"Confirmed: {order.id}", f"Thank you for your order of {cents / 100:.2f}.")
    flow.set("stage", "follow-up")
    await flow.sleep(FOLLOW_UP)
    await mail(order, f"Thanks for {order.id}", f"How do you like it? https://shop.example/review/{order.id}")
    return Outcome("completed")


async def cancel(order: Order, charged: Charge, reason: str) -> Outcome:
    flow.set("stage", "cancelling")
    await give_back(charged.id)
    await mail(order, f"Cancelled: {order.id}", f"Your order was cancelled: {reason}. You have not been charged.")
    return Outcome("cancelled", reason)


def call_payments(path: str, body: dict[str, object], headers: dict[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(
        PAYMENTS + path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        with error:
            told = error.read().decode(errors="replace")
        if error.code < 500:
            raise NonRetryableError(f"the payment service refused {path}: {told}") from error
        raise
