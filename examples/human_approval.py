"""An expense that waits for a person: `python examples/human_approval.py`.

The run waits for its event for up to three days, and costs nothing meanwhile: no thread, no memory, no worker. Here the
answer comes at once; the process may as well end in between.
"""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass

from perdure import EventTimeoutError, Perdure, flow

app = Perdure("sqlite:///approval.db")


@dataclass
class Expense:
    who: str
    cents: int


@dataclass
class Answer:
    by: str
    is_approved: bool


@app.step
def ask(manager: str, expense: Expense) -> None:
    print(f"to {manager}: {expense.who} asks for {expense.cents / 100:.2f}")


@app.step
def pay(expense: Expense) -> str:
    return f"paid under {flow.idempotency_key()}"


@app.workflow
async def approve(expense: Expense) -> str:
    if expense.cents <= 5_000:
        return await pay(expense)
    for manager in ("team lead", "head of finance"):
        await ask(manager, expense)
        try:
            answer = await flow.wait_for_event(manager, type="answer", timeout="3 days", into=Answer)
        except EventTimeoutError:
            continue  # the next one is asked
        return await pay(expense) if answer.is_approved else f"refused by {answer.by}"
    return "nobody answered"


async def main() -> None:
    async with app:
        small = await app.start(approve, Expense("ada", 1_200), id="small")
        large = await app.start(approve, Expense("bob", 90_000), id="large")
        refused = await app.start(approve, Expense("eve", 9_000_000), id="refused")
        await app.run("large").send_event("answer", Answer("tina", True))
        await app.run("refused").send_event("answer", Answer("tina", False))
        for run in (small, large, refused):
            print(f"{run.id}: {await run.result(timeout='1 minute')}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        asyncio.run(main())
