"""`perdure demo`: a shop's orders go through real processes, one of which is killed, and everything adds up."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from perdure.cli.demo_account import Killed, Rejected, Summary, summarize
from perdure.cli.demo_processes import Ledger, Process, Shop, find_root, load
from perdure.cli.demo_screen import Screen, View, WorkerView
from perdure.engine.app import Perdure
from perdure.model import codec
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus

WORKERS = 2
ORDERS_PER_SECOND = 40
LOOK_EVERY = 0.15
"""Seconds between two looks at the runs."""

END_WITHIN = 60.0
"""Seconds after which the demo gives up waiting."""


def demo(
    orders: Annotated[
        Path | None, typer.Option(help="A file of orders, one JSON object on a line; the example's by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the sums as one JSON document and nothing else.")
    ] = False,
) -> None:
    """Run a shop's orders through two workers, kill one of them, and account for every order."""
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    is_kept = False
    try:
        root = find_root()
        path = orders or root / "examples" / "orders" / "orders.jsonl"
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        summary = asyncio.run(Demo(root, path, folder, Screen(console, is_quiet=as_json)).run())
        is_kept = not summary.is_ok
    except UsageError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    elif is_kept:
        console.print(f"The demo's files are kept in {folder}")
    raise typer.Exit(1 if is_kept else 0)


class Demo:
    """One run of the demo.

    Args:
        root: the checkout.
        path: the file of orders.
        folder: where the demo's files go.
        screen: where it is shown.
    """

    def __init__(self, root: Path, path: Path, folder: Path, screen: Screen) -> None:
        self._intake: Any = load(root, "intake")
        self._stock: Any = load(root, "shop")
        self._path = path
        self._screen = screen
        self._shop = Shop(root, folder)
        self._client = Perdure(self._shop.url, mode="client")
        self._began = time.monotonic()
        self._view = View()
        self._killed = Killed()
        self._killed_at = 0.0
        self._victim: Process | None = None
        self._ledger = Ledger()
        self._problems: list[str] = []

    async def run(self) -> Summary:
        """Do everything, and return the sums."""
        catalogue = self._intake.read_catalogue()
        lines = list(self._intake.read_orders(self._path, catalogue))
        orders = {line.order.id: line.order for line in lines if line.order is not None}
        rejected = [Rejected(line.number, line.reason) for line in lines if line.order is None]
        cents = {
            order.id: sum(catalogue[item.sku].cents * item.quantity for item in order.items)
            for order in orders.values()
        }
        self._screen.intake(len(lines), rejected, self._path.name)
        self._view.total = len(orders)
        try:
            with self._screen:
                self._screen.show(self._view)
                async with self._client:
                    await self._shop.open(WORKERS)
                    self._view.seconds = time.monotonic() - self._began
                    self._screen.event(f"{WORKERS} workers and a payment service are at work on one SQLite file")
                    self._screen.event("a day lasts 1.5 s here, and a worker that is silent for 2 s counts as dead")
                    runs = await self._watch(orders)
                    ledger = await self._shop.ledger()
                seconds = time.monotonic() - self._began
                stock = self._stock.Shop(str(self._shop.database), catalogue)
                summary = summarize(len(lines), rejected, cents, runs, ledger, stock, self._killed, seconds)
                summary.problems[:0] = self._problems
                summary.is_ok = not summary.problems
                self._screen.end(summary)
                return summary
        finally:
            await self._shop.close()

    async def _watch(self, orders: Mapping[str, Any]) -> dict[str, Run]:
        """Let the orders come in, look at their runs until all have ended, and kill a worker on the way."""
        arriving = asyncio.create_task(self._arrive(orders))
        runs: dict[str, Run] = {}
        asking = asyncio.create_task(self._ask_ledger())
        try:
            async with asyncio.timeout(END_WITHIN):
                while True:
                    runs = await self._look(list(orders))
                    done = sum(run.status.is_finished for run in runs.values())
                    if self._victim is None and done * 2 >= len(orders):
                        await self._kill(runs)
                    elif self._victim is not None:
                        self._count_takeovers(runs)
                    if arriving.done():
                        arriving.result()  # what it failed with ends the demo
                        if done == len(orders):
                            break
                    self._note_deaths()
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            self._problems.append(f"not all runs have ended within {END_WITHIN:.0f} s")
        finally:
            arriving.cancel()
            asking.cancel()
            await asyncio.gather(arriving, asking, return_exceptions=True)
        return runs

    async def _arrive(self, orders: Mapping[str, Any]) -> None:
        """Start one run for each order, under the order's id."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, (order_id, order) in enumerate(orders.items()):
            await asyncio.sleep(max(0.0, began + number / ORDERS_PER_SECOND - loop.time()))
            await self._client.start("fulfil", input={"order": msgspec.to_builtins(order)}, id=order_id)

    async def _look(self, order_ids: Sequence[str]) -> dict[str, Run]:
        found = await self._client.store.get(order_ids)
        runs = {run.id: run for run in found if run is not None}
        in_hand = Counter(run.worker for run in runs.values() if run.status is RunStatus.RUNNING)
        view = self._view
        view.seconds = time.monotonic() - self._began
        view.stages = Counter(_stage(run) for run in runs.values())
        view.workers = [
            WorkerView(worker.told.pid, in_hand[worker.told.worker], worker is self._victim)
            for worker in self._shop.workers
        ]
        view.charges, view.charge_requests = len(self._ledger.charges), self._ledger.charge_requests
        self._screen.show(view)
        return runs

    async def _ask_ledger(self) -> None:
        while True:
            self._ledger = await self._shop.ledger()
            await asyncio.sleep(4 * LOOK_EVERY)

    async def _kill(self, runs: Mapping[str, Run]) -> None:
        """Kill the worker that has the most runs in hand, and note which those are."""
        in_hand = Counter(run.worker for run in runs.values() if run.status is RunStatus.RUNNING)
        self._victim = victim = max(self._shop.workers, key=lambda worker: in_hand[worker.told.worker])
        await victim.kill()
        runs = await self._look(list(runs))
        self._killed.pid = victim.told.pid
        self._killed.epochs = {
            run.id: run.epoch
            for run in runs.values()
            if run.status is RunStatus.RUNNING and run.worker == victim.told.worker
        }
        self._killed_at = time.monotonic()
        self._screen.event(
            f"kill -9 {victim.told.pid}: it had {len(self._killed.epochs)} runs in hand, and nobody takes its place",
            "bold red",
        )

    def _count_takeovers(self, runs: Mapping[str, Run]) -> None:
        killed = self._killed
        before = killed.taken_over
        killed.taken_over = sum(runs[run_id].epoch > epoch for run_id, epoch in killed.epochs.items())
        if before < killed.taken_over == len(killed.epochs):
            self._screen.event(
                f"the other worker has taken all {killed.taken_over} of them over, "
                f"{time.monotonic() - self._killed_at:.1f} s after the kill",
                "green",
            )

    def _note_deaths(self) -> None:
        died = [process.told.pid for process in self._shop.died() if process is not self._victim]
        if died:
            self._problems.append(f"process {died[0]} ended by itself")
            raise TimeoutError


def _stage(run: Run) -> str:
    if run.status.is_finished:
        return "done"
    stored: Any = codec.decode_any(run.state) if run.state is not None else None
    return str(stored["stage"]) if stored else "queued"


if __name__ == "__main__":
    typer.run(demo)
