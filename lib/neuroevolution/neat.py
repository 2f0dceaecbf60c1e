r"""NEAT: evolution of the weights and the connections of a network, starting without hidden nodes.

Mutations add nodes and connections, and each new connection gets an innovation number. Genes with equal numbers have
the same origin and match, so two genomes of any shape can be crossed without comparing their networks. A new node makes
a network worse at first. Genomes that are alike therefore form a **species**, and compete within it: a species S gets
children in proportion to the mean fitness of its members,

.. math:: f'_i = \frac{f_i}{|S|}, \qquad \text{children of } S \propto \sum_{i \in S} f'_i

(stanley2002evolving, section 3.3, equation 2). All networks begin without hidden nodes, so the search begins in as few
dimensions as possible.

Where the paper leaves a choice, the authors' program decides: the number of genes does not divide the distance,
connections from the bias are not split, and weights stay between -8 and 8. Of two equally good parents the smaller one
counts as better, and a fifth of the children of two parents do not mutate. One rule is our own: the species of the best
network may always have children.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numba
import numpy as np

from lib.neuroevolution.shared.genomes import GENE, Genome, Network, Space
from lib.neuroevolution.shared.tasks import Population, Scored, Task, TaskWithTest

TRIES = 20  # to find two nodes that can be connected, or a connection to split
INNOVATION_BYTES = GENE["innovation"].itemsize
GENE_BYTES = sum(GENE[name].itemsize for name in ("source", "target", "enabled", "weight"))
MOST_NEW_GENES = 3  # of one child: two for a node, one for a connection


class Settings(NamedTuple):
    """How NEAT varies genomes and divides them into species (stanley2002evolving, section 4.1).

    Ablations: ``threshold=inf`` (no speciation), ``add_node=0, add_link=0`` (no growth), ``crossover=0``.

    add_node: probability that a child gets a node, by splitting a connection.
    add_link: probability that a child gets a connection; the paper has 0.05, and 0.3 for a population of 1,000.
    change_weights: probability that a child's weights change.
    perturb: probability that such a weight is moved, by up to ``step`` up or down; otherwise it is drawn again.
    step: the largest change of a weight, and the largest size of one that is drawn again.
    cap: the largest size of a weight.
    crossover: share of children that have two parents.
    only_crossover: share of these that do not mutate.
    disable: probability that a gene of both parents is disabled in a child if it is disabled in either of them.
    between_species: probability that the second parent is the best of another species.
    excess, disjoint, weights: coefficients of the distance.
    small: from this number of genes on, the size of the larger genome divides the counts of excess and disjoint genes;
        the paper proposes 20, the default is never.
    threshold: a genome closer than this to the representative of a species belongs to it.
    survivors: share of each species that may have children, at least one member.
    champion: a species with more members than this passes its best on unchanged.
    patience: a species that has not improved for so many generations has no children, unless the best network is in it.
    patience_of_all: if no network has improved on the best for so many generations, only the two best species have
        children.
    """

    add_node: float = 0.03
    add_link: float = 0.1
    change_weights: float = 0.8
    perturb: float = 0.9
    step: float = 2.5
    cap: float = 8.0
    crossover: float = 0.75
    only_crossover: float = 0.2
    disable: float = 0.75
    between_species: float = 0.001
    excess: float = 1.0
    disjoint: float = 1.0
    weights: float = 0.4
    small: float = np.inf
    threshold: float = 3.0
    survivors: float = 0.2
    champion: float = 5.0
    patience: float = 15.0
    patience_of_all: float = 20.0

    def checked(self) -> "Settings":
        """Return the same settings as floats. Raises ValueError for a share outside [0, 1] and for negative numbers."""
        for name, value in self._asdict().items():
            if name in SHARES and not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {value}")
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        return Settings(*map(float, self))


SHARES = {
    *("add_node", "add_link", "change_weights", "perturb", "crossover", "only_crossover", "disable"),
    *("between_species", "survivors"),
}
PAPER = Settings()
# For poles without velocities and 1,000 networks. The paper (stanley2002evolving, section 4.1) gives the probability of
# a connection and the distance; step and survivors are those of a parameter file made from its program's.
HIDDEN_VELOCITIES = Settings(add_link=0.3, weights=3.0, threshold=4.0, survivors=0.4, step=1.8)


@dataclass(frozen=True)
class Generation:
    """The state of one generation.

    number: 1 for the first.
    evaluations: number of networks tried up to and including this generation.
    best, mean: fitness of the best network, and of all on average.
    champion: the genome of the best network.
    species: (species, 2) the number and the size of each species; a species keeps its number.
    genes: mean number of genes of a genome.
    genome_bytes: bytes of all genomes, without their history: ends, weight and state of each connection.
    history_bytes: bytes of the innovation numbers, and of the list of this generation's innovations.
    """

    number: int
    evaluations: int
    best: float
    mean: float
    champion: Genome
    species: np.ndarray = field(repr=False)
    genes: float
    genome_bytes: int
    history_bytes: int


@dataclass(frozen=True)
class History:
    """A search. rows: one for each generation. winner: a genome that solves the task, or None."""

    rows: list[Generation]
    winner: Genome | None

    @property
    def solved(self) -> bool:
        """Whether a network solved the task."""
        return self.winner is not None

    @property
    def evaluations(self) -> int:
        """Number of networks that were tried."""
        return self.rows[-1].evaluations


def search(
    space: Space,
    evaluate: Task | Callable[[Network], float],
    *,
    budget: int,
    seed: int,
    population: int = 150,
    settings: Settings = PAPER,
) -> History:
    """Evolve networks until one solves the task.

    space: number of inputs and outputs, and how networks begin.
    evaluate: a task, such as :class:`lib.neuroevolution.shared.tasks.Xor`; or a function that takes a network and
        returns its fitness, finite and not negative, larger = better. A function has no goal, so the search spends its
        budget; :class:`lib.neuroevolution.shared.tasks.Scored` adds a goal and more processes. A
        :class:`lib.neuroevolution.shared.tasks.TaskWithTest` is solved by a network that passes its test.
    budget: the largest number of generations, 1 or more.
    seed: of all draws, 0 or more.
    population: number of networks, 2 or more.
    settings: of NEAT.

    Returns the history. Raises ValueError for other arguments, for a fitness that is negative or not finite, and for a
    task that does not give one number for each network.

    >>> from lib.neuroevolution.shared.tasks import Xor
    >>> history = search(Space(2, 1), Xor(), budget=200, seed=0)
    >>> history.solved, history.evaluations == 150 * len(history.rows), len(history.winner.hidden) > 0
    (True, True, True)
    """
    if budget < 1:
        raise ValueError(f"budget must be 1 generation or more, not {budget}")
    task = evaluate if isinstance(evaluate, Task) else Scored(evaluate)
    evolution = Evolution(space, population=population, seed=seed, settings=settings)
    rows: list[Generation] = []
    # method
    while True:
        fitness, winner = task.evaluate(evolution.population)
        rows.append(evolution.row(fitness))
        if isinstance(task, TaskWithTest):
            candidate = evolution.candidate(fitness)
            winner = candidate if task.passes(evolution.population.genome(candidate)) else None
        if winner is not None or len(rows) == budget:
            return History(rows, None if winner is None else evolution.population.genome(winner))
        evolution.advance(fitness)
    # end of method


class Distance(NamedTuple):
    """Only the settings of the distance: compiled code passes each field of a tuple on separately."""

    excess: float
    disjoint: float
    weights: float
    small: float


class Species(NamedTuple):
    """All species, one after the other, in arrays with room for two species per network.

    genes, counts: the representative, with which genomes are compared: a random member of the last generation.
    number: its name. best, improved: its best fitness ever, and in which generation.
    size, children: the numbers of its members and of their children.
    counters: number of species, number of the next one.
    """

    genes: np.ndarray
    counts: np.ndarray
    number: np.ndarray
    best: np.ndarray
    improved: np.ndarray
    size: np.ndarray
    children: np.ndarray
    counters: np.ndarray


class Registry(NamedTuple):
    """The innovations of one generation, so that the same innovation gets the same number.

    links: (room, 3) source, target and innovation number of each new connection.
    splits: (room, 3) innovation number of a split connection, its new node, and the first of its two new numbers.
    counters: number of links, number of splits, the next innovation number, the next node.
    """

    links: np.ndarray
    splits: np.ndarray
    counters: np.ndarray


class Evolution:
    """A population that begins with genomes alike in all but their weights, and its generations, one by one.

    space, population, seed, settings: as for :func:`search`, with the same errors.

    Attributes: ``population``, the genomes of this generation; ``labels``, (population,) the place of each one's
    species in ``species``; ``registry``, the innovations of this generation; ``number``, 1 for the first.
    """

    def __init__(self, space: Space, *, population: int, seed: int, settings: Settings = PAPER):
        if population < 2:
            raise ValueError(f"a population must have 2 networks or more, not {population}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, not {seed}")
        self.settings = settings.checked()
        random = np.random.default_rng(seed)
        self._state = _state(random)
        minimal = space.minimal()
        genes = np.zeros((population, len(minimal) + 32), GENE)
        genes[:, : len(minimal)] = minimal
        genes["weight"][:, : len(minimal)] = random.uniform(-1, 1, (population, len(minimal)))
        self.population = Population(space, genes, np.full(population, len(minimal)))
        self._spare = Population(space, genes.copy(), np.full(population, len(minimal)))
        self.labels = np.zeros(population, np.int64)
        room = 2 * population  # each genome can be in a new species before old ones without members are dropped
        whole = np.zeros((4, room), np.int64)
        kept, counters = np.zeros((room, genes.shape[1]), GENE), np.zeros(2, np.int64)
        self.species = Species(kept, whole[0], whole[1], np.zeros(room), whole[2], whole[3], whole[3].copy(), counters)
        links, splits = np.zeros((2, population, 3), np.int64)
        self.registry = Registry(links, splits, np.array([0, 0, len(minimal), space.fixed + space.hidden]))
        self._record = np.array([-1.0, 1.0])  # the best fitness so far, and in which generation
        self._tested: set[int] = set()  # numbers of species
        self.number = 1
        self._speciate()

    def row(self, fitness: np.ndarray) -> Generation:
        """Describe this generation. fitness: (population,) of its networks. Raises ValueError as :func:`search`."""
        people, species = self.population, self.species
        n, k = len(people.counts), int(species.counters[0])
        if fitness.shape != (n,):
            raise ValueError(f"fitness must be one number for each of {n} networks, not an array of {fitness.shape}")
        best = int(fitness.argmax())
        if not (fitness.min() >= 0 and fitness[best] < np.inf):  # the minimum of numbers with a NaN is NaN
            wrong = int((np.isfinite(fitness) & (fitness >= 0)).argmin())
            raise ValueError(f"fitness must be finite and not negative, not {fitness[wrong]} (network {wrong})")
        genes, innovations = int(people.counts.sum()), int(self.registry.counters[0] + self.registry.counters[1])
        return Generation(
            number=self.number,
            evaluations=self.number * n,
            best=float(fitness[best]),
            mean=float((fitness / n).sum()),
            champion=people.genome(best),
            species=np.array([species.number[:k], species.size[:k]]).T,
            genes=genes / n,
            genome_bytes=genes * GENE_BYTES,
            history_bytes=genes * INNOVATION_BYTES + innovations * self.registry.links[0].nbytes,
        )

    def candidate(self, fitness: np.ndarray) -> int:
        """Choose the network of this generation that is worth a long test, and remember that its species was tested.

        It is the best of the best species that has not been tested since its fitness last rose, as in the authors'
        program: a network that failed is not tested again and again. If there is no such species, it is the best of
        all.

        fitness: (population,) of its networks, as :meth:`row` accepts it.
        """
        count = int(self.species.counters[0])
        best = np.full(count, -1.0)
        np.maximum.at(best, self.labels, fitness)
        numbers = self.species.number[:count]
        # method
        self._tested -= set(numbers[best > self.species.best[:count]].tolist())
        untested = np.array([number not in self._tested for number in numbers.tolist()])
        chosen = int(np.where(untested, best, -1.0).argmax()) if untested.any() else int(best.argmax())
        self._tested.add(int(numbers[chosen]))
        return int(np.where(self.labels == chosen, fitness, -1.0).argmax())
        # end of method

    def advance(self, fitness: np.ndarray) -> None:
        """Replace the population by its children.

        fitness: (population,) of its networks, as :meth:`row` accepts it.
        """
        old, new = self.population, self._spare
        if old.counts.max() + MOST_NEW_GENES > old.genes.shape[1]:
            more = ((0, 0), (0, old.genes.shape[1]))
            for people in (old, new):
                people.genes = np.pad(people.genes, more)
            self.species = self.species._replace(genes=np.pad(self.species.genes, more))
        self.number += 1
        self.registry.counters[:2] = 0
        patience = self.settings.patience, self.settings.patience_of_all
        share_out(fitness, self.labels, self.species, self._record, *patience, self.number)
        parents = old.genes, old.counts, fitness, self.labels
        sizes = old.space.senses, old.space.fixed, old.space.recurrent
        reproduce(*parents, self.species, self.registry, new.genes, new.counts, sizes, self.settings, self._state)
        self.population, self._spare = new, old
        self._speciate()

    def _speciate(self) -> None:
        genes, counts, threshold = self.population.genes, self.population.counts, self.settings.threshold
        measure = _measure(self.settings)
        speciate(genes, counts, self.labels, self.species, measure, threshold, self.number, self._state)


def distance(first: Genome, second: Genome, settings: Settings = PAPER) -> float:
    r"""Return the distance between two genomes (stanley2002evolving, equation 1).

    .. math:: \delta = c_1 E / N + c_2 D / N + c_3 \bar W

    with E excess and D disjoint genes, :math:`\bar W` the mean difference of the weights of matching genes, and N = 1
    for small genomes, otherwise the number of genes of the larger one.

    first, second: genomes of one space.
    settings: its ``excess``, ``disjoint``, ``weights`` and ``small``.

    Raises ValueError for genomes of two spaces.
    """
    _check_spaces(first, second)
    a, b = first.genes[None], second.genes[None]
    return apart(a, 0, len(first.genes), b, 0, len(second.genes), _measure(settings.checked()), np.inf)


def crossover(better: Genome, other: Genome, *, seed: int, settings: Settings = PAPER) -> Genome:
    """Cross two genomes: matching genes from either, all others from the better one (stanley2002evolving, figure 4).

    A matching gene that is disabled in either parent is disabled in the child with the probability ``disable``, and
    otherwise enabled. So a genome crossed with itself stays the same, except for disabled genes that come back.

    better, other: genomes of one space; of two equally good ones, the smaller counts as the better.
    seed: of the draws, 0 or more.
    settings: its ``disable``.

    Returns the child. Raises ValueError for genomes of two spaces, and a negative seed.
    """
    _check_spaces(better, other)
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    counts = np.array([len(better.genes), len(other.genes)])
    genes, child = np.zeros((2, counts.max()), GENE), np.zeros((1, counts.max()), GENE)
    genes[0, : counts[0]], genes[1, : counts[1]] = better.genes, other.genes
    sizes, state = (
        (better.space.senses, better.space.fixed, better.space.recurrent),
        _state(np.random.default_rng(seed)),
    )
    cross(genes, counts, 0, 1, child, 0, sizes, settings.checked().disable, state)
    return Genome.of_genes(better.space, child[0, : counts[0]])


def _state(random: np.random.Generator) -> np.ndarray:
    """A state for the draws of compiled code."""
    return random.integers(0, 2**64, 1, np.uint64)


def _measure(settings: Settings) -> Distance:
    return Distance(settings.excess, settings.disjoint, settings.weights, settings.small)


def _check_spaces(first: Genome, second: Genome) -> None:
    if first.space != second.space:
        raise ValueError(f"both genomes must be of one space, not {first.space} and {second.space}")


# Below is compiled code. Compiled functions are cached, and a cached function does not notice when a function that it
# calls changes in another file: so all that they call stays in this file. ``sizes`` holds the number of senses, that of
# senses and outputs, and whether connections may form cycles; ``state`` is the state of the random draws.


@numba.njit(cache=True)
def uniform(state: np.ndarray) -> float:
    """Draw a number from [0, 1) by SplitMix64: passing numpy's generator to compiled code costs 13 us each time."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True)
