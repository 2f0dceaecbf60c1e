r"""CoDeepNEAT: modules and blueprints evolve together, and gradient descent trains the networks they make.

Two populations of graphs evolve as in NEAT, with historical markings and species (miikkulainen2019evolving, section 3).
The nodes of a *module* are layers; the nodes of a *blueprint* point to species of modules, and its output says how to
train. For each network, every species that the blueprint points to contributes one random module
(:mod:`lib.neuroevolution.shared.assembly`). The fitness f(n) of a network is its validation accuracy after a few epochs
of training, and that of a blueprint or module x is the mean over the networks N(x) in which it took part:

.. math:: F(x) = \frac{1}{|N(x)|} \sum_{n \in N(x)} f(n)

So evolution uses no gradient: gradient descent only trains the weights of a network before it is judged, and trained
weights are not inherited.

Some things differ from the paper, or are not said there. Values come from short lists and change to another one of
their list, where the paper perturbs numbers. Weights have the usual initial scale. Merges add up, while the paper also
concatenates. A module that was in no network counts as much as the average of those that were. For how species differ
see :mod:`lib.neuroevolution.shared.populations`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import joblib
import numpy as np

from lib.neuroevolution.shared import graphs
from lib.neuroevolution.shared.assembly import Candidate, Pointer, Space
from lib.neuroevolution.shared.graphs import Choices, Graph, Markings
from lib.neuroevolution.shared.populations import Population, Settings, mutated

DEFAULT = Settings()


@dataclass(frozen=True)
class Evaluation:
    """One evaluated network.

    generation: from 0.
    blueprint: its place in the population.
    modules: the places of its modules, by their species.
    candidate: the blueprint and the modules that it was made from.
    fitness: the fitness that it reached.
    """

    generation: int
    blueprint: int
    modules: dict[int, int]
    candidate: Candidate
    fitness: float


@dataclass(frozen=True)
class Generation:
    """Both populations and their fitness, which is NaN for a graph that was in no network.

    blueprints, modules: the graphs.
    blueprint_fitness, module_fitness: one number each.
    blueprint_species, module_species: the number of the species of each.
    """

    blueprints: tuple[Graph, ...]
    modules: tuple[Graph, ...]
    blueprint_fitness: np.ndarray
    module_fitness: np.ndarray
    blueprint_species: np.ndarray
    module_species: np.ndarray


@dataclass(frozen=True)
class History:
    """What a search did.

    rows: one for each network, in the order in which they were drawn.
    generations: one for each generation; none for random search.
    """

    rows: tuple[Evaluation, ...]
    generations: tuple[Generation, ...] = ()

    @property
    def best(self) -> Evaluation:
        """The first of the networks with the largest fitness."""
        return max(self.rows, key=lambda row: row.fitness)

    def fitness(self, generation: int) -> list[float]:
        """List the fitness of all networks of a generation.

        generation: from 0, or from -1 backwards.
        """
        number = generation if generation >= 0 else self.rows[-1].generation + 1 + generation
        return [row.fitness for row in self.rows if row.generation == number]


def credit(rows: Sequence[Evaluation], blueprints: int, modules: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean fitness of the networks in which each blueprint and each module took part.

    rows: networks of one generation.
    blueprints, modules: the sizes of the populations.

    Returns (blueprints,) and (modules,) float64, NaN for a graph that was in no network.
    """
    # method
    shared: list[list[list[float]]] = [[[] for _ in range(blueprints)], [[] for _ in range(modules)]]
    for row in rows:
        shared[0][row.blueprint].append(row.fitness)
        for place in row.modules.values():
            shared[1][place].append(row.fitness)
    # end of method
    first, second = (np.array([np.mean(f) if f else np.nan for f in kind]) for kind in shared)
    return first, second


def repointed(blueprint: Graph, living: Sequence[int], random: np.random.Generator) -> Graph:
    """Point each node whose species has no modules any more to another species, drawn at random.

    blueprint: left as it was.
    living: numbers of species that have modules.
    random: of the draws.
    """
    for node, values in blueprint.nodes.items():
        if isinstance(values, Pointer) and values.species not in living:
            blueprint = blueprint.with_values(node, Pointer(living[int(random.integers(len(living)))]))
    return blueprint


