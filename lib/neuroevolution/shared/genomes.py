r"""Genomes of NEAT: a list of connections with innovation numbers, and the network that they describe.

A node is a number: the inputs 0, 1, ... come first, the bias after them, then the outputs, then hidden nodes in the
order in which they appeared in the population. A gene connects two nodes. Its **innovation number** says when this
connection first appeared, so genes with equal numbers have one origin (stanley2002evolving, section 3.2). A node
computes

.. math:: y_j = \sigma\Big(4.9 \sum_i w_{ij} y_i\Big), \qquad \sigma(x) = \frac{1}{1 + e^{-x}}

from the enabled connections that lead to it (stanley2002evolving, section 4.1).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

STEEPNESS = 4.9
# Of each gene, ``innovation`` is history; the rest describes the network.
GENE = np.dtype(
    [
        ("innovation", np.int32),
        ("source", np.int32),
        ("target", np.int32),
        ("enabled", np.bool_),
        ("weight", np.float64),
    ],
    align=True,
)


@dataclass(frozen=True)
class Space:
    """What all networks of a search have in common, and how they begin: inputs connected to outputs, nothing else.

    inputs: number of inputs, 1 or more; the bias comes on top.
    outputs: number of outputs, 1 or more.
    hidden: number of hidden nodes at the start, default none. If there are any, inputs and bias lead to each of them,
        and they and the bias lead to the outputs.
    recurrent: whether connections may form cycles, default False.
    bias: the value of the bias node, finite; default 1.

    Raises ValueError for other values.
    """

    inputs: int
    outputs: int
    hidden: int = 0
    recurrent: bool = False
    bias: float = 1.0

    def __post_init__(self) -> None:
        for name, least in {"inputs": 1, "outputs": 1, "hidden": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias must be finite, not {self.bias}")

    @property
    def senses(self) -> int:
        """Number of nodes that compute nothing: inputs and bias."""
        return self.inputs + 1

    @property
    def fixed(self) -> int:
        """Number of nodes that every network has: inputs, bias, outputs."""
        return self.inputs + 1 + self.outputs

    def minimal(self) -> np.ndarray:
        """Return the genes with which all genomes begin, with weights of zero."""
        senses, outputs = range(self.senses), range(self.senses, self.fixed)
        hidden = range(self.fixed, self.fixed + self.hidden)
        if self.hidden:
            pairs = [(i, h) for h in hidden for i in senses] + [(i, o) for o in outputs for i in (self.inputs, *hidden)]
        else:
            pairs = [(i, o) for o in outputs for i in senses]
        return np.array([(n, i, j, True, 0.0) for n, (i, j) in enumerate(pairs)], GENE)


class Connection(NamedTuple):
    """One gene. innovation: when it first appeared; source, target: nodes; enabled: False if it is only remembered."""

    innovation: int
    source: int
    target: int
    enabled: bool
    weight: float


class Genome:
    """One network as NEAT stores it.

    space: what its network has in common with all others.
    connections: its genes, in any order.

    Raises ValueError for genes that no network can have: two with the same innovation number or between the same two
    nodes; a connection to an input or the bias, or from a hidden node that no connection leads to; a weight that is not
    finite; a cycle in a space without recurrence; and an output that no enabled connection leads to.

    >>> genome = Genome(Space(1, 1), [Connection(0, 0, 2, True, 0.5), Connection(1, 1, 2, True, 0.0)])
    >>> genome.hidden, genome.network()([[0.0]]).tolist()
    ([], [[0.5]])
    """

    def __init__(self, space: Space, connections: Iterable[Connection]):
        self.space = space
        self.genes = np.array(sorted(connections), GENE)
        _check(self)

    @classmethod
    def of_genes(cls, space: Space, genes: np.ndarray) -> "Genome":
        """Copy genes that are known to be valid into a genome: (n,) of type :data:`GENE`, by innovation number."""
        genome = cls.__new__(cls)
        genome.space, genome.genes = space, genes.copy()
        return genome

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Genome) and self.space == other.space and self.connections == other.connections

    def __repr__(self) -> str:
        return f"Genome({len(self.genes)} genes, {len(self.hidden)} hidden nodes)"

    @property
    def connections(self) -> list[Connection]:
        """The genes, by innovation number."""
        return [Connection(*gene) for gene in self.genes.tolist()]

    @property
    def hidden(self) -> list[int]:
        """The hidden nodes, by number."""
        ends = np.concatenate([self.genes["source"], self.genes["target"]])
        return np.unique(ends[ends >= self.space.fixed]).tolist()

    @property
    def nodes(self) -> dict[int, str]:
        """Each node, and what it is: "input", "bias", "output" or "hidden"."""
        space = self.space
        kinds = ["input"] * space.inputs + ["bias"] + ["output"] * space.outputs
        return dict(enumerate(kinds)) | dict.fromkeys(self.hidden, "hidden")

    @property
    def links(self) -> int:
        """Number of enabled connections."""
        return int(self.genes["enabled"].sum())

    def depths(self) -> dict[int, int]:
        """Return each node's level in a picture: the most connections on a path to it from an input or the bias.

        In a space with recurrence, a connection that closes a cycle with earlier genes is left out.
        """
        above: dict[int, set[int]] = {node: set() for node in self.nodes}  # all nodes from which a path leads here
        depths = dict.fromkeys(self.nodes, 0)
        taken: list[tuple[int, int]] = []
        for gene in self.connections:
            source, target = gene.source, gene.target
            if source == target or target in above[source]:
                continue
            taken.append((source, target))
            for node in above:
                if node == target or target in above[node]:
                    above[node] |= above[source] | {source}
        for _ in depths:
            for source, target in taken:
                depths[target] = max(depths[target], depths[source] + 1)
        return depths

    def programs(self) -> "Programs":
        """Write the network into arrays, for compiled code."""
        return programs(self.space, self.genes[None], np.array([len(self.genes)]))

    def network(self) -> "Network":
        """Build the network that these genes describe."""
        return Network(self)


class Network:
    """The network of one genome.

    Called with (n, inputs) numbers, it gives (n, outputs) numbers between 0 and 1, float64. Without recurrence the rows
    are independent. With recurrence they are steps of time: every node reads what the nodes gave one step before, and
    all begin with zero. So an input needs as many steps to reach an output as there are connections between them.
    :meth:`step` takes one row, and goes on from where the last step ended.

    genome: what to build.

    A call and a step raise ValueError for another number of inputs, and for an input that is not finite.
    """

    def __init__(self, genome: Genome):
        self.genome = genome
        self._program = genome.programs()
        self._values = np.empty((2, self._program.start.shape[1], 1))
        self.reset()

    def __call__(self, x: np.ndarray | list[list[float]]) -> np.ndarray:
        return answers(self._program, self.genome.space, self._checked(x))[0]

    def step(self, row: np.ndarray | list[float]) -> np.ndarray:
        """Return the outputs, (outputs,), of the next step of time, given its inputs, (inputs,)."""
        space, x = self.genome.space, self._checked(np.asarray(row)[None])
        out = np.empty((1, 1, space.outputs))
        sizes = space.senses, space.fixed, space.recurrent
        _compute(self._program, x, space.bias, sizes, self._values, False, out)
        return out[0, 0]

    def reset(self) -> None:
        """Forget all steps: the next one is the first."""
        self._values[:] = 0

    def _checked(self, x: np.ndarray | list[list[float]]) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float64)
        space = self.genome.space
        if x.ndim != 2 or x.shape[1] != space.inputs:
            raise ValueError(f"a network of {space.inputs} inputs takes (n, {space.inputs}) numbers, not {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError("the inputs of a network must be finite")
        return x


def _check(genome: Genome) -> None:
    space, genes, n = genome.space, genome.genes, len(genome.genes)
    targets = set(genes["target"].tolist())
    for gene in genome.connections:
        if gene.source < 0 or gene.target < space.senses:
            raise ValueError(f"{gene}: a connection must lead from a node to one that is neither an input nor the bias")
        if gene.source >= space.fixed and gene.source not in targets:
            raise ValueError(f"{gene}: no connection leads to the hidden node {gene.source}")
        if gene.innovation < 0 or not np.isfinite(gene.weight):
            raise ValueError(f"{gene}: the innovation number must not be negative and the weight must be finite")
    if len(np.unique(genes["innovation"])) < n:
        raise ValueError("two connections have the same innovation number")
    if len(np.unique(genes[["source", "target"]])) < n:
        raise ValueError("two connections lead from the same node to the same node")
    reached = set(genes["target"][genes["enabled"]].tolist())
    for output in range(space.senses, space.fixed):
        if output not in reached:
            raise ValueError(f"no enabled connection leads to the output {output}: each output needs one")
    if not space.recurrent and has_cycle(genome):
        raise ValueError("the connections form a cycle, and the space is not recurrent")


def has_cycle(genome: Genome) -> bool:
    """Tell whether connections, enabled or not, form a cycle.

    genome: any.
    """
    pairs = set(zip(genome.genes["source"].tolist(), genome.genes["target"].tolist(), strict=True))
    while pairs:
        ends = {target for _, target in pairs}
        left = {(source, target) for source, target in pairs if source in ends}  # a node without entry is on no cycle
        if left == pairs:
            return True
        pairs = left
    return False


class Programs(NamedTuple):
    """Networks as arrays, for compiled code, one row for each; nodes are numbered from 0 without gaps.

    nodes: (n,) number of nodes of each network.
    start: (n, nodes + 1) node j has the connections start[j] to start[j + 1] - 1.
    source, weight: (n, connections) where each connection comes from, and its weight.
    order: (n, nodes) the nodes that compute, each after all that it reads, unless the space is recurrent.
    """

    nodes: np.ndarray
    start: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    order: np.ndarray


def programs(space: Space, genes: np.ndarray, counts: np.ndarray) -> Programs:
    """Write networks into arrays: the enabled connections by target, and an order to compute in.

    space: what the networks have in common.
    genes: (n, capacity) of type :data:`GENE`.
    counts: (n,) number of genes of each network; the rest of a row is not read.
    """
    n, capacity = genes.shape
    nodes = space.fixed + int(counts.max())  # each hidden node has a gene of its own
    start, order = np.zeros((n, nodes + 1), np.int32), np.empty((n, nodes), np.int32)
    source, weight = np.empty((n, capacity), np.int32), np.empty((n, capacity))
    out = Programs(np.empty(n, np.int64), start, source, weight, order)
    _write(genes, counts, (space.senses, space.fixed, space.recurrent), out)
    return out


def answers(networks: Programs, space: Space, x: np.ndarray) -> np.ndarray:
    """Return the outputs of several networks for the same rows of inputs, as :class:`Network` does for one.

    networks: from :func:`programs`.
    space: what they have in common.
    x: (rows, inputs) finite.

    Returns (n, rows, outputs) float64.
    """
    out = np.empty((len(networks.nodes), len(x), space.outputs))
    block = 1 if space.recurrent else max(1, len(x))  # steps of time, or all rows at once
    values = np.empty((2, networks.start.shape[1], block))
    _compute(networks, x, space.bias, (space.senses, space.fixed, space.recurrent), values, True, out)
    return out


@numba.njit(cache=True)
def _place(node: int, fixed: int, hidden: np.ndarray, n: int) -> int:
    """The number of a node within its genome, which has n hidden nodes; -1 if it is not there."""
    if node < fixed:
        return node
    for h in range(n):
        if hidden[h] == node:
            return fixed + h
    return -1


@numba.njit(cache=True)
def _write(genes: np.ndarray, counts: np.ndarray, sizes: tuple[int, int, bool], out: Programs) -> None:
    senses, fixed, recurrent = sizes
    start, source, weight, order = out.start, out.source, out.weight, out.order
    hidden, target = np.empty(genes.shape[1], np.int64), np.empty(genes.shape[1], np.int64)
    placed = np.empty(start.shape[1], np.bool_)
    for i in range(len(counts)):
        nodes = fixed
        for k in range(counts[i]):  # each hidden node is the target of a connection
            target[k] = _place(genes[i, k].target, fixed, hidden, nodes - fixed)
            if target[k] < 0:
                hidden[nodes - fixed] = genes[i, k].target
                target[k] = nodes
                nodes += 1
        out.nodes[i] = nodes
        for k in range(counts[i]):
            if genes[i, k].enabled:
                start[i, target[k] + 1] += 1
        for j in range(nodes):
            start[i, j + 1] += start[i, j]
        for k in range(counts[i]):  # start[j] moves to the end of node j, which is the start of node j + 1
            if genes[i, k].enabled:
                e = start[i, target[k]]
                source[i, e] = _place(genes[i, k].source, fixed, hidden, nodes - fixed)
                weight[i, e] = genes[i, k].weight
                start[i, target[k]] += 1
        for j in range(nodes, 0, -1):
            start[i, j] = start[i, j - 1]
        start[i, 0] = 0
        for j in range(nodes):
            placed[j] = j < senses
        done = 0
        while done < nodes - senses:
            for j in range(senses, nodes):
                ready = not placed[j]
                for e in range(start[i, j], start[i, j + 1]):
                    ready = ready and (recurrent or placed[source[i, e]])
                if ready:
                    placed[j] = True
                    order[i, done] = j
                    done += 1


@numba.njit(cache=True)
def _compute(
    networks: Programs,
    x: np.ndarray,
    bias: float,
    sizes: tuple[int, int, bool],
    values: np.ndarray,
    begin: bool,
    out: np.ndarray,
) -> None:
    """Compute the outputs of networks. begin: all nodes begin with zero, otherwise with what ``values`` holds."""
    senses, fixed, recurrent = sizes
    start, source, weight, order = networks.start, networks.source, networks.weight, networks.order
    now, into = values[0], values[1 if recurrent else 0]  # with recurrence, nodes read what was given one step before
    block = now.shape[1]
    for i in range(len(networks.nodes)):
        nodes = networks.nodes[i]
        for r in range(block):
            for j in range(nodes):
                now[j, r] = 0.0 if begin else now[j, r]
            now[senses - 1, r] = bias
        for row in range(0, len(x), block):
            for r in range(block):
                for j in range(senses - 1):
                    now[j, r] = x[row + r, j]
            for n in range(nodes - senses):
                j = order[i, n]
                for r in range(block):
                    into[j, r] = 0.0
                for e in range(start[i, j], start[i, j + 1]):
                    for r in range(block):
                        into[j, r] += weight[i, e] * now[source[i, e], r]
                for r in range(block):
                    # y = sigma(4.9 sum of w y)
                    into[j, r] = 1.0 / (1.0 + np.exp(-STEEPNESS * into[j, r]))
            for r in range(block):
                for j in range(senses, nodes):
                    now[j, r] = into[j, r]
                for j in range(senses, fixed):
                    out[i, row + r, j - senses] = now[j, r]