def apart(
    genes: np.ndarray, i: int, n: int, others: np.ndarray, j: int, m: int, settings: Distance, enough: float
) -> float:
    """The distance of the n genes of row i and the m genes of row j: see :func:`distance`.

    enough: counting stops at this distance, so a larger one may come out too small, but never below this.
    """
    size = 1.0 if max(n, m) < settings.small else float(max(n, m))
    if abs(n - m) * min(settings.excess, settings.disjoint) >= enough * size:
        return enough
    # method
    a = b = disjoint = matching = 0
    difference = 0.0
    while a < n and b < m and disjoint * settings.disjoint < enough * size:
        first, second = genes[i, a].innovation, others[j, b].innovation
        match = first == second
        difference += abs(genes[i, a].weight - others[j, b].weight) if match else 0.0
        matching, disjoint = matching + match, disjoint + (not match)
        a, b = a + (first <= second), b + (second <= first)
    excess = (n - a) + (m - b) if a == n or b == m else 0
    mean = difference / matching if matching else 0.0
    # delta = c1 E / N + c2 D / N + c3 W
    return (settings.excess * excess + settings.disjoint * disjoint) / size + settings.weights * mean
    # end of method


@numba.njit(cache=True)
def cross(
    genes: np.ndarray,
    counts: np.ndarray,
    better: int,
    other: int,
    children: np.ndarray,
    made: int,
    sizes: tuple[int, int, bool],
    disable: float,
    state: np.ndarray,
) -> None:
    """Write the child of two rows into row ``made``: see :func:`crossover`. It has as many genes as the better one.

    If the child has no enabled connection to an output, its connections there are enabled as in the better parent.
    """
    n = counts[better]
    # method
    b = 0
    for a in range(n):
        children[made, a] = genes[better, a]
        innovation = genes[better, a].innovation
        while b < counts[other] and genes[other, b].innovation < innovation:
            b += 1
        if b < counts[other] and genes[other, b].innovation == innovation:
            theirs = uniform(state) < 0.5
            children[made, a].weight = genes[other, b].weight if theirs else genes[better, a].weight
            if not (genes[better, a].enabled and genes[other, b].enabled):
                children[made, a].enabled = uniform(state) >= disable
    # end of method
    for output in range(sizes[0], sizes[1]):
        reached = False
        for a in range(n):
            reached = reached or (children[made, a].enabled and children[made, a].target == output)
        for a in range(n):
            if not reached and children[made, a].target == output:
                children[made, a].enabled = genes[better, a].enabled


