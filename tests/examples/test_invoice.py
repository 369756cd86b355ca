"""`examples/invoice`: from orders over HTTP to a PDF in somebody's mail, or to a voided entry."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pypdf
import pytest

from examples.invoice.app import DEFINITION, Accounts, Settings, make_app
from examples.invoice.outside import PostBox, Source, post_box, source
from examples.invoice.server import make_server
from perdure import Perdure, RunCompensatedError, RunFailedError, RunStatus, testing

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Shop:
    app: Perdure
    engine: testing.Engine
    accounts: Accounts
    orders: Source
    box: PostBox


@asynccontextmanager
async def shop(folder: Path, *, mail_port: int | None = None) -> AsyncIterator[Shop]:
    async with post_box() as box:
        with source() as orders:
            port = mail_port or box.port
            settings = Settings("memory://", str(folder / "accounts.db"), orders.url, "127.0.0.1", port)
            app = make_app(settings)
            async with testing.engine(app) as engine:
                await app.publish(DEFINITION)
                yield Shop(app, engine, Accounts(settings.accounts), orders, box)


async def test_an_invoice_arrives_as_a_pdf_that_says_what_was_ordered(tmp_path):
    async with shop(tmp_path) as the:
        run = await the.app.start("invoice", input={"customerId": "cust-01"})
        made = await the.engine.result(run)
        entries = the.accounts.listed()
    (mail,) = the.box.mails
    (attached,) = mail.iter_attachments()
    text = pypdf.PdfReader(io.BytesIO(attached.get_content())).pages[0].extract_text()
    assert (mail["To"], mail["From"]) == ("ada@example.org", "The Shop <shop@example.org>")
    assert mail["Subject"] == "Invoice R-00001"
    assert (attached.get_filename(), attached.get_content_type()) == ("invoice-R-00001.pdf", "application/pdf")
    for said in ("Invoice R-00001", "To Ada Lovelace", "Tea, a pound", "25.00", "Teapot", "39.99", "24.30", "89.29"):
        assert said in text, text
    assert made == {"number": "R-00001", "cents": 8_929, "message": mail["Message-ID"]}
    assert entries == [("R-00001", "cust-01", 8_929, "open")]
    assert the.orders.asked == 2, "the service was busy once"


async def test_mail_that_is_put_off_twice_arrives_once(tmp_path):
    async with shop(tmp_path) as the:
        run = await the.app.start("invoice", input={"customerId": "cust-02"})
        await the.engine.result(run)
        entries = the.accounts.listed()
    assert the.box.tries == {"bob@busy.example": 3}
    assert [mail["To"] for mail in the.box.mails] == ["bob@busy.example"]
    assert [status for *_, status in entries] == ["open"]


async def test_an_invoice_that_cannot_be_sent_is_voided(tmp_path):
    async with shop(tmp_path) as the:
        run = await the.app.start("invoice", input={"customerId": "cust-03"})
        with pytest.raises(RunCompensatedError, match="554 nobody here takes mail any more"):
            await the.engine.result(run)
        entries = the.accounts.listed()
        assert (await run.get()).status is RunStatus.COMPENSATED
    assert entries == [("R-00001", "cust-03", 8_929, "void")]
    assert the.box.tries == {"carl@closed.example": 1}, "what is refused for good is not tried again"
    assert the.box.mails == []


async def test_an_invoice_is_voided_where_nobody_takes_the_mail_at_all(tmp_path):
    async with post_box() as gone:
        pass
    async with shop(tmp_path, mail_port=gone.port) as the:
        run = await the.app.start("invoice", input={"customerId": "cust-01"})
        with pytest.raises(RunCompensatedError, match="step 'email.send' failed 4 times, at last with EmailError"):
            await the.engine.result(run)
        assert [status for *_, status in the.accounts.listed()] == ["void"]


async def test_a_customer_whom_nobody_knows_leaves_nothing_behind(tmp_path):
    async with shop(tmp_path) as the:
        run = await the.app.start("invoice", input={"customerId": "cust-99"})
        with pytest.raises(RunFailedError, match="no such customer"):
            await the.engine.result(run)
        assert the.accounts.listed() == []
        assert (await run.get()).status is RunStatus.ERRORED


async def test_nobody_gets_an_invoice_over_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.invoice.outside.ORDERS", [])
    async with shop(tmp_path) as the:
        run = await the.app.start("invoice", input={"customerId": "cust-01"})
        with pytest.raises(RunFailedError, match="there is nothing to invoice: Ada Lovelace has no orders"):
            await the.engine.result(run)
        assert the.accounts.listed() == []
    assert the.box.mails == []


async def test_an_entry_is_made_once_whoever_asks_again_and_how_often(tmp_path):
    accounts = Accounts(str(tmp_path / "accounts.db"))
    customer = {"id": "c", "name": "C", "email": "c@example.org"}
    made = [accounts.enter(key, customer, [{"title": "a", "quantity": 2, "cents": 3}]) for key in ("k", "k", "other")]
    assert [invoice.number for invoice in made] == ["R-00001", "R-00001", "R-00002"]
    for _ in range(2):
        accounts.void("R-00001")
    assert [(number, cents, status) for number, _, cents, status in accounts.listed()] == [
        ("R-00001", 6, "void"),
        ("R-00002", 6, "open"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("customer", "status", "arrives"), [("cust-01", "open", True), ("cust-03", "void", False)])
async def test_there_is_one_entry_and_it_is_right_wherever_the_worker_dies(tmp_path, customer, status, arrives):
    async with post_box() as box:
        with source() as orders:
            path = tmp_path / "accounts.db"
            app = make_app(Settings("memory://", str(path), orders.url, "127.0.0.1", box.port))

            async def body(engine: testing.Engine) -> None:
                path.unlink(missing_ok=True)
                accounts = Accounts(str(path))
                box.mails.clear()
                await app.publish(DEFINITION)
                run = await app.start("invoice", input={"customerId": customer})
                if arrives:
                    await engine.result(run)
                else:
                    with pytest.raises(RunCompensatedError):
                        await engine.result(run)
                assert accounts.listed() == [("R-00001", customer, 8_929, status)]
                assert len({mail["Message-ID"] for mail in box.mails}) == arrives, (
                    "a repeated mail can be told by its id"
                )

            assert await testing.crash_everywhere(app, body) > 10


@pytest.mark.slow
def test_the_whole_program_with_a_process_for_each_queue():
    ran = subprocess.run(
        [sys.executable, "-m", "examples.invoice"], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for said in (
        "cust-01 is complete: R-",
        "cust-02 is complete: R-",
        "cust-03 is compensated: 127.0.0.1 answered 554",
        "  ada@example.org: Invoice R-",
        "  bob@busy.example: Invoice R-",
    ):
        assert said in ran.stdout, ran.stdout
    accounts = [line.split() for line in ran.stdout.partition("accounts:\n")[2].splitlines()]
    assert sorted((customer, status) for _, customer, _, status in accounts) == [
        ("cust-01", "open"),
        ("cust-02", "open"),
        ("cust-03", "void"),
    ]


async def test_it_is_started_over_http(tmp_path):
    async with shop(tmp_path) as the:
        server = make_server(the.app)
        await server.state.server.open()
        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:3000") as http:
            answer = await http.post("/invoice/start", json={"customerId": "cust-01"}, headers={"Idempotency-Key": "k"})
            assert (answer.status_code, answer.json().keys()) == (201, {"id", "status"})
            again = await http.post("/invoice/start", json={"customerId": "cust-01"}, headers={"Idempotency-Key": "k"})
            assert again.json()["id"] == answer.json()["id"]
            for body in ({}, {"customerId": 7}, {"customer": "cust-01"}):
                assert (await http.post("/invoice/start", json=body)).status_code == 422
            huge = await http.post(
                "/invoice/start", content=b" " * 2_000_000, headers={"Content-Type": "application/json"}
            )
            assert huge.status_code == 413
        made = await the.engine.result(the.app.run(answer.json()["id"]))
        await server.state.server.close()
    assert made["number"] == "R-00001"
    assert [mail["Subject"] for mail in the.box.mails] == ["Invoice R-00001"]
