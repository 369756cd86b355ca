"""bullmq-durable on Valkey: one BullMQ job per run, its steps checkpointed in the same server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.measure import Result
from bench.peers import valkey
from bench.peers.peer import PeerError, complaint, fresh_store, install_node, measured, place_programs

NAME = "bullmq-durable"
LABEL = "bullmq-durable, Valkey (AOF everysec)"
_PACKAGES: Mapping[str, str] = {"bullmq-durable": "0.2.0", "bullmq": "5.81.5", "ioredis": "5.11.1"}
VERSIONS: Mapping[str, str] = {**_PACKAGES, **valkey.VERSIONS}
SETTINGS = (
    "bullmq-durable 0.2.0 (TypeScript) on Node, Valkey 9.1 with appendonly yes and appendfsync everysec (as its README "
    "asks: a machine crash loses up to a second, unlike an fsync per commit); a client and a worker process of 100 "
    "slots, the fastest of those tried; memory is theirs and the server's, the store is the data set in the server's."
)
RUNS: Mapping[str, int] = {"W1": 20_000, "W2": 15_000, "W3": 8000, "W4": 8000, "W5": 200, "W6": 20_000, "W7": 10}


def install(directory: Path) -> None:
    """Install the packages and the server."""
    valkey.install(directory)
    install_node(directory / NAME, _PACKAGES)


def run(directory: Path, work: str, runs: int) -> Result:
    """Measure one work once."""
    place_programs(directory / NAME, "turns.mjs", "bullmq_durable_work.mjs")
    try:
        with fresh_store(directory) as place, valkey.serving(directory, place) as server:
            return measured(
                NAME,
                work,
                runs,
                ["node", directory / NAME / "bullmq_durable_work.mjs"],
                environment={"PORT": str(server.port)},
                stored=server.used_bytes,
                servers=[server.pid],
            )
    except (PeerError, OSError) as reason:
        return Result(NAME, work, runs, error=complaint(str(reason)))
