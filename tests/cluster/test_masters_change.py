"""Masters that give way to their replicas, in order or killed, while runs are in flight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.changing import Changer
from tests.crash.living import TIMEOUT, in_thread, live_through
from tests.servers import ValkeyCluster, ValkeySentinel
from tests.serving.process import HOST

PAUSES = (1.0, 4.0)
"""Seconds between two changes: for as long as one takes, some of the runs stand still."""

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(3, 1) as cluster:
        yield cluster


async def test_masters_hand_over_in_order(cluster: ValkeyCluster, tmp_path: Path):
    changer = Changer(cluster)
    await live_through(cluster.url(), [in_thread(changer.hand_over)] * 2, tmp_path, once=True, pauses=PAUSES)


async def test_masters_are_killed_and_nothing_acknowledged_is_lost_that_a_replica_has(
    cluster: ValkeyCluster, tmp_path: Path
):
    changer = Changer(cluster)
    await live_through(
        cluster.url(durability="replicated:1"), [in_thread(changer.kill)] * 2, tmp_path, once=True, pauses=PAUSES
    )


async def test_masters_are_killed_and_what_went_back_goes_on(cluster: ValkeyCluster, tmp_path: Path):
    changer = Changer(cluster)
    await live_through(cluster.url(), [in_thread(changer.kill)] * 2, tmp_path, once=True, pauses=PAUSES, goes_back=True)


async def test_a_sentinel_names_another_master(tmp_path: Path):
    with ValkeySentinel() as watched:

        def kill() -> None:
            old = watched.master
            new = watched.fail_over()
            old.start()
            old.call("REPLICAOF", HOST, new.port)  # the sentinel would do it too, but takes its time
            old.until(lambda: old.follows(new), "follow the new master")

        url = watched.url(durability="replicated:1")
        await live_through(
            url, [in_thread(kill)] * 2, tmp_path, once=True, pauses=PAUSES, seen_at=lambda: watched.master.url()
        )