@numba.njit(cache=True)
def change_weights(genes: np.ndarray, count: int, settings: Settings, state: np.ndarray) -> None:
    """Move each weight, or draw it again, in place."""
    for k in range(count):
        draw, perturb = settings.step * (2 * uniform(state) - 1), uniform(state) < settings.perturb
        weight = draw + (genes[k].weight if perturb else 0.0)
        genes[k].weight = min(max(weight, -settings.cap), settings.cap)


@numba.njit(cache=True)
def insert(genes: np.ndarray, count: int, innovation: int, source: int, target: int, weight: float) -> None:
    """Put an enabled gene where its innovation number belongs, in place."""
    k = count
    while k > 0 and genes[k - 1].innovation > innovation:  # another child made this innovation before
        genes[k] = genes[k - 1]
        k -= 1
    genes[k].innovation, genes[k].source, genes[k].target = innovation, source, target
    genes[k].enabled, genes[k].weight = True, weight


@numba.njit(cache=True)
def add_node(genes: np.ndarray, count: int, bias: int, registry: Registry, state: np.ndarray) -> int:
    """Split an enabled connection, in place: weight 1 into the new node, the old weight out of it.

    The old gene stays, disabled (stanley2002evolving, figure 3). Returns the number of genes.
    """
    splits, counters = registry.splits, registry.counters
    for _ in range(TRIES):
        k = int(uniform(state) * count)
        old, source, target, weight = genes[k].innovation, genes[k].source, genes[k].target, genes[k].weight
        if genes[k].enabled and source != bias:
            s = 0
            while s < counters[1] and splits[s, 0] != old:
                s += 1
            if s == counters[1]:  # no child has split this connection in this generation
                splits[s, 0], splits[s, 1], splits[s, 2] = old, counters[3], counters[2]
                counters[1], counters[2], counters[3] = s + 1, counters[2] + 2, counters[3] + 1
            genes[k].enabled = False
            insert(genes, count, splits[s, 2], source, splits[s, 1], 1.0)
            insert(genes, count + 1, splits[s, 2] + 1, splits[s, 1], target, weight)
            return count + 2
    return count


