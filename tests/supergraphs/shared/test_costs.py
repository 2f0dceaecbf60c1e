"""Costs against what the extracted network really has, and a second scheduler."""

import math

import given
import numpy as np
import pytest
import torch

from lib import measure
from lib.supergraphs.fabric import fabric, trellis
from lib.supergraphs.shared import costs
from lib.supergraphs.shared.costs import Makespan, Sum, random_mask
from lib.supergraphs.shared.graph import Edge, Graph
from lib.supergraphs.shared.residual_fabric import idle, residual_fabric
from lib.supergraphs.shared.supernetwork import Network, plain

FABRIC, RESIDUAL = fabric(layers=3, size=4, width=3), residual_fabric(widths=(3, 4), blocks=3)


def masks_of(graph: Graph, n: int = 40) -> torch.Tensor:
    return torch.rand(n, len(graph.edges), generator=given.generator()) < 0.7


@pytest.mark.parametrize("network", [FABRIC, RESIDUAL])
def test_a_sum_is_what_the_extracted_network_has(network):
    graph = network.graph
    by_kind = {
        "multiply_adds": Sum(graph, costs.multiply_adds(network, (1, 4, 4))),
        "parameters": Sum(graph, costs.parameters(network)),
    }
    counted = {"multiply_adds": lambda model: measure.multiply_adds(model, (1, 4, 4)), "parameters": measure.parameters}
    masks = masks_of(graph)
    masks = masks[graph.connected(masks)][:4]
    for kind, cost in by_kind.items():
        assert cost(graph.live(masks)).tolist() == [counted[kind](plain(network, mask)) for mask in masks]
        assert (cost(masks) >= cost(graph.live(masks))).all()
        assert cost.full == counted[kind](network)
        lightest = graph.cheapest_path({e.name: float(c) for e, c in zip(graph.edges, cost.costs, strict=True)})[1]
        assert cost.cheapest == counted[kind](plain(network, lightest))


def chain(length: int) -> Graph:
    return Graph(tuple(Edge(f"e{i}", str(i), str(i + 1)) for i in range(length)), "0", str(length))


def independent(edges: int) -> Graph:
    return Graph(tuple(Edge(f"e{i}", "in", "out") for i in range(edges)), "in", "out")


@pytest.mark.parametrize("machines", [1, 2, 3, 7])
def test_makespans_of_chains_and_of_independent_layers(machines):
    for m in (1, 5, 7):
        assert Makespan(chain(m), machines).full == Makespan(chain(m), machines).cheapest == m
        assert Makespan(independent(m), machines).full == math.ceil(m / machines)
        assert Makespan(independent(m), machines).cheapest == 1


def stepped(graph: Graph, mask: list[bool], machines: int, free: list[str]) -> int:
    """Step after step, start the first layers of the topological order whose inputs are there."""
    done: set[int] = set()
    waiting = [i for i in graph.order if mask[i]]
    step = 0

    def ready(i: int) -> bool:
        return all(j in done for j in graph.entering[graph.edges[i].source] if mask[j])

    while waiting:
        while nothing := [i for i in waiting if graph.edges[i].name in free and ready(i)]:
            done.update(nothing)
            waiting = [i for i in waiting if i not in done]
        now = [i for i in waiting if ready(i)][:machines]
        done.update(now)
        waiting = [i for i in waiting if i not in done]
        step += bool(now)
    return step


@pytest.mark.parametrize("network", [FABRIC, RESIDUAL])
def test_makespans_are_those_of_a_scheduler_that_counts_steps(network):
    graph, masks, free = network.graph, masks_of(network.graph), idle(network)
    live, before = graph.live(masks), torch.full((len(masks),), math.inf)
    for machines in (1, 2, 4):
        found = Makespan(graph, machines, idle=free)(masks)
        assert found.tolist() == [stepped(graph, row, machines, free) for row in live.tolist()]
        work = torch.tensor([e.name not in free for e in graph.edges])
        assert (found >= ((live & work).sum(1) / machines).ceil()).all()
        assert (found <= before).all()  # more machines are never slower here
        before = found


def test_layers_that_lead_nowhere_take_no_step():
    cost = Makespan(trellis(layers=3, scales=4), machines=1)
    path = cost.graph.random_path(np.random.default_rng(0))
    more = path.clone()
    more[cost.graph.leaving["l0s0"]] = True
    assert cost(torch.stack([path, more, torch.zeros_like(path)])).tolist() == [int(path.sum())] * 2 + [0]


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_random_masks_are_networks_that_spend_the_budget(share):
    graph = FABRIC.graph
    cost = Sum(graph, costs.parameters(FABRIC))
    masks = torch.stack([random_mask(graph, cost, budget=share * cost.full, seed=seed) for seed in range(5)])
    assert torch.equal(graph.live(masks), masks)
    assert (cost(masks) <= share * cost.full).all()
    assert (cost(masks) > share * cost.full - 3 * float(cost.costs.max())).all()
    assert share == 1 or len({tuple(mask.tolist()) for mask in masks}) > 1
    assert torch.equal(masks[0], random_mask(graph, cost, budget=share * cost.full, seed=0))


def test_bad_input_is_refused():
    graph = independent(2)
    with pytest.raises(ValueError, match="edge 'e1' has no cost: 2 edges need one each"):
        Sum(graph, {"e0": 1.0})
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"the cost of 'e1' is {value}: it must be finite, 0 or more"):
            Sum(graph, {"e0": 1.0, "e1": value})
    with pytest.raises(ValueError, match="machines must be a whole number of 1 or more, not 0"):
        Makespan(graph, 0)
    with pytest.raises(ValueError, match="takes bool"):
        Sum(graph, {"e0": 1.0, "e1": 1.0})(torch.ones(1, 2))
    cost = Sum(graph, {"e0": 3.0, "e1": 4.0})
    with pytest.raises(ValueError, match=r"the budget is 2.5, but the cheapest connected network costs 3"):
        random_mask(graph, cost, budget=2.5, seed=0)
    with pytest.raises(ValueError, match="the budget is nan"):
        random_mask(graph, cost, budget=math.nan, seed=0)
    with pytest.raises(ValueError, match="the whole supergraph costs 0: there is nothing to limit"):
        costs.check_limit(1.0, Sum(graph, {"e0": 0, "e1": 0}))


@pytest.mark.parametrize("name", ["stem", "head"])
@pytest.mark.parametrize("count", [costs.parameters, lambda network: costs.multiply_adds(network, (1, 4, 4))])
def test_an_edge_that_is_called_as_a_fixed_layer_is_refused(name, count):
    layers = {name: torch.nn.Conv2d(2, 2, 3)}
    stem, head = torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten()
    network = Network(Graph((Edge(name, "in", "out"),), "in", "out"), layers, stem=stem, head=head, channels=1)
    with pytest.raises(ValueError, match=f"an edge is called '{name}'"):
        count(network)


def test_a_budget_that_random_paths_miss_is_refused():
    edges = [Edge("cheap", "in", "out"), *(Edge(f"e{i}", "in", "out") for i in range(999))]
    graph = Graph(tuple(edges), "in", "out")
    cost = Sum(graph, {edge.name: 1.0 + 9 * (edge.name != "cheap") for edge in edges})
    with pytest.raises(ValueError, match="none of 20 random paths costs 2 or less: the cheapest network costs 1"):
        random_mask(graph, cost, budget=2, seed=0, tries=1)
