"""Populations of graphs that evolve in species, as NEAT's genomes do (stanley2002evolving, section 3.3).

A child has one or two parents of one species, and one mutation. A species has children in proportion to the mean
fitness of its members, and its best member is kept unchanged if it has two children or more.

These populations are small and all their networks learn something, so three things differ from NEAT: fitness is
measured from the worst of the population, the threshold of species is raised until each can have four members, and no
species dies for a lack of progress.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.neuroevolution.shared import graphs
from lib.neuroevolution.shared.graphs import Choices, Graph, Markings


@dataclass(frozen=True)
class Settings:
    """How the graphs of a population vary, and how they are divided into species.

    species: the most species, 1 or more; never more than a quarter of the number of graphs, but at least one.
    threshold: graphs closer than this are of one species, 0 or more; it is raised where there would be too many.
    crossover: share of children with two parents, in [0, 1]; the others have one.
    add_node: probability that a child gets a node.
    add_link: probability that a child gets a connection; otherwise one of its values changes.
    survivors: share of a species that may have children, in (0, 1].

    Raises ValueError for numbers out of range.
    """

    species: int = 2
    threshold: float = 0.5
    crossover: float = 0.5
    add_node: float = 0.3
    add_link: float = 0.2
    survivors: float = 0.5

    def __post_init__(self) -> None:
        if self.species < 1:
            raise ValueError(f"species must be 1 or more, not {self.species}")
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold must be 0 or more and finite, not {self.threshold}")
        shares = (self.crossover, self.add_node, self.add_link)
        if not all(0 <= share <= 1 for share in shares) or self.add_node + self.add_link > 1:
            raise ValueError(
                f"crossover, add_node, add_link and the sum of the last two must be in [0, 1], not {shares}"
            )
        if not 0 < self.survivors <= 1:
            raise ValueError(f"survivors must be in (0, 1], not {self.survivors}")


@dataclass
class Species:
    """Graphs close to a representative. number: what blueprints point to; members: places in the population."""

    number: int
    representative: Graph
    members: list[int] = field(default_factory=list)


class Population:
    """Graphs of one kind that evolve in species: blueprints or modules.

    count: number of graphs.
    choices: what their nodes may hold.
    settings: of the search.
    random: of all draws.
    """

    def __init__(self, count: int, choices: Choices, settings: Settings, random: np.random.Generator):
        self.settings, self.random, self.markings = settings, random, Markings()
        self.graphs = [graphs.minimal(choices, self.markings, random) for _ in range(count)]
        self.species: list[Species] = []
        self.born = 0  # species so far
        self.speciate()

    def speciate(self) -> None:
        """Put each graph into the first species whose representative is close enough, or into a new one."""
        threshold, most = self.settings.threshold, max(1, min(self.settings.species, len(self.graphs) // 4))
        while True:
            species = [Species(old.number, old.representative) for old in self.species]
            # method
            for place, graph in enumerate(self.graphs):
                near = (s for s in species if graphs.distance(graph, s.representative) < threshold)
                home = next(near, None)
                if home is None:
                    home = Species(self.born + len(species) - len(self.species), graph)
                    species.append(home)
                home.members.append(place)
            # end of method
            living = [s for s in species if s.members]
            if len(living) <= most:
                break
            threshold = max(0.01, 1.1 * threshold)
        self.born += len(species) - len(self.species)
        for s in living:
            s.representative = self.graphs[s.members[self.random.integers(len(s.members))]]
        self.species = living

    def advance(self, fitness: np.ndarray, choices: Choices) -> None:
        """Replace all graphs by children, each species in proportion to its mean fitness, and divide them into species.

        fitness: one number for each graph, larger is better; NaN if unknown.
        choices: what nodes of the children may hold.
        """
        known = fitness[~np.isnan(fitness)]
        fitness = np.where(np.isnan(fitness), known.mean(), fitness)
        # method
        shares = [fitness[s.members].mean() - fitness.min() for s in self.species]
        children = []
        for s, count in zip(self.species, shared_out(shares, len(self.graphs)), strict=True):
            ranked = sorted(s.members, key=lambda place: -fitness[place])
            parents = ranked[: math.ceil(self.settings.survivors * len(ranked))]
            champion = [self.graphs[ranked[0]]] if count > 1 else []
            children += champion + [self.child(parents, choices) for _ in range(count - len(champion))]
        self.graphs = children
        # end of method
        self.speciate()

    def living(self) -> list[int]:
        """List the numbers of the species that have members."""
        return [species.number for species in self.species]

    def labels(self) -> np.ndarray:
        """Return the species number of each graph."""
        labels = np.empty(len(self.graphs), np.int64)
        for species in self.species:
            labels[species.members] = species.number
        return labels

    def child(self, parents: Sequence[int], choices: Choices) -> Graph:
        """Make a child of one or two graphs, with one mutation.

        parents: places of the graphs that may have children, the best first.
        choices: what its nodes may hold.
        """
        first, second = sorted(int(self.random.integers(len(parents))) for _ in range(2))
        graph = self.graphs[parents[first]]
        if self.random.random() < self.settings.crossover:
            graph = graphs.cross(graph, self.graphs[parents[second]], self.random)
        return mutated(graph, choices, self.markings, self.settings, self.random)


def mutated(
    graph: Graph, choices: Choices, markings: Markings, settings: Settings, random: np.random.Generator
) -> Graph:
    """Return a graph with one mutation: a new node, a new connection, or another value.

    graph: left as it was.
    choices, markings, settings, random: of its population.
    """
    chance = random.random()
    if chance < settings.add_node:
        return graphs.add_node(graph, choices, markings, random)
    if chance < settings.add_node + settings.add_link:
        return graphs.add_link(graph, markings, random)
    return graphs.change(graph, choices, random)


def shared_out(shares: Sequence[float], total: int) -> list[int]:
    """Divide a whole number in proportion to shares, by the largest remainders, into whole numbers that add up to it.

    shares: not negative; all zero counts as all equal.
    total: to divide.

    >>> shared_out([1.0, 1.0, 2.0], 5)
    [1, 1, 3]
    """
    whole = sum(shares)
    exact = [total * (share / whole if whole else 1 / len(shares)) for share in shares]
    counts = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda s: counts[s] - exact[s])
    for s in order[: total - sum(counts)]:
        counts[s] += 1
    return counts
