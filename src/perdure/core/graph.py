"""A graph of steps: which come before which, what is wrong with it, and how far a run of it has come.

Nodes are numbered in the order they are given in. What is wrong is told by number, so that whoever has read the graph
from somewhere can say where it stands there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any, NamedTuple


class Flaw(NamedTuple):
    """Something wrong with a graph: at this node, or, unless `edge` is None, at that one of its edges."""

    node: int
    edge: int | None
    message: str


class Fate(Enum):
    """What became of a node. What follows a skipped one goes on; what follows one that cascades is skipped too."""

    DONE = "done"
    SKIPPED = "skipped"
    CASCADES = "cascades"


class Graph:
    """Nodes and what each comes after.

    Args:
        nodes: each node's name, and the names of those that it comes after; `flaws` must have found nothing wrong.

    Attributes:
        names, numbers: of the nodes, and back.
        after: for each node, those that it comes after.
        followers: for each node, those that come after it.
        roots: the nodes that come after nothing.
        ends: the nodes that nothing comes after.
    """

    def __init__(self, nodes: Sequence[tuple[str, Sequence[str]]]) -> None:
        self.names = tuple(name for name, _ in nodes)
        self.numbers = {name: number for number, name in enumerate(self.names)}
        self.after = tuple(tuple(dict.fromkeys(self.numbers[name] for name in after)) for _, after in nodes)
        followers: list[list[int]] = [[] for _ in nodes]
        for node, earlier in enumerate(self.after):
            for each in earlier:
                followers[each].append(node)
        self.followers = tuple(map(tuple, followers))
        self.roots = tuple(node for node, earlier in enumerate(self.after) if not earlier)
        self.ends = tuple(node for node, later in enumerate(self.followers) if not later)
        self.degrees = [len(earlier) for earlier in self.after]
        self._before = self._ancestors()

    def precedes(self, earlier: int, later: int) -> bool:
        """Return whether a node comes before another one, at once or through others."""
        return bool(self._before[later] >> earlier & 1)

    def before(self, node: int) -> AbstractSet[str]:
        """Return the names of all nodes that come before one."""
        return _Names(self, self._before[node])

    def _ancestors(self) -> list[int]:
        """Return for each node the set of those before it, as the bits of a number."""
        before = [0] * len(self.names)
        for node in _in_order(self.after, self.followers):
            for each in self.after[node]:
                before[node] |= before[each] | 1 << each
        return before


class _Names(AbstractSet[str]):
    """A set of nodes by their names, kept as the bits of a number: a graph has as many of them as nodes."""

    __slots__ = ("_bits", "_graph")

    def __init__(self, graph: Graph, bits: int) -> None:
        self._graph = graph
        self._bits = bits

    def __contains__(self, name: object) -> bool:
        number = self._graph.numbers.get(name)  # type: ignore[call-overload]  # whatever is asked for
        return number is not None and bool(self._bits >> number & 1)

    def __iter__(self) -> Iterator[str]:
        return (name for number, name in enumerate(self._graph.names) if self._bits >> number & 1)

    def __len__(self) -> int:
        return self._bits.bit_count()

    @classmethod
    def _from_iterable(cls, names: Iterable[Any]) -> AbstractSet[Any]:
        return frozenset(names)


class Walk:
    """How far one run of a graph has come.

    Attributes:
        doomed: nodes that are to be skipped because something before them cascades.
        left: how many nodes have no fate yet.
    """

    __slots__ = ("_followers", "_waiting", "doomed", "left")

    def __init__(self, graph: Graph) -> None:
        self._followers = graph.followers
        self._waiting = graph.degrees.copy()
        self.doomed: set[int] = set()
        self.left = len(graph.names)

    def settle(self, node: int, fate: Fate) -> list[int]:
        """Tell what became of a node; return those that everything before them is settled of now."""
        self.left -= 1
        followers, waiting = self._followers[node], self._waiting
        if fate is Fate.CASCADES:
            self.doomed.update(followers)
        ready = []
        for follower in followers:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
        return ready


def flaws(nodes: Sequence[tuple[str, Sequence[str]]]) -> list[Flaw]:
    """Return all that is wrong: names that are used twice, edges to nothing or to the node itself, cycles."""
    found: list[Flaw] = []
    numbers: dict[str, int] = {}
    for node, (name, _) in enumerate(nodes):
        if name in numbers:
            found.append(Flaw(node, None, f"the name {name!r} is taken by an earlier step"))
        numbers.setdefault(name, node)
    for node, (name, after) in enumerate(nodes):
        for edge, earlier in enumerate(after):
            if earlier == name:
                found.append(Flaw(node, edge, f"step {name!r} cannot come after itself"))
            elif earlier not in numbers:
                found.append(Flaw(node, edge, f"there is no step {earlier!r}"))
    return found or list(_cycles(nodes, numbers))


def _cycles(nodes: Sequence[tuple[str, Sequence[str]]], numbers: dict[str, int]) -> Iterator[Flaw]:
    """Yield one cycle, if there is any: steps that wait for each other."""
    after = [[numbers[name] for name in dict.fromkeys(earlier)] for _, earlier in nodes]
    followers: list[list[int]] = [[] for _ in nodes]
    for node, earlier in enumerate(after):
        for each in earlier:
            followers[each].append(node)
    left = set(range(len(nodes))) - set(_in_order(after, followers))
    if not left:
        return
    node, path = min(left), [min(left)]
    while True:  # whatever is left comes after something that is left too, so this comes around
        node = next(each for each in after[node] if each in left)
        if node in path:
            break
        path.append(node)
    cycle = [*path[path.index(node) :], node]
    first = min(cycle)
    start = cycle.index(first)
    around = [*cycle[start:-1], *cycle[:start], first]
    names = " after ".join(repr(nodes[each][0]) for each in around)
    edge = next(number for number, name in enumerate(nodes[first][1]) if numbers[name] == around[1])
    yield Flaw(first, edge, f"these steps wait for each other: {names}")


def _in_order(after: Sequence[Sequence[int]], followers: Sequence[Sequence[int]]) -> Iterator[int]:
    """Yield the nodes, each behind those that it comes after; those of a cycle, and behind one, never come."""
    waiting = [len(earlier) for earlier in after]
    ready = deque(node for node, count in enumerate(waiting) if not count)
    while ready:
        node = ready.popleft()
        yield node
        for follower in followers[node]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
