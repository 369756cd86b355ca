"""A Valkey Cluster whose slots move from master to master while runs are in flight: nothing is lost, nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.kept_in_valkey import tags
from tests.crash.living import TIMEOUT, in_thread, live_through
from tests.servers import ClusterNode, ValkeyCluster

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(3) as cluster:
        yield cluster


class Mover:
    """Moves the slot of one shard after the other to another master, and back."""

    def __init__(self, cluster: ValkeyCluster) -> None:
        self.cluster = cluster
        self.turns = itertools.count()
        self.moves = 0

    def classic(self) -> None:
        """Key by key; half-way it rests until somebody has been told to try again."""
        slot, source, target = self.next()
        before = told(self.cluster, "TRYAGAIN")
        self.cluster.migrate_slot(
            slot, target, between=lambda: source.until(lambda: told(self.cluster, "TRYAGAIN") > before, "say TRYAGAIN")
        )
        self.moves += 1

    def atomic(self) -> None:
        """As Valkey 9 does by itself."""
        slot, _, target = self.next()
        self.cluster.migrate_slots_at_once(slot, slot, target)
        self.moves += 1

    def next(self) -> tuple[int, ClusterNode, ClusterNode]:
        slots = [self.cluster.slot(f"{{{tag}}}") for tag in sorted(tags(self.cluster.url()))]
        turn = next(self.turns)
        slot = slots[turn // 2 % len(slots)]
        source = self.cluster.owner(slot)
        others = [node for node in self.cluster.masters if node is not source]
        return slot, source, others[turn // 2 % len(others)]


def told(cluster: ValkeyCluster, error: str) -> int:
    """How often the nodes have answered with this error."""
    found = [node.info("errorstats").get(f"errorstat_{error}", "count=0") for node in cluster.masters]
    return sum(int(each.removeprefix("count=")) for each in found)


async def test_a_slot_moves_key_by_key(cluster: ValkeyCluster, tmp_path: Path):
    mover = Mover(cluster)
    await live_through(cluster.url(), [in_thread(mover.classic)] * 6, tmp_path)
    assert mover.moves >= 6
    assert told(cluster, "TRYAGAIN") >= mover.moves


async def test_a_slot_moves_at_once(cluster: ValkeyCluster, tmp_path: Path):
    mover = Mover(cluster)
    await live_through(cluster.url(), [in_thread(mover.atomic)] * 6, tmp_path)
    assert mover.moves >= 6
    assert told(cluster, "MOVED") > 0
