"""What a masked supergraph costs: a sum over its edges (multiply-adds, parameters, latency), or steps on n machines."""

import math
from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lib import measure
from lib.arguments import check_sizes
from lib.supergraphs.shared.graph import Graph
from lib.supergraphs.shared.supernetwork import Network


class Cost(Protocol):
    """What masks cost, in a unit of its own.

    full: of the whole supergraph.
    cheapest: of the cheapest connected network.
    """

    full: float
    cheapest: float

    def __call__(self, masks: Tensor) -> Tensor:
        """Return the cost of each mask, (n,) float64.

        masks: bool, (n, edges).
        """


class Sum:
    """The cost of a mask is the sum of the costs of its edges, and of the layers that are always there.

    graph: of the supergraph.
    costs: name -> cost, 0 or more, in any unit: multiply-adds, parameters, milliseconds of a latency table. All edges
        must be in it. Other names ("stem", "head") are layers that no mask can leave out.

    Raises ValueError for an edge without a cost, and for costs that are negative or not finite.

    >>> from lib.supergraphs.fabric import trellis
    >>> graph = trellis(layers=3, scales=4)
    >>> cost = Sum(graph, {**{edge.name: 2.0 for edge in graph.edges}, "head": 1.0})
    >>> cost.full, cost.cheapest, cost(torch.zeros(1, 26, dtype=torch.bool)).tolist()
    (53.0, 7.0, [1.0])
    """

    def __init__(self, graph: Graph, costs: Mapping[str, float]) -> None:
        names = [edge.name for edge in graph.edges]
        for name in names:
            if name not in costs:
                raise ValueError(f"edge {name!r} has no cost: {len(names)} edges need one each")
        for name, value in costs.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"the cost of {name!r} is {value}: it must be finite, 0 or more")
        self.graph = graph
        self.costs = torch.tensor([float(costs[name]) for name in names], dtype=torch.float64)
        self.fixed = float(sum(value for name, value in costs.items() if name not in names))
        self.full = self.fixed + float(self.costs.sum())
        self.cheapest = self.fixed + graph.cheapest_path(costs)[0]

    def __call__(self, masks: Tensor) -> Tensor:
        self.graph.check(masks)
        return self.fixed + masks.double() @ self.costs.to(masks.device)


class Makespan:
    r"""The cost of a mask is the number of steps that n machines need for it (veniat2018learning, distributed cost).

    Each layer takes one step on one machine, and must wait for the layers that it reads. The schedule is greedy: in
    topological order, each layer runs in the first step that is late enough and has a free machine. Layers that lead
    nowhere are not run, so a mask costs as much as the network that is left of it.

    graph: of the supergraph.
    machines: n, 1 or more.
    idle: names of edges that take no step, such as identities.

    Raises ValueError for machines below 1.

    >>> from lib.supergraphs.fabric import trellis
    >>> [Makespan(trellis(layers=3, scales=4), machines=n).full for n in (1, 2, 4)]
    [26.0, 14.0, 9.0]
    """

    def __init__(self, graph: Graph, machines: int, *, idle: Collection[str] = ()) -> None:
        check_sizes({"machines": machines})
        self.graph, self.machines = graph, machines
        self.steps = [int(edge.name not in idle) for edge in graph.edges]
        self.full = float(self(torch.ones(1, len(graph.edges), dtype=torch.bool)))
        lengths = {edge.name: float(steps) for edge, steps in zip(graph.edges, self.steps, strict=True)}
        self.cheapest = graph.cheapest_path(lengths)[0]

    def __call__(self, masks: Tensor) -> Tensor:
        live = self.graph.live(masks)
        rows, steps = torch.arange(len(live), device=live.device), torch.arange(len(self.steps), device=live.device)
        busy = steps.new_zeros(len(live), len(self.steps))  # machines that are taken, in each step
        ready = {node: steps.new_zeros(len(live)) for node in self.graph.nodes}
        # method
        for i in self.graph.order:
            edge, on = self.graph.edges[i], live[:, i].long()
            finished = ready[edge.source]
            if self.steps[i]:
                free = (busy < self.machines) & (steps >= finished[:, None])
                start = free.int().argmax(1)  # the first
                busy[rows, start] += on
                finished = start + 1
            ready[edge.target] = torch.maximum(ready[edge.target], on * finished)
        # end of method
        return ready[self.graph.output].double()