@numba.njit(cache=True)
def leads_to(genes: np.ndarray, count: int, source: int, target: int, reached: np.ndarray) -> bool:
    """Tell whether a path of connections, enabled or not, leads from source to target, or both are one node.

    reached: (count,) working memory: which connections can be on the path.
    """
    reached[:] = False
    more, arrived = True, source == target
    while more and not arrived:
        more = False
        for k in range(count):
            if not reached[k]:
                entered = genes[k].source == source
                for e in range(count):
                    entered = entered or (reached[e] and genes[e].target == genes[k].source)
                reached[k] = entered
                more = more or entered
                arrived = arrived or (entered and genes[k].target == target)
    return arrived


@numba.njit(cache=True)
def add_link(genes: np.ndarray, count: int, sizes: tuple[int, int, bool], registry: Registry, state: np.ndarray) -> int:
    """Connect two nodes that are not connected, in place, with a weight between -1 and 1.

    Without recurrence the new connection closes no cycle, not even with connections that are disabled and may come
    back. Returns the number of genes, unchanged if ``TRIES`` pairs of nodes could not be connected.
    """
    senses, fixed, recurrent = sizes
    links, counters = registry.links, registry.counters
    nodes, n = np.arange(fixed + count), fixed
    for k in range(count):  # each hidden node is the target of a connection
        known = False
        for node in range(n):
            known = known or nodes[node] == genes[k].target
        if not known:
            nodes[n] = genes[k].target
            n += 1
    reached = np.empty(count, np.bool_)
    for _ in range(TRIES):
        source = nodes[int(uniform(state) * n)]
        target = nodes[senses + int(uniform(state) * (n - senses))]
        free = True
        for k in range(count):
            free = free and not (genes[k].source == source and genes[k].target == target)
        if free and (recurrent or not leads_to(genes, count, target, source, reached)):
            s = 0
            while s < counters[0] and not (links[s, 0] == source and links[s, 1] == target):
                s += 1
            if s == counters[0]:  # no child has got this connection in this generation
                links[s, 0], links[s, 1], links[s, 2] = source, target, counters[2]
                counters[0], counters[2] = s + 1, counters[2] + 1
            insert(genes, count, links[s, 2], source, target, 2 * uniform(state) - 1)
            return count + 1
    return count


