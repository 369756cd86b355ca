"""A Valkey Cluster on this machine, made and moved about by commands alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self
from urllib.parse import quote, urlencode

from tests.serving.process import HOST, free_port
from tests.serving.valkey import ValkeyServer

SLOTS = 16384


class ClusterNode(ValkeyServer):
    """One node; see `ValkeyServer`."""

    name = "cluster"

    def __init__(self, **config: str) -> None:
        modes = {"cluster_enabled": "yes", "cluster_port": str(free_port()), "cluster_node_timeout": "1500"}
        # A replica of nobody's data takes over whatever its age, and a cluster with a hole serves the rest.
        lenient = {"cluster_replica_validity_factor": "0", "cluster_require_full_coverage": "no"}
        super().__init__(**{**modes, **lenient, **config})

    @property
    def id(self) -> str:
        return str(self.call("CLUSTER", "MYID"))

    def nodes(self) -> list[list[str]]:
        """What this node knows of all: the words of each line of CLUSTER NODES."""
        return [line.split() for line in self.call("CLUSTER", "NODES").splitlines()]

    def is_ok(self) -> bool:
        return "cluster_state:ok" in self.call("CLUSTER", "INFO")


class ValkeyCluster:
    """Masters that share the slots evenly, each with the same number of replicas.

    Args:
        config: of every node, as for `ValkeyServer`.
    """

    def __init__(self, masters: int = 3, replicas: int = 0, **config: str) -> None:
        secret = {"masterauth": config["requirepass"]} if "requirepass" in config else {}
        self.nodes = [ClusterNode(**config, **secret) for _ in range(masters * (1 + replicas))]
        self._first = self.nodes[:masters]

    def url(self, node: int = 0, **options: str) -> str:
        """The URL of one node, which stands for all; `options` stand behind its `?`."""
        password = self.nodes[node].password
        secret = f":{quote(password, safe='')}@" if password else ""
        query = f"?{urlencode(options)}" if options else ""
        return f"redis://{secret}{HOST}:{self.nodes[node].port}{query}"

    def start(self) -> Self:
        for node in self.nodes:
            node.begin()
        for node in self.nodes:
            node.until(node.answers, "start")
        share = SLOTS / len(self._first)
        for number, node in enumerate(self._first):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.call("CLUSTER", "ADDSLOTSRANGE", round(number * share), round((number + 1) * share) - 1)
        for node in self.nodes[1:]:
            node.call("CLUSTER", "MEET", HOST, self.nodes[0].port, self.nodes[0].config["cluster-port"])
        self._until(lambda node: len(node.nodes()) == len(self.nodes), "meet all others")
        for number, node in enumerate(self.nodes[len(self._first) :]):
            node.call("CLUSTER", "REPLICATE", self._first[number % len(self._first)].id)
        self._until(ClusterNode.is_ok, "see every slot served")
        for number, node in enumerate(self.nodes[len(self._first) :]):
            master = self._first[number % len(self._first)]
            node.until(lambda node=node, master=master: node.follows(master), "follow its master")
        self._until(self._sees_all, "see who is a replica")
        return self

    @property
    def masters(self) -> list[ClusterNode]:
        """The nodes that serve slots now."""
        return [node for node in self.nodes if node.is_running and node.call("ROLE")[0] == "master"]

    def owner(self, slot: int) -> ClusterNode:
        """The node that serves a slot, as the masters agree."""
        for first, last, (_, port, *_), *_ in self.masters[0].call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self._at(port)
        raise AssertionError(f"nobody serves slot {slot}")

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(self.masters[0].call("CLUSTER", "KEYSLOT", key))

    def replicas_of(self, master: ClusterNode) -> list[ClusterNode]:
        return [node for node in self.nodes if node.is_running and node is not master and node.follows(master)]

    def migrate_slot(self, slot: int, to: ClusterNode, between: Callable[[], object] | None = None) -> None:
        """Move a slot as the classic tools do, key by key; `between` is called when half of the keys have moved."""
        source = self.owner(slot)
        to.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        half = (len(keys) + 1) // 2
        self._move(source, to, keys[:half])
        if between is not None:
            between()
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self._move(source, to, keys)
        others = [node for node in self.masters if node not in (to, source)]
        for node in (to, source, *others):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        self._until(lambda node: self._serves(node, slot) == to.port, f"see slot {slot} moved")

    def migrate_slots_at_once(self, first: int, last: int, to: ClusterNode) -> None:
        """Move slots as Valkey 9 does by itself: whole, while they are served."""
        source = self.owner(first)
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", to.id)
        self._until(lambda node: self._serves(node, first) == to.port, f"see slot {first} moved")

    def fail_over(self, master: ClusterNode) -> ClusterNode:
        """Kill a master; wait until its replica serves its slots, as all see it, and return that one."""
        new = self.replicas_of(master)[0]
        master.kill()
        self._until_master(new)
        return new

    def hand_over(self, master: ClusterNode) -> ClusterNode:
        """Let a master and its replica change places in order; return the new master."""
        new = self.replicas_of(master)[0]
        new.call("CLUSTER", "FAILOVER")
        self._until_master(new)
        return new

    def remove(self) -> None:
        """Stop all of them for good."""
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _move(self, source: ClusterNode, to: ClusterNode, keys: list[str]) -> None:
        if keys:
            secret = ["AUTH", source.password] if source.password else []
            source.call("MIGRATE", HOST, to.port, "", 0, 5000, *secret, "KEYS", *keys)

    def _until(self, holds: Callable[[ClusterNode], Any], what: str) -> None:
        for node in self.nodes:
            if node.is_running:
                node.until(lambda node=node: holds(node), what)

    def _until_master(self, new: ClusterNode) -> None:
        new.until(lambda: new.call("ROLE")[0] == "master", "become a master")
        (slots,) = [line[8:] for line in new.nodes() if "myself" in line[2]]
        first = int(slots[0].partition("-")[0])
        self._until(lambda node: node.is_ok() and self._serves(node, first) == new.port, "see the new master")

    def _serves(self, node: ClusterNode, slot: int) -> int | None:
        for first, last, (_, port, *_), *_ in node.call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return int(port)
        return None

    def _sees_all(self, node: ClusterNode) -> bool:
        roles = sorted("master" if "master" in line[2] else "replica" for line in node.nodes())
        return roles == sorted(["master"] * len(self._first) + ["replica"] * (len(self.nodes) - len(self._first)))

    def _at(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == int(port))
