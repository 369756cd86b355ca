"""Real workers' processes, and how tests wait for what they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.cli import shop

SHOP = f"{Path(shop.__file__)}:app"
SECONDS = 40.0


class WorkerProcess:
    """`perdure worker`, with processes of its own or without, in a group of its own."""

    def __init__(self, url: str, folder: Path, words: tuple[str, ...], app: str = SHOP, **env: str) -> None:
        self.log = folder / f"worker-{len(list(folder.glob('worker-*')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perdure.cli", "worker", app, "--store", url, *words],
                env={**os.environ, "SHOP_FOLDER": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **env},
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged, line by line."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def all_said(self, text: str) -> list[dict[str, Any]]:
        """What it has logged that begins so."""
        return [line for line in self.lines() if line["event"].startswith(text)]

    def says(self, text: str, times: int = 1) -> dict[str, Any]:
        """Wait until it has logged something that begins so, that many times; return the first."""

        def found() -> dict[str, Any] | None:
            has_ended = self.process.poll() is not None
            said = self.all_said(text)
            assert len(said) >= times or not has_ended, self.log.read_text()
            return said[0] if len(said) >= times else None

        return wait_for(found)

    def pids(self) -> list[int]:
        """The processes that have said that they are at work, each in its last one's place."""
        return list({line.get("process"): line["pid"] for line in self.all_said("working")}.values())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        return self.process.wait(SECONDS)

    def clear(self) -> None:
        """End whatever is left of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait for something that another process does."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run(shell: Callable[..., Any], run_id: str) -> dict[str, Any]:
    return shell("runs", "show", run_id, "--json").json["run"]
