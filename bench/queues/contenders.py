"""Every queue that is measured: how it is installed, worked and spoken to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.install import PROGRAMS, install_node, install_python
from bench.stores import STORES, Store

WORKERS = 2
"""How many worker processes each has."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A queue on one store.

    Args:
        name: in tables, in results and on the command line.
        settings: one sentence for the report: its version, how it works, and what an acknowledgement means.
        store: where it keeps its tasks.
        workers: the commands of its workers, given where it is installed.
        client: the command of what enqueues, given the same.
        versions: the packages that are installed for it; of npm if it `is_node`.
        is_node: whether it is written for Node.
        prepare: a command that is run first on the empty store.
        options: what stands behind the store's URL.
    """

    name: str
    settings: str
    store: Store
    workers: Callable[[Path], Sequence[Sequence[str | Path]]]
    client: Callable[[Path], Sequence[str | Path]]
    versions: Mapping[str, str] = field(default_factory=dict)
    is_node: bool = False
    prepare: Callable[[Path], Sequence[str | Path]] | None = None
    options: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether nothing has to be installed."""
        return not self.versions

    def install(self, directory: Path) -> Path:
        """Install it under a directory, unless it is there, and return where.

        Raises:
            EngineError: it cannot be installed.
        """
        place = directory / f"queue-{self.name.lower()}"
        if self.is_node:
            install_node(place, self.versions, "queue_bullmq.mjs")
        elif not self.is_ours:
            install_python(place, self.versions)
        return place


def _ours(store: str) -> Contender:
    def module(name: str) -> list[str | Path]:
        return [sys.executable, "-m", f"bench.queues.{name}"]

    return Contender(
        name="Perdure",
        settings="Perdure: two worker processes with default settings; the store acknowledges every start and end.",
        store=STORES[store],
        workers=lambda place: [module("ours_worker")] * WORKERS,
        client=lambda place: module("ours_client"),
        options=STORES[store].options,
    )


def _python(name: str, settings: str, worker: Sequence[str], versions: Mapping[str, str], **more: object) -> Contender:
    """Return a queue in Python whose worker is one of its own programs: one for `each` process, or one in all."""
    module = f"tasks_{name.lower()}"
    count = WORKERS if worker[-1] == "each" else 1
    program, *arguments = [part for part in worker if part != "each"]
    return Contender(
        name=name,
        settings=settings,
        store=STORES["postgres" if name == "Procrastinate" else "redis"],
        workers=lambda place: [[place / "bin" / program, *arguments]] * count,
        client=lambda place: [place / "bin" / "python", PROGRAMS / "queue_client.py", module],
        versions=versions,
        **more,  # type: ignore[arg-type]  # `prepare`
    )


_QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")

PEERS: Sequence[Contender] = (
    _python(
        "Celery",
        "Celery 5.7.0: one worker with two processes (prefork), acknowledging before execution, results ignored.",
        ["celery", "-A", "tasks_celery", "worker", "-c", "2", "-P", "prefork", "-l", "ERROR", *_QUIET],
        {"celery": "5.7.0", "packaging": "26.3", "redis": "8.1.0"},
    ),
    _python(
        "Dramatiq",
        "Dramatiq 2.2.1: two processes of eight threads, acknowledging after execution.",
        ["dramatiq", "tasks_dramatiq", "-p", "2", "-t", "8"],
        {"dramatiq": "2.2.1", "redis": "7.1.0"},
    ),
    _python(
        "SAQ",
        "SAQ 0.26.4: two processes of 100 tasks at once.",
        ["saq", "tasks_saq.settings", "each"],
        {"saq": "0.26.4", "redis": "7.1.0", "hiredis": "3.3.0", "typing-extensions": "4.15.0"},
    ),
    _python(
        "arq",
        "arq 0.28.0: two processes of 200 tasks at once, polling every 10 ms, results kept as it comes.",
        ["arq", "tasks_arq.WorkerSettings", "each"],
        {"arq": "0.28.0", "redis": "5.2.1", "hiredis": "3.3.0"},
    ),
    _python(
        "Taskiq",
        "Taskiq 0.13.0 on streams: two processes of 200 tasks at once.",
        ["taskiq", "worker", "tasks_taskiq:broker", "-w", "2", "--max-async-tasks", "200", "--log-level", "ERROR"],
        {"taskiq": "0.13.0", "taskiq-redis": "1.2.4", "redis": "8.1.0"},
    ),
    _python(
        "Procrastinate",
        "Procrastinate 3.10.0: two processes of 50 tasks at once.",
        ["procrastinate", "--app=tasks_procrastinate.app", "worker", "--concurrency=50", "each"],
        {"procrastinate": "3.10.0", "psycopg[binary]": "3.3.9", "psycopg-pool": "3.3.0"},
        prepare=lambda place: [place / "bin" / "procrastinate", "--app=tasks_procrastinate.app", "schema", "--apply"],
    ),
    Contender(
        name="BullMQ",
        settings="BullMQ 5.81.5 on Node: two processes of 100 tasks at once, added 500 with a call.",
        store=STORES["redis"],
        workers=lambda place: [["node", place / "queue_bullmq.mjs", "worker"]] * WORKERS,
        client=lambda place: ["node", place / "queue_bullmq.mjs", "client"],
        versions={"bullmq": "5.81.5", "ioredis": "5.11.1"},
        is_node=True,
    ),
)

CONTENDERS: Sequence[Contender] = (*map(_ours, ("sqlite", "postgres", "redis", "redis-fsync")), *PEERS)
"""This engine on each store, then the others."""
