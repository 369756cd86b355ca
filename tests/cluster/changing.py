"""What changes in a cluster while it is used: which master has a slot, and which server is a master."""

from __future__ import annotations

import itertools
import signal
import time

from tests.crash.kept_in_valkey import tags
from tests.servers import ClusterNode, ValkeyCluster

BEHIND = 2_000
"""Bytes of writes that a replica has not heard of, if there are as many, when its master is killed."""


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
