"""Runs, records, messages and decisions in as few words as a test needs, and the stores that every test runs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.model.decision import Claim, Decision, Message
from perdure.model.encryption import Encryption
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus
from perdure.store import Store, open_store
from tests.servers import label, postgres, valkey, valkey_cluster

NOW = 1_700_000_000_000
DAY = 86_400_000
CAPACITY = 100

STORES: dict[str, Callable[[Path], str]] = {
    "memory": lambda folder: f"memory://{str(folder).strip(chr(47))}",
    "sqlite": lambda folder: f"sqlite:///{folder}/store.db?synchronous=off",
    "postgres": lambda folder: postgres().url("stores", schema=label(folder)),
    "redis": lambda folder: valkey().url(prefix=label(folder)),
    "cluster": lambda folder: valkey_cluster().url(prefix=label(folder), shards="1"),
}
"""The URL of a fresh store of each kind, given a folder of its own; the same folder gives the same store."""

ENCRYPTED = {"memory-encrypted": "memory", "sqlite-encrypted": "sqlite"}
"""Those that every promise is tested of with encryption, too."""

ENCRYPTION = Encryption({"2026b": bytes(range(32)), "2026a": bytes(32)})

REOPENABLE = tuple(kind for kind in STORES if kind != "memory")
"""The stores that outlive their process."""


def store_at(kind: str, folder: Path) -> Store:
    if kind in ENCRYPTED:
        return open_store(STORES[ENCRYPTED[kind]](folder), encryption=ENCRYPTION)
    return open_store(STORES[kind](folder))


def record(position: int, key: str = "", payload: str | None = "1", **more: Any) -> Record:
    kind = "input" if position == 0 else "step"
    return Record(position, key or f"k{position}", more.pop("kind", kind), "ok", NOW, payload, **more)


def new(id: str, due_at: int = NOW, **more: Any) -> NewRun:
    more.setdefault("records", (record(0, "input", '{"order": 1}'),))
    return NewRun(id, more.pop("workflow", "checkout"), more.pop("created_at", NOW), due_at, **more)


def event(run_id: str, id: str, payload: str | None = '"x"', **more: Any) -> Message:
    return Message(run_id, id, more.pop("kind", "event"), more.pop("type", "go"), payload, NOW, **more)


def decide(run: Run | Claim, status: RunStatus | str = "running", at: int = NOW, **more: Any) -> Decision:
    """The next decision about a run as it was claimed."""
    held = run.run if isinstance(run, Claim) else run
    more.setdefault("due_at", None)
    more.setdefault("seq", held.seq + 1)
    more.setdefault("epoch", held.epoch)
    return Decision(held.id, at=at, status=RunStatus(status), **more)


async def held(store: Store, id: str, **more: Any) -> Run:
    """Create a run and lease it to worker `w` until a minute from now."""
    await store.create([new(id, **more)])
    return await leased(store, id)


async def leased(store: Store, id: str, now: int = NOW, until: int = NOW + 60_000) -> Run:
    """Claim everything that is due, and return this run of it."""
    claims = await store.claim(["default"], 1000, "w", now, until)
    return next(claim.run for claim in claims if claim.run.id == id)


async def one(store: Store, id: str) -> Run:
    run = (await store.get([id]))[0]
    assert run is not None
    return run


async def finish(store: Store, id: str, status: str = "complete", at: int = NOW, **more: Any) -> None:
    """Create a run, lease it and end it with an output."""
    run = await held(store, id, **more)
    output = record(run.journal_length, "output", '"done"', kind="output")
    (committed,) = await store.commit([decide(run, status, at, records=(output,))])
    assert not committed.is_lost
