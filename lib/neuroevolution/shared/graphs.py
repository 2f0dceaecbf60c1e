r"""Graphs that evolve as NEAT's genomes do: historical markings say which genes of two graphs have one origin.

Nodes carry values, connections carry none. Node 0 is the input and node 1 the output. In all graphs of a search, nodes
that split the same connection have the same number, and so have connections between the same two nodes
(stanley2002evolving, section 3.2; here a marking keeps its meaning for the whole search, there for one generation). Two
graphs differ by

.. math:: \delta = \frac{D}{N} + \bar V

where D counts the genes that only one of them has, N the genes of the larger one, and :math:`\bar V` is the share of
values that differ, averaged over the common nodes that have values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

INPUT, OUTPUT, FIRST = 0, 1, 2


class Link(NamedTuple):
    """A gene that connects two nodes. number: its marking; enabled: False where it is only remembered."""

    number: int
    source: int
    target: int
    enabled: bool = True


@dataclass(frozen=True)
class Graph:
    """A directed graph without cycles, from one input to one output.

    nodes: number -> its values, a named tuple, for each node except the input.
    links: by number. All of them, enabled or not, form no cycle, and the enabled ones lead from the input to each node
        and from each node to the output.

    Raises ValueError for anything else.

    >>> chain = Graph({1: (), 2: ("conv",)}, (Link(0, 0, 2), Link(1, 2, 1)))
    >>> chain.order(), chain.sources(1)
    ([2, 1], [2])
    """

    nodes: Mapping[int, tuple]
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        ends = [(link.source, link.target) for link in self.links]
        numbers = [link.number for link in self.links]
        if OUTPUT not in self.nodes or INPUT in self.nodes:
            raise ValueError(f"a graph must have values for its output, {OUTPUT}, and none for its input, {INPUT}")
        for source, target in ends:
            if source not in {INPUT, *self.nodes} - {OUTPUT} or target not in self.nodes:
                raise ValueError(
                    f"the connection {source} -> {target} must not leave the output or enter the input, and its"
                    " nodes must exist"
                )
        if len(set(ends)) < len(ends) or numbers != sorted(set(numbers)):
            raise ValueError("connections must be in the order of their numbers, each number and each pair once")
        self.order()
        forward, backward = self._reached(INPUT, 1), self._reached(OUTPUT, -1)
        for node in self.nodes:
            if node not in forward or node not in {OUTPUT, *backward}:
                raise ValueError(f"node {node} is on no enabled path from the input to the output")

    def order(self) -> list[int]:
        """List all nodes except the input, each after those that lead to it. Raises ValueError for a cycle."""
        left = {node: {link.source for link in self.links if link.target == node} for node in self.nodes}
        done = [INPUT]
        while left:
            ready = sorted(node for node, sources in left.items() if sources <= set(done))
            if not ready:
                raise ValueError(f"the nodes {sorted(left)} form a cycle")
            done += ready
            left = {node: sources for node, sources in left.items() if node not in ready}
        return done[1:]

    def sources(self, node: int) -> list[int]:
        """List the nodes whose enabled connections lead to a node, in the order of the connections."""
        return [link.source for link in self.links if link.enabled and link.target == node]

    def _reached(self, start: int, way: int) -> set[int]:
        found, new = set(), {start}
        while new:
            found |= new
            pairs = [(link.source, link.target)[::way] for link in self.links if link.enabled]
            new = {end for begin, end in pairs if begin in new} - found
        return found

    def with_values(self, node: int, values: tuple) -> "Graph":
        """Return a copy of the graph with other values for one node."""
        return replace(self, nodes={**self.nodes, node: values})


@dataclass
class Markings:
    """The numbers of nodes and connections in all graphs of one search: equal numbers mean the same origin.

    >>> markings = Markings()
    >>> markings.link(0, 1), markings.node(0), markings.link(0, 2), markings.link(0, 1)
    (0, 2, 1, 0)
    """

    links: dict[tuple[int, int], int] = field(default_factory=dict)
    nodes: dict[int, int] = field(default_factory=dict)

    def link(self, source: int, target: int) -> int:
        """Number the connection between two nodes."""
        return self.links.setdefault((source, target), len(self.links))

    def node(self, link: int) -> int:
        """Number the node that splits a connection."""
        return self.nodes.setdefault(link, FIRST + len(self.nodes))


@dataclass(frozen=True)
class Choices:
    """What the nodes of a population's graphs may hold: all values are drawn from lists.

    node: makes the values of a node from one value of each list, as a named-tuple class does.
    of_node: name -> what the value may be, for each node between input and output.
    output: the same for the output, and ``of_output`` its lists.
    """

    node: Callable[..., tuple]
    of_node: Mapping[str, Sequence]
    output: Callable[..., tuple]
    of_output: Mapping[str, Sequence]

    def draw(self, node: int, random: np.random.Generator) -> tuple:
        """Draw all values of a node."""
        make, lists = (self.output, self.of_output) if node == OUTPUT else (self.node, self.of_node)
        return make(**{name: values[int(random.integers(len(values)))] for name, values in lists.items()})

    def others(self, node: int, values: tuple) -> list[tuple[str, object]]:
        """List what can be changed in the values of a node: a name, and another value for it."""
        lists = self.of_output if node == OUTPUT else self.of_node
        return [(name, v) for name, known in lists.items() for v in known if v != getattr(values, name)]


def minimal(choices: Choices, markings: Markings, random: np.random.Generator) -> Graph:
    """Make the graph with which a search begins: one node between input and output, its values drawn.

    choices: of the values.
    markings: of the search.
    random: of the draws.
    """
    node = markings.node(markings.link(INPUT, OUTPUT))
    links = [Link(markings.link(*ends), *ends) for ends in ((INPUT, node), (node, OUTPUT))]
    return Graph({n: choices.draw(n, random) for n in (OUTPUT, node)}, tuple(links))


def add_node(graph: Graph, choices: Choices, markings: Markings, random: np.random.Generator) -> Graph:
    """Split an enabled connection by a new node. The connection stays as a disabled gene.

    graph: left as it was; it is returned itself if each of its enabled connections was split before.
    choices, markings, random: as for :func:`minimal`.
    """
    able = [link for link in graph.links if link.enabled and markings.nodes.get(link.number) not in graph.nodes]
    if not able:
        return graph
    # method
    split = able[random.integers(len(able))]
    node = markings.node(split.number)
    added = [Link(markings.link(*ends), *ends) for ends in ((split.source, node), (node, split.target))]
    links = [link._replace(enabled=link.enabled and link != split) for link in graph.links]
    # end of method
    return Graph({**graph.nodes, node: choices.draw(node, random)}, tuple(sorted([*links, *added])))


def add_link(graph: Graph, markings: Markings, random: np.random.Generator) -> Graph:
    """Connect two nodes that no enabled connection connects, without a cycle; a disabled one is enabled again.

    graph: left as it was; it is returned itself if all nodes are connected.
    markings, random: as for :func:`minimal`.
    """
    place = {node: n for n, node in enumerate([INPUT, *graph.order()])}
    known = {(link.source, link.target): link for link in graph.links}
    pairs = [(a, b) for a in place for b in place if place[a] < place[b] and a != OUTPUT]
    able = [ends for ends in pairs if ends not in known or not known[ends].enabled]
    if not able:
        return graph
    ends = able[random.integers(len(able))]
    others = [link for link in graph.links if (link.source, link.target) != ends]
    return replace(graph, links=tuple(sorted([*others, Link(markings.link(*ends), *ends)])))


def change(graph: Graph, choices: Choices, random: np.random.Generator) -> Graph:
    """Change one value of one node to another of its choices; all nodes that have other choices are equally likely.

    graph: left as it was; it is returned itself if no value can change.
    choices, random: as for :func:`minimal`.
    """
    able = {node: choices.others(node, values) for node, values in graph.nodes.items()}
    nodes = [node for node, others in able.items() if others]
    if not nodes:
        return graph
    node = nodes[random.integers(len(nodes))]
    names = sorted({name for name, _ in able[node]})
    name = names[random.integers(len(names))]
    values = [value for key, value in able[node] if key == name]
    changed = {**graph.nodes[node]._asdict(), name: values[random.integers(len(values))]}  # type: ignore[attr-defined]
    return graph.with_values(node, type(graph.nodes[node])(**changed))


def cross(fitter: Graph, other: Graph, random: np.random.Generator) -> Graph:
    """Return the child of two graphs: common genes from either, and the genes that only the fitter one has.

    So the child has the connections of the fitter parent, enabled as they are there, and is a valid graph. (NEAT may
    disable a gene that is disabled in one parent only, which can cut a graph in two.)

    fitter, other: left as they were.
    random: of the draws.
    """
    # method
    nodes = {
        node: other.nodes[node] if node in other.nodes and random.random() < 0.5 else values
        for node, values in fitter.nodes.items()
    }
    return replace(fitter, nodes=nodes)
    # end of method


def distance(a: Graph, b: Graph) -> float:
    """Return how much two graphs differ: the share of genes without a match, plus that of other values in common nodes.

    a, b: two graphs.

    Returns a number between 0, for a graph and itself, and 3.

    >>> one = Graph({1: (), 2: ("conv", 3)}, (Link(1, 0, 2), Link(2, 2, 1)))
    >>> distance(one, one.with_values(2, ("conv", 5)))  # one of two values, in the only node that has some
    0.5
    """
    genes = [{("node", n) for n in g.nodes} | {("link", k.number) for k in g.links} for g in (a, b)]
    common = [(a.nodes[n], b.nodes[n]) for n in a.nodes if n in b.nodes and a.nodes[n]]
    # method
    apart = len(genes[0] ^ genes[1]) / max(map(len, genes))
    values = [sum(x != y for x, y in zip(p, q, strict=True)) / len(p) for p, q in common]
    return apart + sum(values) / max(1, len(values))
    # end of method
