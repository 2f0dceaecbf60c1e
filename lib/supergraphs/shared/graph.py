"""A supergraph as a graph: which masks leave a network, how many paths there are, and which of them is the cheapest."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Edge:
    """A layer that leads from one node to another.

    name: of the layer; no two edges of a graph share it.
    source, target: names of nodes.
    """

    name: str
    source: str
    target: str


@dataclass(frozen=True)
class Graph:
    """A directed graph without cycles, from one input node to one output node. Two edges may join the same nodes.

    edges: in any order; masks have one column for each, in this order.
    input, output: names of nodes.

    Raises ValueError for two edges of one name, a cycle, a graph without a path from input to output, and an edge that
    lies on none, so that no network could use it.

    >>> graph = Graph((Edge("a", "in", "hidden"), Edge("b", "hidden", "out"), Edge("skip", "in", "out")), "in", "out")
    >>> graph.paths(), graph.live(torch.tensor([True, False, True])).tolist()
    (2, [False, False, True])
    """

    edges: tuple[Edge, ...]
    input: str
    output: str

    def __post_init__(self) -> None:
        names = [edge.name for edge in self.edges]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two edges are called {twice!r}: each edge needs a name of its own")
        try:
            order = self.nodes
        except CycleError as error:
            raise ValueError(f"the edges form the cycle {' > '.join(error.args[1])}: none is allowed") from error
        if not {self.input, self.output} <= set(order) or not self.paths():
            raise ValueError(f"no path leads from {self.input!r} to {self.output!r}: the graph holds no network")
        lost = ~self.live(torch.ones(len(self.edges), dtype=torch.bool))
        if lost.any():
            name = names[int(lost.nonzero()[0])]
            raise ValueError(f"edge {name!r} lies on no path from {self.input!r} to {self.output!r}: leave it out")

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, each after those that lead to it."""
        before: dict[str, list[str]] = {}
        for edge in self.edges:
            before.setdefault(edge.source, [])
            before.setdefault(edge.target, []).append(edge.source)
        return tuple(TopologicalSorter(before).static_order())

    @cached_property
    def entering(self) -> dict[str, list[int]]:
        """Node -> numbers of the edges that lead to it."""
        return {node: [i for i, edge in enumerate(self.edges) if edge.target == node] for node in self.nodes}

    @cached_property
    def leaving(self) -> dict[str, list[int]]:
        """Node -> numbers of the edges that start there."""
        return {node: [i for i, edge in enumerate(self.edges) if edge.source == node] for node in self.nodes}

    @cached_property
    def order(self) -> list[int]:
        """Numbers of the edges, each after all edges that lead to its source."""
        return [i for node in self.nodes for i in self.leaving[node]]

    def live(self, masks: Tensor) -> Tensor:
        """Prune: keep only the edges of each mask that lie on a path from input to output whose edges are all on.

        masks: bool, (edges,) or (n, edges).

        Returns masks of the same shape. Raises ValueError for another shape or type.
        """
        self.check(masks)
        # in numpy: there are many tiny operations, and torch takes several times as long for one
        columns = np.ascontiguousarray(masks.reshape(-1, len(self.edges)).cpu().numpy().T)
        never, always = np.zeros(columns.shape[1], bool), np.ones(columns.shape[1], bool)
        fed, heard = dict.fromkeys(self.nodes, never), dict.fromkeys(self.nodes, never)
        fed[self.input] = heard[self.output] = always
        for node in self.nodes:
            for i in self.entering[node]:
                fed[node] = fed[node] | (columns[i] & fed[self.edges[i].source])
        for node in reversed(self.nodes):
            for i in self.leaving[node]:
                heard[node] = heard[node] | (columns[i] & heard[self.edges[i].target])
        kept = [on & fed[edge.source] & heard[edge.target] for on, edge in zip(columns, self.edges, strict=True)]
        return torch.from_numpy(np.stack(kept, 1)).reshape(masks.shape).to(masks.device)

    def connected(self, masks: Tensor) -> Tensor:
        """Say of each mask whether it joins input and output, so that it is a network.

        masks: bool, (edges,) or (n, edges).

        Returns bool, () or (n,). Raises ValueError for another shape or type.
        """
        return self.live(masks).any(-1)

    def paths(self, mask: Tensor | None = None) -> int:
        """Count the paths from input to output, by dynamic programming.

        mask: bool, (edges,): the edges that a path may use; default all.
        """
        return self._to_output(mask)[self.input]

    def _to_output(self, mask: Tensor | None = None) -> dict[str, int]:
        """Node -> number of paths from there to the output."""
        if mask is not None:
            self.check(mask)
        count = dict.fromkeys(self.nodes, 0)
        count[self.output] = 1
        for node in reversed(self.nodes):
            for i in self.leaving[node]:
                if mask is None or mask[i]:
                    count[node] += count[self.edges[i].target]
        return count

    def cheapest_path(self, costs: Mapping[str, float]) -> tuple[float, Tensor]:
        """Find the path with the smallest sum of costs; as no cost is negative, no connected network costs less.

        costs: edge name -> cost, 0 or more.

        Returns the cost, and the path as a mask, bool (edges,).
        """
        best: dict[str, tuple[float, tuple[int, ...]]] = {self.output: (0.0, ())}
        for node in reversed(self.nodes):
            ways = [(i, best[self.edges[i].target]) for i in self.leaving[node] if self.edges[i].target in best]
            if ways:
                best[node] = min((costs[self.edges[i].name] + cost, (i, *path)) for i, (cost, path) in ways)
        cost, path = best[self.input]
        return cost, self._mask(path)

    def random_path(self, random: np.random.Generator) -> Tensor:
        """Draw one of all paths, each with the same probability.

        random: numpy's generator; it is advanced.

        Returns the path as a mask, bool (edges,).
        """
        count, node, path = self._to_output(), self.input, []
        while node != self.output:
            weights = np.array([count[self.edges[i].target] / count[node] for i in self.leaving[node]])
            path.append(self.leaving[node][random.choice(len(weights), p=weights / weights.sum())])
            node = self.edges[path[-1]].target
        return self._mask(path)

    def _mask(self, path: list[int] | tuple[int, ...]) -> Tensor:
        mask = torch.zeros(len(self.edges), dtype=torch.bool)
        mask[list(path)] = True
        return mask

    def check(self, masks: Tensor) -> None:
        """Raise ValueError for masks that are not bool, (edges,) or (n, edges).

        masks: to check.
        """
        n = len(self.edges)
        if masks.dtype != torch.bool or masks.dim() not in (1, 2) or masks.shape[-1] != n:
            raise ValueError(
                f"masks of {str(masks.dtype).removeprefix('torch.')} and shape {tuple(masks.shape)}: this graph has {n}"
                f" edges and takes bool, ({n},) or (n, {n})"
            )
