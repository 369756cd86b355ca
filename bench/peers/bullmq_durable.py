"""bullmq-durable on Valkey: one BullMQ job per run, its steps checkpointed in the same server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.engine import Engine
from bench.peers.install import install_node
from bench.stores import STORES

_NAME = "bullmq-durable"
_VERSIONS: Mapping[str, str] = {"bullmq-durable": "0.2.0", "bullmq": "5.81.5", "ioredis": "5.11.1"}
_RUNS: Mapping[str, int] = {"W1": 20_000, "W2": 15_000, "W3": 8000, "W4": 8000, "W5": 200, "W6": 20_000, "W7": 10}
_SLOWER: Mapping[str, int] = {"W1": 6_000, "W2": 4_000, "W3": 2000, "W4": 2000, "W5": 200, "W6": 6_000, "W7": 3}


def _install(directory: Path) -> None:
    install_node(directory / _NAME, _VERSIONS, "turns.mjs", "bullmq_durable_work.mjs")


ENGINES = [
    Engine(
        name=_NAME,
        label=_NAME,
        settings=(
            "bullmq-durable 0.2.0 (TypeScript) on Node; a client and a worker process of 100 slots, the fastest of "
            "those tried; its README asks for appendonly yes and appendfsync everysec."
        ),
        store=STORES[store],
        runs=runs,
        command=lambda directory, work: ["node", directory / _NAME / "bullmq_durable_work.mjs"],
        install=_install,
        versions=_VERSIONS,
    )
    for store, runs in (("redis", _RUNS), ("redis-fsync", _SLOWER))
]
"""It on each store it is measured on."""