@numba.njit(cache=True)
def mutate(
    child: np.ndarray,
    count: int,
    sizes: tuple[int, int, bool],
    registry: Registry,
    settings: Settings,
    state: np.ndarray,
) -> int:
    """Mutate a genome in place. Returns its number of genes."""
    # method
    if uniform(state) < settings.add_node:
        count = add_node(child, count, sizes[0] - 1, registry, state)
    if uniform(state) < settings.add_link:
        count = add_link(child, count, sizes, registry, state)
    if uniform(state) < settings.change_weights:
        change_weights(child, count, settings, state)
    # end of method
    return count


@numba.njit(cache=True)
def divide(shares: np.ndarray, total: int, counts: np.ndarray) -> None:
    """Divide a whole number in proportion to shares, by the largest remainders; equally if all shares are zero.

    counts: filled with whole numbers that add up to the total.
    """
    whole, given = shares.sum(), 0
    left = np.empty(len(shares))
    for s in range(len(shares)):
        exact = total * (shares[s] / whole if whole > 0 else 1 / len(shares))
        counts[s] = int(exact)
        left[s] = exact - counts[s]
        given += counts[s]
    for _ in range(total - given):
        largest = np.argmax(left)
        counts[largest] += 1
        left[largest] = -1.0


@numba.njit(cache=True)
def share_out(
    fitness: np.ndarray,
    labels: np.ndarray,
    species: Species,
    record: np.ndarray,
    patience: float,
    patience_of_all: float,
    generation: int,
) -> None:
    """Fill ``species.children``, the number of children of each species; they add up to the population.

    record: the best fitness so far, and in which generation; it is updated.
    generation: of the children.
    """
    count, top = species.counters[0], np.argmax(fitness)
    if fitness[top] > record[0]:
        record[0], record[1] = fitness[top], generation
    shares, best = np.zeros(count), np.full(count, -1.0)
    # method
    for i in range(len(fitness)):
        s = labels[i]
        if fitness[top] > 0:  # f' = f / |S|, in units of the best, so that no sum overflows
            shares[s] += fitness[i] / fitness[top] / species.size[s]
        best[s] = max(best[s], fitness[i])
    for s in range(count):
        if best[s] > species.best[s]:
            species.best[s], species.improved[s] = best[s], generation
        if generation - species.improved[s] >= patience and s != labels[top]:
            shares[s] = 0.0
    # end of method
    if generation - record[1] >= patience_of_all and count > 2:
        record[1] = generation
        first = np.argmax(best)
        best[first] = -1.0
        second = np.argmax(best)
        shares[:] = 0.0
        shares[first] = shares[second] = 1.0
        species.improved[first] = species.improved[second] = generation
    divide(shares, len(fitness), species.children[:count])


