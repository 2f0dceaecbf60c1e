"""Graphs with historical markings: what is a graph, mutations, crossover, distance."""

from collections import namedtuple

import numpy as np
import pytest

from lib.neuroevolution.shared import graphs
from lib.neuroevolution.shared.graphs import INPUT, OUTPUT, Choices, Graph, Link, Markings

Letters = namedtuple("Letters", "first second")
Plan = namedtuple("Plan", "rate")
CHOICES = Choices(Letters, {"first": "abc", "second": "xyz"}, Plan, {"rate": (1, 2, 3)})


def grown(mutations: int, seed: int, markings: Markings) -> Graph:
    """A graph after so many mutations of structure."""
    random = np.random.default_rng(seed)
    graph = graphs.minimal(CHOICES, markings, random)
    for _ in range(mutations):
        if random.random() < 0.5:
            graph = graphs.add_node(graph, CHOICES, markings, random)
        else:
            graph = graphs.add_link(graph, markings, random)
    return graph


def paths(graph: Graph) -> int:
    """The number of enabled ways from the input to the output, by following each of them."""

    def count(node: int) -> int:
        return 1 if node == OUTPUT else sum(count(k.target) for k in graph.links if k.enabled and k.source == node)

    return count(INPUT)


def test_the_minimal_graph_is_one_node_between_input_and_output():
    markings = Markings()
    first, second = grown(0, 0, markings), grown(0, 1, markings)
    assert first.order() == [2, OUTPUT] and first.sources(OUTPUT) == [2] and first.sources(2) == [INPUT]
    assert first.links == second.links and isinstance(first.nodes[2], Letters) and isinstance(first.nodes[1], Plan)


def test_no_marking_has_two_meanings_in_a_population():
    markings, links, origins = Markings(), {}, {}
    for seed in range(30):
        graph = grown(12, seed, markings)
        for link in graph.links:
            assert links.setdefault(link.number, (link.source, link.target)) == (link.source, link.target)
    for link, node in markings.nodes.items():
        assert origins.setdefault(node, link) == link
    assert len(set(links.values())) == len(links) > 50  # and no connection has two markings


def test_the_same_mutation_gets_the_same_marking_in_two_graphs():
    markings, random = Markings(), np.random.default_rng(0)
    first = graphs.minimal(CHOICES, markings, random)
    second = graphs.minimal(CHOICES, markings, random)
    made = [graphs.add_link(graph, markings, random) for graph in (first, second)]
    assert made[0].links == made[1].links  # only input -> output was missing
    splits = [graphs.add_node(first, CHOICES, markings, np.random.default_rng(5)).links for _ in range(2)]
    assert splits[0] == splits[1]


def test_a_new_node_leaves_the_split_connection_as_a_disabled_gene():
    markings = Markings()
    graph = grown(0, 0, markings)
    split = graphs.add_node(graph, CHOICES, markings, np.random.default_rng(0))
    (new,) = set(split.nodes) - set(graph.nodes)
    (off,) = [link for link in split.links if not link.enabled]
    assert (off.source, off.target) in {(k.source, k.target) for k in graph.links} and len(split.links) == 4
    assert split.sources(new) == [off.source] and split.sources(off.target) == [new]
    assert all(link.enabled for link in graph.links)


@pytest.mark.parametrize("seed", range(5))
def test_each_connection_adds_ways_until_all_nodes_are_connected(seed):
    markings, random = Markings(), np.random.default_rng(seed)
    graph = grown(4, seed, markings)
    while True:
        more = graphs.add_link(graph, markings, random)
        if more is graph:
            break
        assert paths(more) > paths(graph)
        graph = more
    inner = len(graph.nodes) - 1  # in a complete order each node may be passed or not
    assert paths(graph) == 2**inner and sum(k.enabled for k in graph.links) == (inner + 2) * (inner + 1) // 2


def test_a_connection_is_split_once_in_a_graph():
    markings, random = Markings(), np.random.default_rng(0)
    graph = grown(0, 0, markings)
    one = graphs.add_node(graph, CHOICES, markings, random)
    back = Graph(one.nodes, tuple(link._replace(enabled=True) for link in one.links))
    for seed in range(20):
        twice = graphs.add_node(back, CHOICES, markings, np.random.default_rng(seed))
        assert len(twice.nodes) == 4


