"""A Valkey Cluster whose slots move from master to master while runs are in flight: nothing is lost, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.changing import Mover, told
from tests.crash.living import TIMEOUT, in_thread, live_through
from tests.servers import ValkeyCluster

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(3) as cluster:
        yield cluster


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
