"""The way to a cluster: which node has which slot, as the nodes tell it."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from redis.exceptions import ClusterDownError, MovedError, RedisError, ResponseError

from perdure.store.redis.connections import Node
from perdure.store.redis.settings import Address, Settings


class ClusterLink:
    """See `perdure.store.redis.links.Link`.

    Every call is one script with the keys of one slot, so that all there is to do is to find the slot's master, and to
    go where a node sends us while a slot is being moved.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._nodes: dict[Address, Node] = {}
        self._firsts: list[int] = []
        self._ranges: list[tuple[int, Address]] = []
        self._moved: dict[int, Address] = {}
        self._asked = 0

    async def node(self, slot: int) -> Node:
        """See `Link`."""
        if not self._ranges:
            await self._ask_for_slots()
        if slot in self._moved:
            return self.at(self._moved[slot])
        place = bisect_right(self._firsts, slot) - 1
        if place < 0 or slot > self._ranges[place][0]:
            self.look_again()
            raise ClusterDownError(f"CLUSTERDOWN no master has slot {slot}")
        return self.at(self._ranges[place][1])

    def at(self, address: Address) -> Node:
        """See `Link`."""
        if address not in self._nodes:
            self._nodes[address] = Node(address, self._settings)
        return self._nodes[address]

    async def moved(self, error: MovedError, told_by: Address) -> None:
        """See `Link`."""
        self._moved[error.slot_id] = Address(error.host or told_by.host, error.port)

    def look_again(self) -> None:
        """See `Link`."""
        self._ranges, self._firsts, self._moved = [], [], {}

    async def close(self) -> None:
        """See `Link`."""
        for node in self._nodes.values():
            await node.close()

    async def _ask_for_slots(self) -> None:
        """Ask the first node that answers: those that did lately before the others, and each time another one of them.

        A node that was cut off from the others may tell what is no longer so.
        """
        failure: BaseException | None = None
        known = list(dict.fromkeys([*self._nodes, *self._settings.addresses]))
        self._asked += 1
        turned = [known[(self._asked + step) % len(known)] for step in range(len(known))]
        for address in sorted(turned, key=lambda address: not self.at(address).is_known):
            try:
                (ranges,) = await self.at(address).send([("CLUSTER", "SLOTS")])
            except (RedisError, OSError) as error:
                failure = error
                await self.at(address).lose()
                continue
            if isinstance(ranges, ResponseError):
                failure = ranges
            elif ranges:
                self._note(ranges, address)
                return
            else:
                failure = ClusterDownError("CLUSTERDOWN no slot has a master")
        raise failure or ClusterDownError("CLUSTERDOWN no node is known")

    def _note(self, ranges: list[Any], told_by: Address) -> None:
        found = sorted(
            ((int(first), int(last), _address(master, told_by)) for first, last, master, *_ in ranges),
            key=lambda part: part[0],
        )
        self._firsts = [first for first, _, _ in found]
        self._ranges = [(last, address) for _, last, address in found]
        self._moved = {}


def _address(master: list[Any], told_by: Address) -> Address:
    """Return where a master is; a node that does not know its own name is where it answered."""
    host = (master[0] or b"").decode()
    return Address(told_by.host if host in {"", "?"} else host, int(master[1]))
