"""Graphs against the enumeration of all their paths and masks."""

import itertools

import numpy as np
import pytest
import torch

from lib.supergraphs.fabric import trellis
from lib.supergraphs.shared.graph import Edge, Graph

DIAMOND = Graph(
    (
        Edge("a", "in", "top"),
        Edge("b", "in", "bottom"),
        Edge("c", "top", "out"),
        Edge("d", "bottom", "out"),
        Edge("e", "top", "bottom"),
        Edge("e again", "top", "bottom"),
    ),
    "in",
    "out",
)


def all_paths(graph: Graph, mask, node: str | None = None) -> list[tuple[int, ...]]:
    """Every path from the node, default the input, to the output, as the numbers of its edges."""
    node = graph.input if node is None else node
    if node == graph.output:
        return [()]
    steps = [(i, edge) for i, edge in enumerate(graph.edges) if edge.source == node and mask[i]]
    return [(i, *rest) for i, edge in steps for rest in all_paths(graph, mask, edge.target)]


def every_mask(edges: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([False, True], repeat=edges)))


@pytest.mark.parametrize(
    "graph", [DIAMOND, trellis(layers=2, scales=2), trellis(layers=2, scales=3, task="segmentation")]
)
def test_live_edges_and_paths_are_those_of_enumeration(graph):
    masks = every_mask(len(graph.edges))
    masks = masks[torch.randperm(len(masks), generator=torch.Generator().manual_seed(0))[:150]]
    live, connected = graph.live(masks), graph.connected(masks)
    for mask, kept, whole in zip(masks, live, connected, strict=True):
        paths = all_paths(graph, mask)
        assert graph.paths(mask) == len(paths)
        assert set(kept.nonzero().flatten().tolist()) == {i for path in paths for i in path}
        assert bool(whole) == bool(paths)
        assert torch.equal(graph.live(mask), kept)


def test_order_has_each_edge_after_those_that_lead_to_it():
    graph = trellis(layers=4, scales=3)
    place = {i: n for n, i in enumerate(graph.order)}
    assert sorted(place) == list(range(len(graph.edges)))
    for i, edge in enumerate(graph.edges):
        assert all(place[j] < place[i] for j in graph.entering[edge.source])


def test_the_cheapest_path_is_the_cheapest_of_all():
    graph = trellis(layers=3, scales=3)
    random = np.random.default_rng(0)
    for _ in range(5):
        costs = {
            edge.name: float(cost) for edge, cost in zip(graph.edges, random.random(len(graph.edges)), strict=True)
        }
        value, path = graph.cheapest_path(costs)
        sums = {p: sum(costs[graph.edges[i].name] for i in p) for p in all_paths(graph, [True] * len(graph.edges))}
        best = min(sums, key=sums.__getitem__)
        assert value == pytest.approx(sums[best])
        assert set(path.nonzero().flatten().tolist()) == set(best)


def test_random_paths_are_drawn_with_the_same_probability():
    graph, random = DIAMOND, np.random.default_rng(0)
    paths = all_paths(graph, [True] * 6)
    draws = [tuple(graph.random_path(random).nonzero().flatten().tolist()) for _ in range(2000)]
    counts = np.array([sum(set(draw) == set(path) for draw in draws) for path in paths])
    assert counts.sum() == 2000
    assert ((counts - 2000 / len(paths)) ** 2 / (2000 / len(paths))).sum() < 11.3  # chi-squared, 3 degrees, 1 %


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((), "no path leads from 'in' to 'out'"),
        ((Edge("a", "in", "x"), Edge("b", "y", "out")), "no path leads from 'in' to 'out': the graph holds no network"),
        ((Edge("a", "in", "out"), Edge("a", "in", "out")), "two edges are called 'a'"),
        ((Edge("a", "in", "out"), Edge("b", "in", "x")), "edge 'b' lies on no path from 'in' to 'out'"),
        ((Edge("a", "in", "x"), Edge("b", "x", "y"), Edge("c", "y", "x"), Edge("d", "y", "out")), "form the cycle"),
    ],
)
def test_graphs_that_hold_no_network_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        Graph(edges, "in", "out")


@pytest.mark.parametrize(
    "masks", [torch.ones(6), torch.ones(5, dtype=torch.bool), torch.ones(1, 1, 6, dtype=torch.bool)]
)
def test_masks_of_another_kind_are_refused(masks):
    with pytest.raises(ValueError, match=r"this graph has 6 edges and takes bool, \(6,\) or \(n, 6\)"):
        DIAMOND.live(masks)


def test_no_masks_at_all_are_no_masks():
    assert DIAMOND.live(torch.ones(0, 6, dtype=torch.bool)).shape == (0, 6)
