"""Starts, watches, kills and ends the crash tests' workers."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import apsw

ROOT = Path(__file__).parent.parent.parent


class Fleet:
    """The workers on one store."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "crash.db"
        self.ledger = folder / "ledger.jsonl"
        self.log = folder / "workers.log"
        self.url = f"sqlite:///{self.store}"
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
            async with asyncio.timeout(20):
                assert await process.wait() in (0, -signal.SIGKILL), _tail(self.log)

    def tear_down(self) -> None:
        for process in self.alive:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()

    def unfinished(self) -> list[tuple[str, str]]:
        return self.ask("SELECT id, status FROM runs WHERE status NOT IN ('complete', 'errored', 'terminated')")

    def ask(self, sql: str, *values: str | int) -> list[tuple[str, str]]:
        connection = apsw.Connection(str(self.store))
        try:
            connection.set_busy_timeout(10_000)
            return list(connection.execute(sql, values))
        finally:
            connection.close()

    def is_locked(self) -> bool:
        """Whether somebody holds the file's only write lock right now."""
        connection = apsw.Connection(str(self.store))
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
        while stuck := self.unfinished():
            if time.monotonic() > deadline:
                rows = self.ask("SELECT * FROM runs WHERE id = ?", stuck[0][0])
                raise AssertionError(f"{len(stuck)} runs are stuck: {stuck[:10]}; {rows}; {_tail(self.log)}")
            self.bury()
            await asyncio.sleep(0.1)


def _tail(path: Path, lines: int = 20) -> Sequence[str]:
    return path.read_text(errors="replace").splitlines()[-lines:]