@numba.njit(cache=True)
def copy_genes(genes: np.ndarray, i: int, count: int, to: np.ndarray, j: int) -> None:
    """Copy the genes of row i into row j: a loop, because slices take seconds to compile."""
    for k in range(count):
        to[j, k] = genes[i, k]


@numba.njit(cache=True)
def reproduce(
    genes: np.ndarray,
    counts: np.ndarray,
    fitness: np.ndarray,
    labels: np.ndarray,
    species: Species,
    registry: Registry,
    children: np.ndarray,
    child_counts: np.ndarray,
    sizes: tuple[int, int, bool],
    settings: Settings,
    state: np.ndarray,
) -> None:
    """Write the children of all species."""
    count, made = species.counters[0], 0
    starts, members = np.zeros(count + 1, np.int64), np.empty(len(fitness), np.int64)
    for s in range(count):
        starts[s + 1] = starts[s] + species.size[s]
    ends = starts.copy()
    for i in range(len(fitness)):  # the members of species s begin at starts[s], the best first
        s, k = labels[i], ends[labels[i]]
        while k > starts[s] and fitness[members[k - 1]] < fitness[i]:
            members[k] = members[k - 1]
            k -= 1
        members[k] = i
        ends[s] += 1
    for s in range(count):
        parents = max(1, int(np.ceil(settings.survivors * species.size[s])))
        for number in range(species.children[s]):
            champion = number == 0 and species.size[s] > settings.champion
            mother = father = members[starts[s] + (0 if champion else int(uniform(state) * parents))]
            crossed = not champion and uniform(state) < settings.crossover
            if crossed:
                if uniform(state) < settings.between_species:
                    father = members[starts[int(uniform(state) * count)]]
                else:
                    father = members[starts[s] + int(uniform(state) * parents)]
                smaller = fitness[father] == fitness[mother] and counts[father] < counts[mother]
                if fitness[father] > fitness[mother] or smaller:
                    mother, father = father, mother
                cross(genes, counts, mother, father, children, made, sizes, settings.disable, state)
            else:
                copy_genes(genes, mother, counts[mother], children, made)
            child_counts[made] = counts[mother]
            different = crossed and mother != father
            if not champion and not (different and uniform(state) < settings.only_crossover):
                child_counts[made] = mutate(children[made], counts[mother], sizes, registry, settings, state)
            made += 1


