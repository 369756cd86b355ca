"""The pieces of `examples/orders`, without processes."""

from __future__ import annotations

import pytest

from examples.orders.intake import HERE, Item, Product, read_catalogue, read_orders
from examples.orders.payments import Ledger
from examples.orders.shop import OutOfStockError, Shop

CATALOGUE = {"A": Product("a", 100, 3), "B": Product("b", 5, 1)}


def test_the_file_has_bad_lines_of_many_kinds_and_none_stops_the_rest():
    catalogue = read_catalogue()
    lines = list(read_orders(HERE / "orders.jsonl", catalogue))
    bad = [line for line in lines if line.order is None]
    assert [line.number for line in lines] == list(range(1, 301))
    assert len(bad) == 19
    assert {line.reason.partition(": ")[0] for line in bad} == {
        "empty line",
        "missing field",
        "no JSON",
        "ordered before",
        "unknown SKU",
        "wrong type",
        "wrong value",
    }
    assert len({line.order.id for line in lines if line.order is not None}) == 281


def test_bytes_that_are_no_text_are_one_bad_line(tmp_path):
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    assert [line.reason.partition(": ")[0] for line in read_orders(path, CATALOGUE)] == ["no JSON"]


def test_what_is_reserved_twice_is_reserved_once(tmp_path):
    shop = Shop(str(tmp_path / "shop.db"), CATALOGUE)
    for _ in range(3):
        shop.reserve("one", [Item("A", 2), Item("B", 1)])
    shop.reserve("two", [Item("A", 1)])
    with pytest.raises(OutOfStockError, match="a is sold out"):
        shop.reserve("three", [Item("A", 1)])
    assert shop.oversold() == []


def test_an_order_is_reserved_whole_or_not_at_all(tmp_path):
    shop = Shop(str(tmp_path / "shop.db"), CATALOGUE)
    with pytest.raises(OutOfStockError):
        shop.reserve("one", [Item("A", 1), Item("B", 2)])
    shop.reserve("two", [Item("A", 3)])


def test_a_mail_of_one_key_is_one_mail(tmp_path):
    shop = Shop(str(tmp_path / "shop.db"), CATALOGUE)
    for key in ("k1", "k1", "k2"):
        shop.mail(key, "a@b", "Confirmed: x", "body")
    assert shop.mails() == {"Confirmed:": 2}


def test_one_key_is_one_charge_and_money_goes_back_once():
    ledger = Ledger("http://127.0.0.1:1")
    body = {"order_id": "ord-1", "cents": 100, "card": "tok_abandoned"}
    answers = [ledger.charge("ord-1:charge", dict(body)) for _ in range(3)]
    made = [answer for status, answer in answers if status == 201]
    assert len(made) >= 2
    assert len({answer["id"] for answer in made}) == 1
    assert ledger.charge("ord-1:charge", {**body, "cents": 7})[0] == 409
    assert [ledger.give_back(made[0]["id"])[1]["status"] for _ in range(2)] == ["voided", "voided"]
    assert ledger.give_back("nothing")[0] == 404
    report = ledger.report()
    assert report["charge_requests"] == 4
    assert [charge["status"] for charge in report["charges"]] == ["voided"]
