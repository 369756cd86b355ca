"""Starts, watches, kills and ends the crash tests' workers."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from tests.crash import reading

ROOT = Path(__file__).parent.parent.parent


class Fleet:
    """The workers on one store.

    Args:
        folder: where ledger and log go.
        url: the store's.

    Attributes:
        seen_at: where the store is read by itself, if that is another place.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.url = self.seen_at = url
        self.ledger = folder / "ledger.jsonl"
        self.log = folder / "workers.log"
        self.ledger.touch()
        self.alive: list[asyncio.subprocess.Process] = []
        self.killed: list[int] = []

    async def start(self, *options: str) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.crash.work", self.url, str(self.ledger), *options),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.alive.append(process)
        return process

    async def ready(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n", self.log.read_text()[-2_000:]

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
        self.bury()

    def bury(self) -> list[asyncio.subprocess.Process]:
        """Note who has been killed, by us or by their own hand; nobody may end in another way."""
        dead = [process for process in self.alive if process.returncode is not None]
        for process in dead:
            assert process.returncode == -signal.SIGKILL, self.log.read_text()[-2_000:]
            self.alive.remove(process)
            self.killed.append(process.pid)
        return dead

    async def end(self) -> None:
        """Ask the workers to end, which lets their steps finish."""
        for process in self.alive:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.alive:
            async with asyncio.timeout(40):
                assert await process.wait() in (0, -signal.SIGKILL), _tail(self.log)

    def tear_down(self) -> None:
        for process in self.alive:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()

    def lines(self, what: str) -> list[dict[str, object]]:
        """The ledger's lines of one sort, so far."""
        whole, _, _ = self.ledger.read_text().rpartition("\n")  # the last line may still be on its way
        return [line for line in map(json.loads, whole.splitlines()) if line["what"] == what]

    def is_locked(self) -> bool:
        """Whether somebody holds the only write lock of a SQLite file right now."""
        if not self.url.startswith("sqlite:///"):
            return False
        connection = apsw.Connection(self.url.removeprefix("sqlite:///"))
        try:
            connection.execute("BEGIN IMMEDIATE; ROLLBACK")
        except apsw.BusyError:
            return True
        else:
            return False
        finally:
            connection.close()

    async def drained(self, seconds: float) -> None:
        """Wait until every run has ended; what is stuck is shown with all that is known about it."""
        deadline = time.monotonic() + seconds
        while stuck := reading.unfinished(self.seen_at):
            if time.monotonic() > deadline:
                row = reading.told(self.seen_at, stuck[0][0])
                raise AssertionError(f"{len(stuck)} runs are stuck: {stuck[:10]}; {row}; {_tail(self.log)}")
            self.bury()
            await asyncio.sleep(0.1)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds that other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def _tail(path: Path, lines: int = 20) -> Sequence[str]:
    return path.read_text(errors="replace").splitlines()[-lines:]