@numba.njit(cache=True)
def speciate(
    genes: np.ndarray,
    counts: np.ndarray,
    labels: np.ndarray,
    species: Species,
    measure: Distance,
    threshold: float,
    generation: int,
    state: np.ndarray,
) -> None:
    """Put each genome into the first species that it fits, or a new one; drop species without members."""
    count = species.counters[0]
    for s in range(count):
        species.size[s] = 0
    # method
    for i in range(len(counts)):
        s = 0
        while s < count:
            if apart(genes, i, counts[i], species.genes, s, species.counts[s], measure, threshold) < threshold:
                break
            s += 1
        if s == count:
            found(species, genes, i, counts[i], generation)
            count += 1
        labels[i] = s
        species.size[s] += 1
    # end of method
    places, left = np.zeros(count, np.int64), 0
    for s in range(count):
        if species.size[s]:
            places[s] = left
            species.number[left], species.best[left] = species.number[s], species.best[s]
            species.improved[left], species.size[left] = species.improved[s], species.size[s]
            left += 1
    species.counters[0] = left
    seen = np.zeros(left, np.int64)
    for i in range(len(counts)):
        place = labels[i] = places[labels[i]]
        seen[place] += 1
        if uniform(state) * seen[place] < 1:  # in the end, each member is there with the same probability
            copy_genes(genes, i, counts[i], species.genes, place)
            species.counts[place] = counts[i]


@numba.njit(cache=True)
def found(species: Species, genes: np.ndarray, i: int, count: int, generation: int) -> None:
    """Found a species with one genome as its representative."""
    s = species.counters[0]
    copy_genes(genes, i, count, species.genes, s)
    species.counts[s], species.size[s] = count, 0
    species.number[s], species.best[s], species.improved[s] = species.counters[1], -1.0, generation
    species.counters[0] += 1
    species.counters[1] += 1
