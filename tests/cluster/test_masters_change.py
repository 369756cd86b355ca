"""Masters that give way to their replicas, in order or killed, while runs are in flight."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.living import TIMEOUT, in_thread, live_through
from tests.servers import ClusterNode, ValkeyCluster, ValkeySentinel
from tests.serving.process import HOST

PAUSES = (1.0, 4.0)
"""Seconds between two changes: for as long as one takes, some of the runs stand still."""

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]


BEHIND = 2_000
"""Bytes of writes that a replica has not heard of, if there are as many, when its master is killed."""


@pytest.fixture
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(3, 1) as cluster:
        yield cluster


class Changer:
    """Lets one master after the other give way; the first is the one that everybody was told of."""

    def __init__(self, cluster: ValkeyCluster) -> None:
        self.cluster = cluster
        self.pairs = itertools.cycle(list(zip(cluster.nodes[:3], cluster.nodes[3:], strict=True)))

    def hand_over(self) -> None:
        self.cluster.hand_over(self.next_master())

    def kill(self) -> None:
        """Kill a master whose replica is behind; it comes back as a replica of that one."""
        old = self.next_master()
        (new,) = self.cluster.replicas_of(old)
        assert new.process is not None
        new.process.send_signal(signal.SIGSTOP)
        old.call("CLIENT", "KILL", "TYPE", "replica")  # what it was sent before, it still has to read
        sent, deadline = offset(old), time.monotonic() + 1.0  # by then there may be nothing more to write
        while offset(old) < sent + BEHIND and time.monotonic() < deadline:
            time.sleep(0.01)
        old.kill()
        new.process.send_signal(signal.SIGCONT)
        new.until(lambda: new.call("ROLE")[0] == "master", "take over")
        old.start()
        old.until(lambda: old.follows(new), "follow the new master")

    def next_master(self) -> ClusterNode:
        pair = next(self.pairs)
        return next(node for node in self.cluster.masters if node in pair)


def offset(master: ClusterNode) -> int:
    """How many bytes of writes a master has sent to its replicas."""
    return int(master.info("replication")["master_repl_offset"])


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
