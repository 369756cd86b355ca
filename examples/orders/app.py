"""A first look: `perdure dev examples/orders/app.py`, then open the dashboard and start `order` from its form.

It waits for its payment: send it the event `payment` from its page, with `{"by": "card"}`. Change a line here
meanwhile, or kill the worker: the run goes on from its last step. `fulfilment.py` is an order as a shop would have it.
"""

from typing import Any, Literal

from perdure import EventTimeoutError, Perdure, Retry, flow

CENTS = {"tea": 450, "cup": 1_250, "pot": 3_900}

app = Perdure()


@app.step
def price(item: str, quantity: int) -> int:
    return CENTS[item] * quantity


@app.step(retry=Retry(attempts=5, delay="1 second"))
async def reserve(item: str, quantity: int) -> str:
    if flow.attempt() == 1:  # it always takes a second attempt, so that you see one
        raise ConnectionError("the warehouse did not answer")
    return f"{quantity} x {item}, shelf 7"


@app.step
def send(customer: str, parcel: str) -> str:
    return f"{parcel}, on its way to {customer}"


@app.workflow
async def order(customer: str, item: Literal["tea", "cup", "pot"] = "tea", quantity: int = 1) -> dict[str, Any]:
    """Take an order: price it, reserve it, wait for the payment, and send it."""
    cents = await price(item, quantity)
    parcel = await reserve(item, quantity)
    flow.set("owes", cents)
    try:
        payment = await flow.wait_for_event("payment", type="payment", timeout="10 minutes")
    except EventTimeoutError:
        return {"status": "cancelled", "cents": 0}
    await flow.sleep("2 seconds")
    return {"status": await send(customer, parcel), "cents": cents, "paid by": payment["by"]}
