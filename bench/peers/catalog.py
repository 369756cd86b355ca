"""Every peer, on every store it is measured on."""

from __future__ import annotations

from collections.abc import Sequence

from bench.engine import Engine
from bench.peers import bullmq_durable, dbos, openworkflow

PEERS: Sequence[Engine] = [*dbos.ENGINES, *openworkflow.ENGINES, *bullmq_durable.ENGINES]
