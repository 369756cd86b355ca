"""Servers as processes of the test run: they answer when `start` returns, and end however the run ends.

A guard, one small process beside the test run, reads which servers and folders there are. Its input ends when the run
is gone, killed or not; then it ends what is left.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

PATIENCE = 30.0
"""Real seconds after which a server that does not answer counts as one that never will."""

HOST = "127.0.0.1"

_GUARD = """
import os, shutil, signal, sys, time
pids, folders = {}, set()
for line in sys.stdin:
    word, _, what = line.rstrip().partition(" ")
    if word == "server":
        pid, sign = map(int, what.split())
        pids[pid] = sign
    elif word == "over":
        pids.pop(int(what), None)
    elif word == "folder":
        folders.add(what)
    else:
        folders.discard(what)
def end(sign_of):
    for pid in list(pids):
        try:
            os.kill(pid, sign_of(pid))
        except ProcessLookupError:
            del pids[pid]
end(pids.get)
until = time.monotonic() + 5
while pids and time.monotonic() < until:
    time.sleep(0.05)
    end(lambda pid: 0)
end(lambda pid: signal.SIGKILL)
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


class _Guard:
    """The end of the pipe to the guard, whose process begins with the first word."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def say(self, word: str, *what: object) -> None:
        if self._process is None:
            command = [sys.executable, "-ISE", "-c", _GUARD]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
            atexit.register(self._leave, os.getpid())
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, (word, *what))) + "\n")
        self._process.stdin.flush()

    def _leave(self, owner: int) -> None:
        if os.getpid() != owner:
            return  # a fork of the test run is not its end
        assert self._process is not None
        assert self._process.stdin is not None
        for server in list(_running):
            server.signal(server.ends_on)
        for server in list(_running):
            server.stop()
        self._process.stdin.close()
        self._process.wait()


_guard = _Guard()
_running: set[Server] = set()


def folder_for(name: str, *, owner: int | None = None) -> Path:
    """Make a folder outside the repository that goes with the test run; `owner` (a user's number) can reach it."""
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    place = next(place for place in places if owner is None or is_open_to_all(Path(place)))
    folder = Path(tempfile.mkdtemp(prefix=f"perdure-{name}-", dir=place))
    _guard.say("folder", folder)
    if owner is not None:
        os.chown(folder, owner, -1)
    return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _guard.say("removed", folder)


def is_open_to_all(path: Path) -> bool:
    """Whether every user can go to this folder."""
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


_tried = iter(range(sys.maxsize))


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections.

    So no client takes a server's port while the server is away. Each process begins to look elsewhere.
    """
    while True:
        port = 10_000 + (os.getpid() * 61 + next(_tried)) % 22_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class Server:
    """One server: a folder, a port, and a process that can end and begin again with the same data.

    Shared ones live as long as the test run. A test that needs one to itself writes `with PostgresServer() as server:`.
    """

    name = "server"
    ends_on = signal.SIGTERM
    """What makes it end in order and soon, whoever is connected."""

    def __init__(self, *, owner: int | None = None) -> None:
        self.port = free_port()
        self.folder = folder_for(self.name, owner=owner)
        self.process: subprocess.Popen[bytes] | None = None
        self._is_removed = False
        self._lock = threading.RLock()

    def command(self) -> list[str]:
        """The program and its arguments, everything it needs being in the folder."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """More arguments for Popen."""
        return {}

    def answers(self) -> bool:
        """Whether it can be used."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def begin(self) -> None:
        """Start the process without waiting for an answer."""
        with self._lock:
            assert not self.is_running
            assert not self._is_removed, "it was removed"
            with self.log.open("ab") as log:
                how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **self.options()}
                self.process = subprocess.Popen(self.command(), cwd=self.folder, start_new_session=True, **how)
            _guard.say("server", self.process.pid, int(self.ends_on))
            _running.add(self)

    def start(self) -> Self:
        """Start the process and wait until it answers.

        Raises:
            AssertionError: it does not; with the end of its log.
        """
        self.begin()
        self.until(self.answers, "start")
        return self

    def until(self, condition: Any, what: str) -> None:
        """Wait until something holds of a server that runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if not self.is_running or time.monotonic() > end:
                raise AssertionError(f"{self.name}: does not {what}; its log ends:\n{self.log_end()}")
            time.sleep(0.01)

    def log_end(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def stop(self) -> None:
        """End the process in order; nothing where it has ended."""
        self._end(self.ends_on)

    def kill(self) -> None:
        """End the process as a crash does; what it had not written is lost."""
        self._end(signal.SIGKILL)

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal: SIGSTOP leaves a server that holds its connections and answers nobody, until SIGCONT."""
        assert self.process is not None
        self.process.send_signal(sign)

    def restart(self) -> None:
        """Stop and start again, on the same port, with the same data."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop for good, also for a thread that is about to start it."""
        self._is_removed = True
        self.stop()
        remove_folder(self.folder)

    def _end(self, sign: signal.Signals) -> None:
        with self._lock:
            process = self.process
            if process is None:
                return
            process.send_signal(sign)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{self.name}: does not end; its log ends:\n{self.log_end()}") from None
            finally:
                process.kill()  # also where waiting was interrupted
                process.wait()
                _guard.say("over", process.pid)
                _running.discard(self)
                self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()
