"""How users write steps and workflows, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

import msgspec

from perdure import Perdure, Retry, Step, Workflow, flow

app = Perdure("memory://")


class Receipt(msgspec.Struct):
    cents: int


@app.step
async def charge(order_id: str, cents: int, *, note: str = "") -> Receipt:
    return Receipt(cents)


@app.step
def render(receipt: Receipt) -> bytes:
    return b""


@app.step(retry=Retry(attempts=5), timeout="30s")
async def reserve(count: int) -> str:
    return ""


@app.step(run_in="process")
def crunch(numbers: list[float]) -> float:
    return sum(numbers)


@app.step(tx=True)
async def book(order_id: str) -> int:
    await flow.transaction().execute("INSERT INTO orders VALUES ($1)", order_id)
    return 1


@app.step()
async def bare() -> None: ...


async def refund(cents: int, result: str) -> None: ...


@app.step(undo=refund)
async def pay(cents: int) -> str:
    return ""


@app.workflow(undo=bare)
async def paid_trip() -> str:
    async with flow.saga():
        assert_type(await pay(5), str)
        assert_type(await pay.options(undo=refund)(5), str)
        assert_type(await flow.do("pay", pay, 5, undo=refund), str)
    flow.pivot()
    return ""


@app.workflow
async def nightly(n: int | str) -> int:
    return 1


@app.workflow
async def checkout(order_id: str, cents: int = 5) -> Receipt:
    receipt = await charge(order_id, cents)
    assert_type(receipt, Receipt)
    assert_type(await render(receipt), bytes)
    assert_type(await reserve(1), str)
    assert_type(await crunch([1.0]), float)
    assert_type(await charge.options(timeout=5)("a", 1, note="x"), Receipt)
    assert_type(await book("a"), int)
    assert_type(await reserve.options(tx=True)(1), str)

    first, second = await asyncio.gather(charge("a", 1), reserve(2))
    assert_type(first, Receipt)
    assert_type(second, str)

    async with asyncio.TaskGroup() as group:
        assert_type(await group.create_task(charge("a", 1)), Receipt)
    assert_type(await asyncio.wait_for(reserve(1), 5), str)
    children = await asyncio.gather(nightly(1), nightly("a"))
    assert_type(children, tuple[int, int])

    await charge(1, 2)  # type: ignore[arg-type]  # the step's own signature is kept
    await charge("a", "b")  # type: ignore[arg-type]  # the same
    await charge("a")  # type: ignore[call-arg]  # the same
    await charge("a", 1, nota="x")  # type: ignore[call-arg]  # the same
    await render("text")  # type: ignore[arg-type]  # of a plain def, too
    await reserve("many")  # type: ignore[arg-type]  # of one with options, too
    await book(1)  # type: ignore[arg-type]  # of a transactional one, too
    await bare()
    return receipt


@app.workflow(name="parent", version="2")
async def parent() -> int:
    assert_type(await checkout("a", 1), Receipt)
    await checkout(5)  # type: ignore[arg-type]  # a child keeps its signature

    child = await flow.start(checkout, "a")
    assert_type(child, flow.Child[Receipt])
    assert_type(await child.result(), Receipt)
    assert_type(await (await flow.start(checkout, "a", id="c1", is_detached=True)).result(), Receipt)
    assert_type(await (await flow.start(checkout, "a", tags={"k": "v"})).result(), Receipt)
    await flow.start(checkout, 5)  # type: ignore[call-overload]  # also when it is started beside
    return 1


assert_type(charge.name, str)
assert_type(checkout.version, str)
steps: list[Step[..., Any]] = [charge, render, reserve, crunch]
workflows: list[Workflow[..., Any]] = [checkout, parent]


@app.workflow  # type: ignore[arg-type]  # a plain function is no workflow
def plain() -> int:
    return 1
