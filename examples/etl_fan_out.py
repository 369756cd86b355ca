"""Daily sales of many shops, put together: `python examples/etl_fan_out.py`.

Each shop's file is a task of its own on the queue `extract`, so any number of workers share them, fifty at once. One in
ten may be unreadable without holding up the others. The sums are loaded in one transaction with the step's record.
"""

import asyncio
import contextlib
import csv
import sqlite3
import tempfile
from pathlib import Path

from perdure import ItemFailure, NonRetryableError, Perdure, Retry, flow

app = Perdure("sqlite:///sales.db", queues=("default", "extract"))

SHOPS = [f"shop-{number:02}" for number in range(1, 21)]


@app.task(queue="extract", retry=Retry(attempts=4, delay="100ms"))
def extract(path: str) -> dict[str, int]:
    """What a shop sold, in cents by product. May run again: it only reads."""
    sold: dict[str, int] = {}
    try:
        with Path(path).open(newline="") as file:
            for row in csv.DictReader(file):
                sold[row["product"]] = sold.get(row["product"], 0) + int(row["cents"])
    except (KeyError, ValueError) as error:
        raise NonRetryableError(f"{path} is no list of sales: {error}") from error
    return sold


@app.step
def transform(sold: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for shop in sold:
        for product, cents in shop.items():
            total[product] = total.get(product, 0) + cents
    return total


@app.step(tx=True)
def load(day: str, total: dict[str, int]) -> None:
    """These rows and the record that they are written are one transaction, so they are never there twice."""
    connection = flow.transaction()
    connection.execute("CREATE TABLE IF NOT EXISTS sales (day TEXT, product TEXT, cents INTEGER)")
    connection.executemany("INSERT INTO sales VALUES (?, ?, ?)", [(day, *row) for row in total.items()])


@app.workflow
async def daily_sales(day: str, paths: list[str]) -> dict[str, int]:
    found = await flow.map(extract, paths, limit=50, tolerate="10%")
    sold = [one for one in found if not isinstance(one, ItemFailure)]
    total = await transform(sold)
    await load(day, total)
    return {"shops": len(sold), "failed": len(found) - len(sold), "products": len(total)}


def write_files(folder: str) -> None:
    for number, shop in enumerate(SHOPS):
        lines = [f"{product},{100 * number + 5}" for product in ("tea", "cups", "pots")] * 50
        (Path(folder) / f"{shop}.csv").write_text("\n".join(["product,cents", *lines]))
    (Path(folder) / "shop-13.csv").write_text("product;price\npots;5\n")


async def main() -> None:
    write_files(".")
    async with app:
        paths = [str(path) for path in sorted(Path.cwd().glob("*.csv"))]
        run = await app.start(daily_sales, "2026-11-20", paths)
        print(await run.result(timeout="1 minute"))
    with contextlib.closing(sqlite3.connect("sales.db")) as database:
        for product, cents in database.execute("SELECT product, cents FROM sales ORDER BY product"):
            print(f"{product}: {cents / 100:.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        asyncio.run(main())
