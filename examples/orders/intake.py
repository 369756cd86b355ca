"""Orders as they come in: a file of JSON lines, good ones and bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

HERE = Path(__file__).parent


class Product(msgspec.Struct, frozen=True):
    title: str
    cents: int
    stock: int


class Item(msgspec.Struct, frozen=True):
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=99)]


class Customer(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    email: str


class Order(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^ord-[0-9]+$")]
    placed_at: str
    customer: Customer
    items: Annotated[list[Item], msgspec.Meta(min_length=1)]
    card: str


class Line(NamedTuple):
    """A line of the file: an order, or the reason why it is none."""

    number: int
    order: Order | None
    reason: str = ""


def read_catalogue() -> dict[str, Product]:
    return msgspec.json.decode((HERE / "catalogue.json").read_bytes(), type=dict[str, Product])


def read_orders(path: Path, catalogue: dict[str, Product]) -> Iterator[Line]:
    """Every line of a file, in order; a bad one stops nothing."""
    seen: dict[str, int] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            order = _order(text, catalogue, seen)
        except ValueError as error:
            yield Line(number, None, str(error))
        else:
            seen[order.id] = number
            yield Line(number, order)


def _order(text: str, catalogue: dict[str, Product], seen: dict[str, int]) -> Order:
    if not text.strip():
        raise ValueError("empty line")
    try:
        order = msgspec.convert(json.loads(text), Order)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at column {error.colno}") from None
    except msgspec.ValidationError as error:
        raise ValueError(_told(str(error))) from None
    if "@" not in order.customer.email:
        raise ValueError(f"wrong value: customer.email is {order.customer.email!r}")
    if unknown := [item.sku for item in order.items if item.sku not in catalogue]:
        raise ValueError(f"unknown SKU: {unknown[0]}")
    if order.id in seen:
        raise ValueError(f"ordered before: {order.id} stands in line {seen[order.id]}")
    return order


def _told(error: str) -> str:
    """What msgspec found, the kind of mistake first."""
    what, _, path = error.replace("`", "").partition(" - at ")
    where = path.removeprefix("$").removeprefix(".")
    if "missing required field" in what:
        return f"missing field: {where}{'.' if where else ''}{what.rpartition(' ')[2]}"
    return f"{'wrong type' if ', got ' in what else 'wrong value'}: {where or 'order'}, {what[0].lower()}{what[1:]}"
