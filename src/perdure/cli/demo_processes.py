"""The processes of `perdure demo`: they are started, watched, killed and ended here."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perdure.model.errors import UsageError

START_WITHIN = 20.0
"""Seconds within which a process of the demo has to be ready."""

END_WITHIN = 5.0
"""Seconds that a process gets to end by itself when the demo is over."""

SETTINGS = {"ORDERS_PAY_WITHIN": "5 seconds", "ORDERS_FOLLOW_UP": "1500 ms", "ORDERS_LEASE": "2 seconds"}
"""How the demo shortens the shop's ten minutes, its day, and the time after which a silent worker counts as dead."""


class Ready(msgspec.Struct):
    """What a process says when it is ready."""

    pid: int
    port: int = 0
    worker: str = ""


class Charge(msgspec.Struct):
    """One charge, as the payment service tells of it."""

    id: str
    order_id: str
    cents: int
    status: str


class Ledger(msgspec.Struct):
    """The payment service's own account of what it was asked and what it did."""

    charges: list[Charge] = []
    requests: int = 0
    charge_requests: int = 0
    webhooks: int = 0


class Process:
    """A process of the demo. `told` is what it said when it was ready."""

    def __init__(self, process: asyncio.subprocess.Process, told: Ready) -> None:
        self._process = process
        self.told = told

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def kill(self) -> None:
        """Kill it as `kill -9` does, and wait until it is gone."""
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def end(self) -> None:
        """Close its standard input, which it takes as a request to end; kill it if it does not."""
        if not self.is_running:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(END_WITHIN):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


class Shop:
    """The example's processes around one folder of files.

    Args:
        root: the checkout.
        folder: where their files go.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self.url = f"sqlite:///{folder / 'orders.db'}"
        self.database = folder / "shop.db"
        self.workers: list[Process] = []
        self._all: list[Process] = []
        self._environment = {
            **os.environ,
            **SETTINGS,
            "ORDERS_STORE": self.url,
            "ORDERS_SHOP": str(self.database),
            "PYTHONUNBUFFERED": "1",
        }
        self._payments = ""

    async def open(self, workers: int) -> None:
        """Start the receiver, the payment service and the workers."""
        receiver = await self._start("webhooks", "0")
        payments = await self._start("payments", "0", f"http://127.0.0.1:{receiver.told.port}")
        self._payments = f"http://127.0.0.1:{payments.told.port}"
        environment = {"ORDERS_PAYMENTS": self._payments}
        self.workers = await asyncio.gather(*(self._start("worker", environment=environment) for _ in range(workers)))

    async def close(self) -> None:
        """End whatever still runs."""
        await asyncio.gather(*(process.end() for process in self._all))

    def died(self) -> list[Process]:
        """Return the processes that have ended."""
        return [process for process in self._all if not process.is_running]

    async def ledger(self) -> Ledger:
        """Ask the payment service for its account; empty when it does not answer."""
        try:
            return await asyncio.to_thread(_ledger_at, f"{self._payments}/ledger")
        except OSError:
            return Ledger()

    async def _start(self, module: str, *args: str, environment: Mapping[str, str] | None = None) -> Process:
        log = self._folder / f"{module}-{len(self._all)}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"examples.orders.{module}",
                *args,
                cwd=self._root,
                env={**self._environment, **(environment or {})},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # so that Ctrl-C reaches the demo alone, which then ends them all
            )
        started = Process(process, Ready(process.pid))
        self._all.append(started)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_WITHIN):
                started.told = msgspec.json.decode(await process.stdout.readline(), type=Ready)
        except (TimeoutError, msgspec.DecodeError):
            said = log.read_text(encoding="utf-8", errors="replace").strip() or "nothing"
            raise UsageError(f"examples.orders.{module} did not start; it said: {said[-2_000:]}") from None
        return started


def find_root() -> Path:
    """Return the checkout that the example stands in: the one of this file, or the current folder's.

    Raises:
        UsageError: there is none.
    """
    here = Path(__file__).resolve()
    for folder in (*here.parents, *Path.cwd().resolve().parents, Path.cwd().resolve()):
        if (folder / "examples" / "orders" / "app.py").is_file():
            return folder
    raise UsageError("the demo needs Perdure's own checkout, because it runs examples/orders; cd into it first")


def load(root: Path, module: str) -> Any:
    """Return a module of the example."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"examples.orders.{module}")


def _ledger_at(url: str) -> Ledger:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own service, on this machine
        return msgspec.convert(json.load(answer), Ledger)
