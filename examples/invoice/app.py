"""The tasks that `invoice.yaml` calls, and the workers that run them.

`orders.request` is `http.request` made for one server; `invoice.create` and `invoice.void` are this application's own;
`pdf.render` and `email.send` come along, with the settings of this application.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from perdure import NonRetryableError, Perdure, flow
from perdure.tasks import MailServer, email_send_task, http_request_task, pdf_render_task

HERE = Path(__file__).parent
DEFINITION = HERE / "invoice.yaml"
QUEUES = ("default", "pdf", "mail")


@dataclass(frozen=True)
class Settings:
    """Where everything is."""

    store: str
    accounts: str
    source: str
    mail_host: str
    mail_port: int

    @classmethod
    def from_environment(cls) -> Settings:
        """How a worker in a process of its own learns it."""
        about = os.environ
        return cls(
            about.get("INVOICE_STORE", "sqlite:///invoice.db"),
            about.get("INVOICE_ACCOUNTS", "accounts.db"),
            about.get("INVOICE_SOURCE", "http://127.0.0.1:8081"),
            about.get("INVOICE_MAIL_HOST", "127.0.0.1"),
            int(about.get("INVOICE_MAIL_PORT", "8025")),
        )


class Customer(TypedDict):
    id: str
    name: str
    email: str


class Order(TypedDict):
    title: str
    quantity: int
    cents: int


@dataclass
class Invoice:
    number: str
    customer: str
    lines: list[Order]
    cents: int


class Accounts:
    """The invoices, in a database of their own. Each write may be repeated: a second time it changes nothing."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self._transaction() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS invoices "
                "(number INTEGER PRIMARY KEY, key TEXT UNIQUE, customer TEXT, cents INTEGER, status TEXT)"
            )

    def enter(self, key: str, customer: Customer, orders: list[Order]) -> Invoice:
        cents = sum(order["cents"] * order["quantity"] for order in orders)
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO invoices (key, customer, cents, status) VALUES (?, ?, ?, 'open')",
                (key, customer["id"], cents),
            )
            (number,) = database.execute("SELECT number FROM invoices WHERE key = ?", (key,)).fetchone()
        lines: list[Order] = [{**order, "cents": order["cents"] * order["quantity"]} for order in orders]
        return Invoice(f"R-{number:05}", customer["name"], lines, cents)

    def void(self, number: str) -> None:
        with self._transaction() as database:
            database.execute("UPDATE invoices SET status = 'void' WHERE number = ?", (int(number.removeprefix("R-")),))

    def listed(self) -> list[tuple[str, str, int, str]]:
        """Number, customer, cents and status of each invoice."""
        with self._transaction() as database:
            return [
                (f"R-{number:05}", customer, cents, status)
                for number, customer, cents, status in database.execute(
                    "SELECT number, customer, cents, status FROM invoices ORDER BY number"
                )
            ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            yield database


def make_app(settings: Settings, queues: Sequence[str] = QUEUES, mode: Literal["all", "client"] = "all") -> Perdure:
    """An engine with every task; its worker serves these queues."""
    app = Perdure(settings.store, queues=queues, mode=mode)
    accounts = Accounts(settings.accounts)

    @app.task(name="invoice.create")
    def create(customer: Customer, orders: list[Order]) -> Invoice:
        if not orders:
            raise NonRetryableError(f"there is nothing to invoice: {customer['name']} has no orders")
        return accounts.enter(flow.idempotency_key(), customer, orders)

    @app.task(name="invoice.void")
    def void(number: str) -> None:
        accounts.void(number)

    app.add(
        http_request_task(name="orders.request", base_url=settings.source),
        pdf_render_task(templates=HERE / "templates", queue="pdf"),
        email_send_task(
            MailServer(settings.mail_host, settings.mail_port, tls="none", sender="The Shop <shop@example.org>"),
            queue="mail",
        ),
    )
    return app
