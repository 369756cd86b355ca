"""All of it at once: python -m examples.invoice

A service with orders, a mail server, and a worker process for each queue; then an invoice for each of three customers.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from examples.invoice.app import DEFINITION, QUEUES, Accounts, Settings, make_app
from examples.invoice.outside import CUSTOMERS, PostBox, post_box, source
from perdure import Perdure, RunFailedError


@contextmanager
def worker(queue: str, settings: Settings) -> Iterator[None]:
    about = {
        "INVOICE_STORE": settings.store,
        "INVOICE_ACCOUNTS": settings.accounts,
        "INVOICE_SOURCE": settings.source,
        "INVOICE_MAIL_HOST": settings.mail_host,
        "INVOICE_MAIL_PORT": str(settings.mail_port),
    }
    command = [sys.executable, "-m", "examples.invoice.worker", queue]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **about}) as process:
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which ends it


async def invoice(app: Perdure, customer: str) -> str:
    run = await app.start("invoice", input={"customerId": customer}, id=f"invoice-{customer}")
    try:
        made = await run.result(timeout="1 minute")
    except RunFailedError as error:
        said = str(error.__cause__).rpartition(": ")[2]
        return f"{(await run.get()).status.value}: {said}"
    return f"{(await run.get()).status.value}: {made['number']} over {made['cents'] / 100:.2f}"


def told(box: PostBox) -> Iterator[str]:
    for mail in box.mails:
        (attached,) = mail.iter_attachments()
        pdf = attached.get_content()
        yield f"  {mail['To']}: {mail['Subject']}, {attached.get_filename()} ({len(pdf):,} bytes)"


async def main() -> None:
    with ExitStack() as stack, source() as orders:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        async with post_box() as box:
            settings = Settings(
                f"sqlite:///{folder}/invoice.db", f"{folder}/accounts.db", orders.url, "127.0.0.1", box.port
            )
            app = make_app(settings, mode="client")
            async with app:
                await app.publish(DEFINITION)
                for queue in QUEUES:
                    stack.enter_context(worker(queue, settings))
                ends = await asyncio.gather(*(invoice(app, customer) for customer in CUSTOMERS))
            for customer, end in zip(CUSTOMERS, ends, strict=True):
                print(f"{customer} is {end}")
            print("mail that has arrived:", *told(box), sep="\n")
            print("accounts:")
            for number, customer, cents, status in Accounts(settings.accounts).listed():
                print(f"  {number} {customer} {cents / 100:9.2f} {status}")


if __name__ == "__main__":
    asyncio.run(main())