def multiply_adds(network: Network, shape: tuple[int, ...]) -> dict[str, int]:
    """Count the multiply-adds of each edge, and of "stem" and "head", for one image.

    network: all of it runs once; it is not changed.
    shape: of an image, (channels, height, width).

    Raises ValueError for an edge that is called "stem" or "head".

    >>> from lib.supergraphs.fabric import fabric
    >>> network = fabric(layers=2, size=2, width=4)
    >>> multiply_adds(network, (1, 2, 2))["l0s0_l1s0"] == 2 * 2 * 9 * 4 * 4
    True
    """
    counts = dict.fromkeys(_parts(network), 0)
    for name, count in measure.multiply_adds_by_layer(network, shape).items():
        owner = name.removeprefix("layers.").split(".")[0]
        counts[owner] += count
    return counts


def parameters(network: Network) -> dict[str, int]:
    """Count the parameters of each edge, and of "stem" and "head".

    network: any supergraph.

    Raises ValueError for an edge that is called "stem" or "head".

    >>> from lib.supergraphs.fabric import fabric
    >>> parameters(fabric(layers=2, size=2, width=4))["l0s0_l1s0"] == 9 * 4 * 4 + 2 * 4
    True
    """
    return {name: measure.parameters(layer) for name, layer in _parts(network).items()}


def _parts(network: Network) -> dict[str, nn.Module]:
    for name in ("stem", "head"):
        if name in network.layers:
            raise ValueError(f"an edge is called {name!r}, as a layer that no mask can leave out: rename the edge")
    return {**network.layers, "stem": network.stem, "head": network.head}


def check_limit(budget: float, cost: Cost) -> None:
    """Raise ValueError for a budget that is not finite or too small for every network, and if everything is free.

    budget: the largest cost, in the unit of the cost.
    cost: what masks cost.
    """
    if cost.full == 0:
        raise ValueError("the whole supergraph costs 0: there is nothing to limit")
    if not math.isfinite(budget) or budget < cost.cheapest:
        raise ValueError(f"the budget is {budget:g}, but the cheapest connected network costs {cost.cheapest:g}")


def random_mask(graph: Graph, cost: Cost, *, budget: float, seed: int, tries: int = 50) -> Tensor:
    """Draw a connected mask that uses up a budget, by adding random paths until no other one fits.

    graph: of the supergraph.
    cost: what masks cost.
    budget: the largest cost, in its unit.
    seed: integer.
    tries: paths that are drawn and do not fit before the mask is done, default 50.

    Returns a mask, bool (edges,). Raises ValueError for a budget below the cheapest connected network, and if none of
    the first 20 x ``tries`` paths fits alone.

    >>> from lib.supergraphs.fabric import trellis
    >>> graph = trellis(layers=3, scales=4)
    >>> cost = Makespan(graph, machines=1)
    >>> [float(cost(random_mask(graph, cost, budget=13, seed=seed)[None])) for seed in range(3)]
    [13.0, 13.0, 13.0]
    """
    check_limit(budget, cost)
    random = np.random.default_rng(seed)
    mask = torch.zeros(len(graph.edges), dtype=torch.bool)
    failures = 0
    while failures < (tries if mask.any() else 20 * tries):
        more = mask | graph.random_path(random)
        if torch.equal(more, mask) or float(cost(more[None])) > budget:
            failures += 1
        else:
            mask, failures = more, 0
    if not mask.any():
        raise ValueError(
            f"none of {failures} random paths costs {budget:g} or less: the cheapest network costs {cost.cheapest:g}"
        )
    return mask
