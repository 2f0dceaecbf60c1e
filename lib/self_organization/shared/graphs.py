"""A graph of units: where they are, which of them are connected, and what shape they make together."""

from dataclasses import dataclass
from typing import Self

import networkx
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


@dataclass(frozen=True)
class UnitGraph:
    """Units and their edges at one step of learning.

    step: number of samples, or of epochs, presented so far.
    positions: (units, features) float32 or float64.
    edges: (edges, 2) int64, each edge once: the smaller unit first, in ascending order.
    ages: (edges,) int64, wins of the edge's units in which it was not used since its last use (a neural gas also counts
        that use); None where edges have no age.

    >>> square = UnitGraph(0, np.eye(4), np.array([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]))
    >>> square.degrees.tolist(), square.components, square.euler_characteristic()  # V - E + T = 4 - 5 + 2
    ([2, 3, 3, 2], 1, 1)
    """

    step: int
    positions: np.ndarray
    edges: np.ndarray
    ages: np.ndarray | None = None

    @classmethod
    def from_ages(cls, step: int, positions: np.ndarray, ages: np.ndarray) -> Self:
        """Make a graph from a table of ages; arrays are copied.

        step: samples or epochs that were presented.
        positions: (units, features).
        ages: (units, units) whole numbers, symmetric; -1 where there is no edge.
        """
        edges = np.argwhere(np.triu(ages >= 0, 1))
        return cls(step, positions.copy(), edges, ages[edges[:, 0], edges[:, 1]].astype(np.int64))

    @classmethod
    def from_adjacency(cls, step: int, positions: np.ndarray, adjacency: np.ndarray) -> Self:
        """Make a graph without ages; arrays are copied.

        step: samples or epochs that were presented.
        positions: (units, features).
        adjacency: (units, units) bool, symmetric.
        """
        return cls(step, positions.copy(), np.argwhere(np.triu(adjacency, 1)))

    @property
    def adjacency(self) -> np.ndarray:
        """(units, units) bool, True where two units are connected."""
        table = np.zeros((len(self.positions), len(self.positions)), dtype=bool)
        table[self.edges[:, 0], self.edges[:, 1]] = table[self.edges[:, 1], self.edges[:, 0]] = True
        return table

    def age_table(self) -> np.ndarray:
        """(units, units) int32, the age of each edge, 0 where it has none, and -1 where there is no edge."""
        table = np.full((len(self.positions), len(self.positions)), -1, dtype=np.int32)
        ages = 0 if self.ages is None else self.ages
        table[self.edges[:, 0], self.edges[:, 1]] = table[self.edges[:, 1], self.edges[:, 0]] = ages
        return table

    @property
    def degrees(self) -> np.ndarray:
        """(units,) int64, the number of edges of each unit."""
        return np.bincount(self.edges.ravel(), minlength=len(self.positions))

    @property
    def components(self) -> int:
        """Number of parts that no edge connects."""
        return int(csgraph.connected_components(self.to_sparse(), directed=False)[0])

    def euler_characteristic(self, dimension: int = 2) -> int:
        r"""Count units minus edges plus triangles, and so on: :math:`\sum_{d} (-1)^d n_d`.

        :math:`n_d` is the number of sets of d + 1 units that are all connected. The result is 1 for a disk, 0 for a
        ring.

        dimension: of the largest sets to count: 2 for triangles, 3 for tetrahedra.
        """
        return sum((-1) ** d * len(cliques(self.adjacency, d + 1)) for d in range(dimension + 1))

    def to_sparse(self) -> sparse.csr_array:
        """Return the adjacency as a sparse array (units, units) of zeros and ones."""
        rows, columns = self.edges.T
        ones = np.ones(2 * len(rows))
        both = (np.concatenate([rows, columns]), np.concatenate([columns, rows]))
        return sparse.coo_array((ones, both), shape=(len(self.positions),) * 2).tocsr()

    def to_networkx(self) -> networkx.Graph:
        """Return the graph with a ``position`` at each node and, where edges have one, an ``age`` at each edge."""
        graph = networkx.Graph()
        graph.add_nodes_from((i, {"position": position}) for i, position in enumerate(self.positions))
        graph.add_edges_from(self.edges.tolist())
        if self.ages is not None:
            for (i, j), age in zip(self.edges.tolist(), self.ages.tolist(), strict=True):
                graph.edges[i, j]["age"] = age
        return graph


def cliques(adjacency: np.ndarray, size: int) -> np.ndarray:
    """Return all sets of ``size`` units that are all connected to each other.

    adjacency: (units, units) bool, symmetric, False on its diagonal.
    size: 0 or more; 2 gives the edges, 3 the triangles. There is one empty set.

    Returns (sets, size) int64, each set once and ascending.

    >>> cliques(~np.eye(4, dtype=bool), 3).tolist()
    [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]
    """
    later = np.triu(adjacency, 1)
    sets = np.zeros((1, 0), dtype=np.int64)
    for _ in range(size):
        which, unit = np.nonzero(later[sets].all(1))  # later units that are connected to all units of a set
        sets = np.column_stack([sets[which], unit])
    return sets


def stops(begin: int, end: int, *, at: tuple[int, ...], every: int | None = None) -> list[int]:
    """Return the steps after ``begin`` at which learning pauses: for growth, for a snapshot, at the end.

    begin: steps made so far.
    end: the last step.
    at: steps of snapshots, in any order.
    every: growth is due at its multiples, 1 or more; None: nothing grows.

    Returns steps, ascending.

    >>> stops(5, 12, at=(7, 3, 40), every=4)
    [7, 8, 12]
    """
    multiples = [] if every is None else range((begin // every + 1) * every, end + 1, every)
    return sorted({end, *multiples, *(step for step in at if begin < step <= end)})
