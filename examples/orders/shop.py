"""The shop's own database: what is in stock, what is reserved, and the outbox of its mail.

Every write says for which order, or which step, it is done. Done a second time it changes nothing, which is what a step
that may run again needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from examples.orders.intake import Item, Product
from perdure import NonRetryableError

SCHEMA = """
CREATE TABLE IF NOT EXISTS reserved (order_id TEXT, sku TEXT, quantity INTEGER, PRIMARY KEY (order_id, sku));
CREATE TABLE IF NOT EXISTS outbox (key TEXT PRIMARY KEY, recipient TEXT, subject TEXT, body TEXT);
"""


class OutOfStockError(NonRetryableError):
    """Trying again does not fill the shelf."""


class Shop:
    def __init__(self, path: str, catalogue: dict[str, Product]) -> None:
        self.path = path
        self.catalogue = catalogue
        with self._transaction() as database:
            for statement in SCHEMA.strip().splitlines():
                database.execute(statement)

    def reserve(self, order_id: str, items: list[Item]) -> None:
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM reserved WHERE order_id = ?", (order_id,)).fetchone():
                return
            for item in items:
                taken = database.execute("SELECT total(quantity) FROM reserved WHERE sku = ?", (item.sku,)).fetchone()
                if taken[0] + item.quantity > self.catalogue[item.sku].stock:
                    raise OutOfStockError(f"{self.catalogue[item.sku].title} is sold out")
                database.execute("INSERT INTO reserved VALUES (?, ?, ?)", (order_id, item.sku, item.quantity))

    def mail(self, key: str, recipient: str, subject: str, body: str) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?)", (key, recipient, subject, body))

    def mails(self) -> dict[str, int]:
        """How many mails there are, by their subject's first word."""
        with self._transaction() as database:
            found = database.execute(
                "SELECT substr(subject, 1, instr(subject, ' ') - 1), count(*) FROM outbox GROUP BY 1"
            )
            return dict(found.fetchall())

    def oversold(self) -> list[str]:
        with self._transaction() as database:
            taken = database.execute("SELECT sku, sum(quantity) FROM reserved GROUP BY sku").fetchall()
        return [sku for sku, quantity in taken if quantity > self.catalogue[sku].stock]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        finally:
            database.close()  # an open transaction is rolled back