def search(
    space: Space,
    evaluate: Callable[[Candidate], float],
    *,
    budget: int,
    seed: int,
    blueprints: int = 5,
    modules: int = 8,
    networks: int = 12,
    settings: Settings = DEFAULT,
    jobs: int = 1,
) -> History:
    """Evolve blueprints and modules.

    Both begin with one node between input and output. Each generation trains the same number of networks, in which
    the blueprints take turns; the last one trains what is left of the budget.

    space: the values to choose from.
    evaluate: returns the fitness of a candidate, finite and not negative, such as
        :class:`lib.neuroevolution.shared.accuracy.Accuracy`.
    budget: networks to train, at least as many as blueprints.
    seed: integer, 0 or more, of all draws of the search.
    blueprints: in each generation, 1 or more, default 5. The paper has 25.
    modules: in each generation, 1 or more, default 8. The paper has 45.
    networks: in each generation, at least as many as blueprints, default 12. The paper has 100.
    settings: of both populations.
    jobs: processes that evaluate, through joblib, whose backends also reach Dask and Ray; default 1, this process. The
        history does not depend on it.

    Raises ValueError for numbers out of range and for a fitness that is negative or not finite.
    Source: miikkulainen2019evolving, section 3.2.

    >>> def filters(candidate):
    ...     return sum(step.layer.filters for step in candidate.steps() if step.layer)
    >>> history = search(Space(), filters, budget=60, seed=0)
    >>> len(history.rows), sum(history.fitness(0)) < sum(history.fitness(-1))
    (60, True)
    """
    if min(blueprints, modules) < 1 or networks < blueprints:
        raise ValueError(
            f"blueprints and modules must be 1 or more, and networks at least as many as blueprints, not"
            f" {blueprints}, {modules} and {networks}"
        )
    check_budget(budget, seed, blueprints)
    random = np.random.default_rng(seed)
    parts = Population(modules, space.of_modules(), settings, random)
    wholes = Population(blueprints, space.of_blueprints(parts.living()), settings, random)
    rows: list[Evaluation] = []
    generations: list[Generation] = []
    while True:
        number = len(generations)
        # method
        drawn = []
        for n in range(min(networks, budget - len(rows))):
            blueprint = wholes.graphs[n % blueprints]
            members = {s.number: s.members for s in parts.species}
            places = {s: members[s][int(random.integers(len(members[s])))] for s in pointed_to(blueprint)}
            candidate = Candidate(blueprint, {s: parts.graphs[place] for s, place in places.items()})
            drawn.append((n % blueprints, places, candidate))
        fitness = evaluated(evaluate, [candidate for _, _, candidate in drawn], jobs)
        new = [Evaluation(number, *three, value) for three, value in zip(drawn, fitness, strict=True)]
        credited = credit(new, blueprints, modules)
        # end of method
        rows += new
        generations.append(
            Generation(tuple(wholes.graphs), tuple(parts.graphs), *credited, wholes.labels(), parts.labels())
        )
        if len(rows) == budget:
            return History(tuple(rows), tuple(generations))
        parts.advance(credited[1], space.of_modules())
        wholes.advance(credited[0], space.of_blueprints(parts.living()))
        wholes.graphs = [repointed(graph, parts.living(), random) for graph in wholes.graphs]


def random_search(
    space: Space,
    evaluate: Callable[[Candidate], float],
    *,
    budget: int,
    seed: int,
    growth: int = 4,
    settings: Settings = DEFAULT,
    jobs: int = 1,
) -> History:
    """Draw networks at random: the rival of evolution that trains as many networks of the same space.

    A blueprint or module begins as in :func:`search` and has 0 to ``growth`` mutations, each number equally likely.

    space, evaluate, budget, seed, jobs: as for :func:`search`.
    growth: the most mutations of a graph, 0 or more; default 4. In :func:`search` a graph of the last generation has at
        most one for each generation before.
    settings: ``species`` is the number of modules that a blueprint may point to, and the probabilities are those of
        the mutations.

    Raises ValueError as :func:`search` does, and for a ``growth`` below 0.

    >>> len(random_search(Space(), lambda candidate: 1.0, budget=7, seed=0).rows)
    7
    """
    check_budget(budget, seed, 1)
    if growth < 0:
        raise ValueError(f"growth must be 0 or more, not {growth}")
    random = np.random.default_rng(seed)
    pointers = range(settings.species)

    def grown(choices: Choices) -> Graph:
        markings = Markings()
        graph = graphs.minimal(choices, markings, random)
        for _ in range(int(random.integers(growth + 1))):
            graph = mutated(graph, choices, markings, settings, random)
        return graph

    drawn = []
    for _ in range(budget):
        blueprint = grown(space.of_blueprints(pointers))
        drawn.append(Candidate(blueprint, {s: grown(space.of_modules()) for s in pointed_to(blueprint)}))
    fitness = evaluated(evaluate, drawn, jobs)
    return History(tuple(Evaluation(0, n, {}, *pair) for n, pair in enumerate(zip(drawn, fitness, strict=True))))


def evaluated(evaluate: Callable[[Candidate], float], candidates: Sequence[Candidate], jobs: int) -> list[float]:
    """Evaluate candidates, in parallel if asked. Raises ValueError for a fitness that is negative or not finite."""
    if jobs == 1:
        fitness = [float(evaluate(candidate)) for candidate in candidates]
    else:
        calls = (joblib.delayed(evaluate)(candidate) for candidate in candidates)
        fitness = [float(value) for value in joblib.Parallel(n_jobs=jobs)(calls)]
    for value in fitness:
        if not 0 <= value < math.inf:
            raise ValueError(f"the fitness of a network must be finite and not negative, not {value}")
    return fitness


def check_budget(budget: int, seed: int, least: int) -> None:
    """Raise ValueError for a budget below ``least`` and a negative seed."""
    if budget < least:
        raise ValueError(f"budget must be {least} or more networks, not {budget}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")


def pointed_to(blueprint: Graph) -> list[int]:
    """List the species to which a blueprint points, in order."""
    return sorted({values.species for values in blueprint.nodes.values() if isinstance(values, Pointer)})
