from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.graph import Fate, Flaw, Graph, Walk, flaws

DIAMOND = [("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("b", "c", "b"))]


def test_what_comes_before_what():
    graph = Graph(DIAMOND)
    assert graph.roots == (0,)
    assert graph.ends == (3,)
    assert graph.followers == ((1, 2), (3,), (3,), ())
    assert graph.after[3] == (1, 2)
    assert graph.precedes(0, 3)
    assert not graph.precedes(1, 2)
    assert not graph.precedes(3, 3)
    assert graph.before(3) == {"a", "b", "c"}
    assert graph.before(0) == frozenset()
    assert "c" in graph.before(3)
    assert {"d", "x", 5}.isdisjoint(graph.before(3))
    assert len(graph.before(3)) == 3
    assert graph.before(1) | {"z"} == frozenset({"a", "z"})


def test_a_name_that_is_taken():
    assert flaws([("a", ()), ("a", ())]) == [Flaw(1, None, "the name 'a' is taken by an earlier step")]


def test_edges_to_nothing_and_to_itself():
    assert flaws([("a", ("a",)), ("b", ("a", "x"))]) == [
        Flaw(0, 0, "step 'a' cannot come after itself"),
        Flaw(1, 1, "there is no step 'x'"),
    ]


def test_a_cycle_is_told_step_by_step():
    nodes = [("first", ()), ("a", ("first", "c")), ("b", ("a",)), ("c", ("b",)), ("last", ("c",))]
    assert flaws(nodes) == [Flaw(1, 1, "these steps wait for each other: 'a' after 'c' after 'b' after 'a'")]


def test_a_cycle_is_found_from_a_step_behind_it():
    nodes = [("last", ("b",)), ("a", ("b",)), ("b", ("a",))]
    assert flaws(nodes) == [Flaw(1, 0, "these steps wait for each other: 'a' after 'b' after 'a'")]


def test_a_graph_without_flaws():
    assert flaws(DIAMOND) == []
    assert flaws([]) == []


def test_a_node_is_ready_when_everything_before_it_is_settled():
    walk = Walk(Graph(DIAMOND))
    assert walk.settle(0, Fate.DONE) == [1, 2]
    assert walk.settle(2, Fate.SKIPPED) == []
    assert walk.settle(1, Fate.DONE) == [3]
    assert walk.doomed == set()
    assert walk.left == 1


def test_what_cascades_dooms_what_follows_it():
    walk = Walk(Graph(DIAMOND))
    walk.settle(0, Fate.DONE)
    walk.settle(1, Fate.CASCADES)
    assert walk.settle(2, Fate.DONE) == [3]
    assert walk.doomed == {3}


def test_two_runs_of_one_graph_know_nothing_of_each_other():
    graph = Graph(DIAMOND)
    Walk(graph).settle(0, Fate.DONE)
    assert Walk(graph).settle(0, Fate.DONE) == [1, 2]


@st.composite
def acyclic(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    nodes = []
    for at in range(count):
        earlier = [f"n{order[i]}" for i in range(at) if draw(st.booleans())]
        nodes.append((f"n{order[at]}", earlier))
    return draw(st.permutations(nodes))


@given(acyclic(), st.data())
def test_every_node_comes_once_and_behind_what_it_comes_after(nodes: list[tuple[str, list[str]]], data: st.DataObject):
    assert flaws(nodes) == []
    graph = Graph(nodes)
    walk = Walk(graph)
    ready, settled = list(graph.roots), []
    while ready:
        node = ready.pop(data.draw(st.integers(0, len(ready) - 1)))
        assert set(graph.after[node]) <= set(settled)
        assert graph.before(node) <= {graph.names[each] for each in settled}
        settled.append(node)
        ready += walk.settle(node, Fate.DONE)
    assert sorted(settled) == list(range(len(nodes)))
    assert walk.left == 0


@given(st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=7, max_size=7))
def test_a_graph_either_has_a_flaw_or_can_be_walked_to_its_end(edges: list[list[int]]):
    nodes = [(f"n{at}", [f"n{each}" for each in after]) for at, after in enumerate(edges)]
    found = flaws(nodes)
    if found:
        return
    graph = Graph(nodes)
    walk = Walk(graph)
    ready = list(graph.roots)
    while ready:
        ready += walk.settle(ready.pop(), Fate.DONE)
    assert walk.left == 0