def test_a_change_gives_one_node_one_other_value():
    graph, seen = grown(3, 0, Markings()), set()
    for seed in range(200):
        changed = graphs.change(graph, CHOICES, np.random.default_rng(seed))
        (node,) = [n for n in graph.nodes if changed.nodes[n] != graph.nodes[n]]
        assert sum(x != y for x, y in zip(changed.nodes[node], graph.nodes[node], strict=True)) == 1
        assert changed.links == graph.links and type(changed.nodes[node]) is type(graph.nodes[node])
        seen.add((node, changed.nodes[node]))
    ways = sum(2 if n == OUTPUT else 4 for n in graph.nodes)  # each value has two others
    assert len(seen) == ways
    fixed = Choices(Letters, {"first": "a", "second": "x"}, Plan, {"rate": (1,)})
    one = graphs.minimal(fixed, Markings(), np.random.default_rng(0))
    assert graphs.change(one, fixed, np.random.default_rng(0)) is one


def test_a_graph_crossed_with_itself_is_itself():
    for seed in range(10):
        graph = grown(8, seed, Markings())
        assert graphs.cross(graph, graph, np.random.default_rng(seed)) == graph


def test_common_nodes_come_from_either_parent_and_others_from_the_fitter():
    markings = Markings()
    fitter, other = grown(12, 0, markings), grown(12, 4, markings)
    fitter = Graph({n: v._replace(**{v._fields[0]: "f"}) for n, v in fitter.nodes.items()}, fitter.links)
    common, children = set(fitter.nodes) & set(other.nodes), []
    assert len(common) > 1 and set(fitter.nodes) - common and set(other.nodes) - common
    for seed in range(400):
        child = graphs.cross(fitter, other, np.random.default_rng(seed))
        assert child.links == fitter.links
        assert all(child.nodes[n] == fitter.nodes[n] for n in set(fitter.nodes) - common)
        assert all(child.nodes[n] in (fitter.nodes[n], other.nodes[n]) for n in common)
        children.append(child)
    for node in common:
        share = np.mean([child.nodes[node][0] == "f" for child in children])
        assert abs(share - 0.5) < 4 * 0.5 / 20


def test_distance_is_symmetric_zero_to_itself_and_at_most_three():
    markings = Markings()
    made = [grown(n, seed, markings) for seed in range(4) for n in (0, 3, 9)]
    for a in made:
        assert graphs.distance(a, a) == 0
        for b in made:
            assert graphs.distance(a, b) == graphs.distance(b, a) <= 3


def test_distance_counts_genes_and_values_as_worked_out_by_hand():
    markings, plan = Markings(), Plan(1)
    graph = Graph({1: plan, 2: Letters("a", "x")}, (Link(1, 0, 2), Link(2, 2, 1)))
    assert markings.node(markings.link(0, 1)) == 2 and markings.link(0, 2) == 1 and markings.link(2, 1) == 2
    other = Graph(
        {1: plan, 2: Letters("a", "y"), 3: Letters("c", "z")},
        (Link(1, 0, 2), Link(2, 2, 1, False), Link(3, 2, 3), Link(4, 3, 1)),
    )
    # 7 genes against 4, three in one only; of the values, half of a node's, none of the output's
    assert graphs.distance(graph, other) == pytest.approx(3 / 7 + (0.5 + 0) / 2)


@pytest.mark.parametrize(
    ("nodes", "links", "message"),
    [
        ((2,), (Link(1, 0, 2),), "values for its output, 1, and none for its input"),
        ((0, 1), (Link(1, 0, 1),), "none for its input"),
        ((1, 2), (Link(1, 0, 2), Link(2, 2, 3)), "the connection 2 -> 3 must not leave the output"),
        ((1, 2), (Link(1, 0, 2), Link(2, 1, 2)), "the connection 1 -> 2 must not leave the output"),
        ((1, 2), (Link(1, 0, 2), Link(1, 2, 1)), "each number and each pair once"),
        ((1, 2), (Link(1, 0, 2), Link(2, 2, 1), Link(3, 2, 1)), "each number and each pair once"),
        ((1, 2), (Link(2, 0, 2), Link(1, 2, 1)), "in the order of their numbers"),
        ((1, 2, 3), (Link(1, 0, 2), Link(2, 2, 3), Link(3, 3, 2), Link(4, 3, 1)), r"\[1, 2, 3\] form a cycle"),
        ((1, 2), (Link(1, 0, 2), Link(2, 2, 1, False)), "node 1 is on no enabled path"),
        ((1, 2, 3), (Link(1, 0, 2), Link(2, 2, 1), Link(3, 0, 3)), "node 3 is on no enabled path"),
        ((1, 2), (Link(1, 0, 1), Link(2, 2, 1)), "node 2 is on no enabled path"),
    ],
)
def test_what_is_no_graph_is_refused(nodes, links, message):
    with pytest.raises(ValueError, match=message):
        Graph(dict.fromkeys(nodes, ()), links)
