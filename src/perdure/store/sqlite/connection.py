"""Opens the file as Perdure needs it, and says in Perdure's words what SQLite says in its own."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import apsw

from perdure.model.duration import Duration, seconds
from perdure.model.errors import (
    PerdureError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)

SYNCHRONOUS = {"off": 0, "normal": 1, "full": 2}
JOURNAL_SIZE_LIMIT = 64 * 1024 * 1024

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.002


@dataclass(frozen=True)
class Settings:
    """Where the file is and how it is written.

    Args:
        path: of the file.
        synchronous: `full`, `normal` or `off`; see docs/stores.md.
        busy_timeout: how long to wait for another process's write (a duration).
    """

    path: str
    synchronous: str = "full"
    busy_timeout: Duration = 10.0

    def __post_init__(self) -> None:
        if self.synchronous not in SYNCHRONOUS:
            raise UsageError(f"store: synchronous={self.synchronous!r} must be one of {', '.join(SYNCHRONOUS)}")
        seconds(self.busy_timeout, field="store: busy_timeout")

    @property
    def url(self) -> str:
        """The store's URL, with the whole path."""
        return f"sqlite:///{quote(str(Path(self.path).absolute()))}"


def connect(settings: Settings, *, is_reader: bool = False) -> apsw.Connection:
    """Open the file with every setting in force.

    Raises:
        StoreError: one of its kinds; see `translated`.
    """
    try:
        connection = apsw.Connection(settings.path, vfs=None)
    except apsw.Error as error:
        raise _cannot_open(settings.path, error) from error
    try:
        patience = _patience(seconds(settings.busy_timeout))
        connection.set_busy_handler(patience)
        if connection.readonly("main"):
            raise StoreReadOnlyError(f"{settings.path} cannot be written: give this user write access to it")
        if is_reader:
            connection.pragma("query_only", True)
        _keep_ahead_log(connection, patience)
        _configure(connection, settings)
    except BaseException as error:
        connection.close()
        raise translated(error, settings) from error
    return connection


def _keep_ahead_log(connection: apsw.Connection, patience: Callable[[int], bool]) -> None:
    """Switch a new file to write-ahead logging; SQLite does not wait by itself while others do the same."""
    for attempt in itertools.count():
        try:
            connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if patience(attempt):
                continue
            raise
        return


def _configure(connection: apsw.Connection, settings: Settings) -> None:
    wanted: dict[str, str | int] = {
        "journal_mode": "wal",
        "synchronous": SYNCHRONOUS[settings.synchronous],
        "journal_size_limit": JOURNAL_SIZE_LIMIT,
        "mmap_size": 0,
        "wal_autocheckpoint": 0,  # the writer does it, once nobody waits for its answer
    }
    for name, value in wanted.items():
        connection.pragma(name, value)
        found = connection.pragma(name)
        if found != value and not (name == "mmap_size" and found is None):
            raise StoreUnavailableError(
                f"{settings.path}: SQLite keeps {name} at {found!r} where {value!r} is needed; "
                "the file must be on a local disk that supports shared memory"
            )


def _patience(timeout: float) -> Callable[[int], bool]:
    """Return a busy handler of many short pauses, so that processes share one file fairly.

    SQLite's own waits up to 100 ms at a time, in which another process gets in hundreds of times.
    """
    began = 0.0
    phase = os.getpid() * 0.7548776662

    def wait(attempt: int) -> bool:
        nonlocal began
        now = time.monotonic()
        if attempt == 0:
            began = now
        if now - began >= timeout:
            return False
        pause = min(_SHORTEST_PAUSE * 1.1**attempt, _LONGEST_PAUSE) if attempt < 100 else _LONGEST_PAUSE
        time.sleep(pause * (0.5 + (phase + attempt * 0.5698402910) % 1))
        return True

    return wait


def translated(error: BaseException, settings: Settings) -> BaseException:
    """Return the error as Perdure names it, with the file and how to mend it; other errors as they are."""
    path = settings.path
    match error:
        case PerdureError():
            return error
        case apsw.BusyError() | apsw.LockedError():
            return StoreLockedError(
                f"{path} was locked by another program for over {settings.busy_timeout} (busy_timeout): "
                "end the program that holds it, or wait longer"
            )
        case apsw.FullError():
            return StoreFullError(f"{path}: the disk or its quota is full; make room, then try again")
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return StoreReadOnlyError(f"{path} cannot be written: give this user write access to it and its folder")
        case apsw.CantOpenError():
            return _cannot_open(path, error)
        case apsw.NotADBError():
            return StoreCorruptError(f"{path} is no SQLite file: give another path, or restore it from a backup")
        case apsw.CorruptError():
            return StoreCorruptError(f"{path} is damaged ({error}): stop its programs and restore it from a backup")
        case apsw.IOError():
            return StoreUnavailableError(
                f"{path}: the disk failed ({error}); what was asked may or may not have happened: check the disk, "
                "then try again"
            )
        case apsw.Error():
            return StoreError(f"{path}: {type(error).__name__}: {error}")
        case _:
            return error


def _cannot_open(path: str, error: apsw.Error) -> StoreError:
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        return StoreUnavailableError(f"{path}: there is no folder {folder}; create it")
    if Path(path).is_dir():
        return StoreUnavailableError(f"{path} is a folder; name a file in it")
    if isinstance(error, apsw.CantOpenError):
        return StoreReadOnlyError(f"{path} cannot be opened for writing: give this user access to it and {folder}")
    return StoreUnavailableError(f"{path} cannot be opened: {error}")
