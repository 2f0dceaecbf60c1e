r"""Auto-Keras: Bayesian optimization chooses which morphs of which network to train next (jin2019autokeras).

A Gaussian process, whose kernel comes from the edit distance of architectures, predicts the mean :math:`\mu` and the
standard deviation :math:`\sigma` of the fitness of networks that are not trained yet. The next network is the one with
the largest upper confidence bound that a search through a tree of morphs finds,

.. math:: \alpha(f) = \mu(f) + \beta\, \sigma(f) .

The tree, :mod:`lib.morphism.shared.tree_search`, starts from all evaluated networks.

Unlike the authors' code, the Gaussian process sees fitness in standard deviations from its mean, so that its prior
(mean 0, variance 1) and the temperature fit any scale; a candidate that failed is not tried again, and does not reach
the Gaussian process; candidates of one batch count at their predicted mean until they are evaluated. Left out: training
in the background while the tree is searched, and the limit of memory that adapts to the device.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Generic, TypeVar

import numpy as np

from lib.morphism.shared import embedding, gaussian_process
from lib.morphism.shared.edit_distance import Description, Distances
from lib.morphism.shared.tree_search import Node, climb
from lib.search.history import Evaluation, History, Space, check_budget, evaluated

C = TypeVar("C")
N = TypeVar("N")

DRAWS = 100  # tries to find a random candidate that is new, before the space counts as used up
LEAST_NOISE = 1e-10  # the authors' default; with less, rounding can make the kernel matrix indefinite


@dataclass(frozen=True)
class Tree(History[C], Generic[C, N]):
    """What :func:`grow` leaves: a history that says from which network each one was morphed.

    rows: one for each evaluation.
    parents: the row whose network was morphed; None for a network that was trained from scratch.
    networks: what each training returned; None where it failed.
    """

    parents: tuple[int | None, ...]
    networks: tuple[N | None, ...]


def search(
    space: Space[C],
    evaluate: Callable[[C], float],
    *,
    budget: int,
    seed: int,
    describe: Callable[[C], Description],
    morph: Callable[[C, np.random.Generator], C] | None = None,
    start: int = 4,
    batch: int = 1,
    beta: float = 2.576,
    skip_weight: float = 0.1,
    noise: float = LEAST_NOISE,
    jobs: int = 1,
) -> History[C]:
    """Search a space by Bayesian optimization. Candidates with the same description count as one.

    space: where candidates come from.
    evaluate: fitness of a candidate, larger = better. For one that does not count, return NaN or raise: a huge penalty
        would make all others look alike.
    budget: evaluations, 2 or more.
    seed: of all draws, 0 or more.
    describe: what the edit distance knows of a candidate.
    morph: draws a morph of a candidate with numpy's generator; default: the space's ``mutated``.
    start: random candidates before the Gaussian process chooses, 1 or more, at most budget - 1; default 4.
    batch: candidates that are chosen before the next evaluations, 1 or more; default 1.
    beta: weight of the standard deviation in the bound, 0 or more; default 2.576.
    skip_weight: of skip connections in the edit distance, above 0; default 0.1.
    noise: variance of the noise of the fitness, over the variance of the fitness, 1e-10 or more; default 1e-10.
    jobs: processes that evaluate a batch; they change no result. Default 1.

    Returns the history; it ends before the budget where nothing new was found.
    Raises ValueError for arguments outside these bounds and for a space without candidates. Source: jin2019autokeras.

    >>> from lib.search.chains import Chains
    >>> space = Chains()
    >>> def weights_of_layers(chain):
    ...     return Description(tuple(layer.parameters for layer in space.operations_of(chain) if layer.parameters))
    >>> history = search(
    ...     space, lambda chain: -abs(space.parameters(chain) - 2000), budget=20, seed=0, describe=weights_of_layers
    ... )
    >>> len(history.rows), -100 < history.best.fitness  # parameters
    (20, True)
    """
    check_budget(budget, seed, least=2)
    for name, value in (("start", start), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, not {value!r}")
    chooser = _Chooser(space, describe, morph or space.mutated, beta, skip_weight, noise, seed)
    rows = evaluated(evaluate, chooser.draw(min(start, budget - 1), set()), jobs=jobs)
    while len(rows) < budget:
        chosen = chooser.choose(rows, min(batch, budget - len(rows)))
        if not chosen:
            break
        rows += evaluated(evaluate, [node.candidate for node in chosen], jobs=jobs)
    return History(tuple(rows))


def grow(
    space: Space[C],
    train: Callable[[tuple[C, ...], N | None], tuple[float, N]],
    *,
    first: C,
    budget: int,
    seed: int,
    describe: Callable[[C], Description],
    morph: Callable[[C, np.random.Generator], C] | None = None,
    beta: float = 2.576,
    skip_weight: float = 0.1,
    noise: float = LEAST_NOISE,
) -> Tree[C, N]:
    """Search as :func:`search` does, and let each network continue from the trained network that it is a morph of.

    space: where candidates come from.
    train: gets the candidates from the parent to the one to train, each a morph of the one before, and a copy of the
        parent's network; returns the fitness, larger = better, and the trained network. From scratch it gets
        (candidate,) and None: for the first, and for random ones while every training failed or no morph is new.
    first: the candidate to begin with: morphs usually grow, so a small one.
    budget: trainings, 2 or more.
    seed: of all draws, 0 or more.
    describe: what the edit distance knows of a candidate.
    morph: draws a morph of a candidate with numpy's generator; default: the space's ``mutated``.
    beta, skip_weight, noise: as for :func:`search`.

    Returns the history with the parent and the network of each row. Raises ValueError as :func:`search` does.
    Source: jin2019autokeras.
    """
    check_budget(budget, seed, least=2)
    chooser = _Chooser(space, describe, morph or space.mutated, beta, skip_weight, noise, seed)
    chooser.describe(first)  # refuses before a training is spent
    rows: list[Evaluation[C]] = []
    parents: list[int | None] = []
    networks: list[N | None] = []
    chosen = [Node(first, (first,))]
    while chosen:
        [node] = chosen
        row, network = _trained(train, node.path, None if node.parent is None else networks[node.parent])
        rows.append(row)
        parents.append(node.parent)
        networks.append(network)
        chosen = chooser.choose(rows, 1) if len(rows) < budget else []
    return Tree(tuple(rows), tuple(parents), tuple(networks))


def _trained(
    train: Callable[[tuple[C, ...], N | None], tuple[float, N]], path: tuple[C, ...], network: N | None
) -> tuple[Evaluation[C], N | None]:
    results: list[N] = []

    def fitness(path: tuple[C, ...]) -> float:
        value, result = train(path, copy.deepcopy(network))  # other morphs may continue from the same parent
        results.append(result)
        return value

    [row] = evaluated(fitness, [path])
    return Evaluation(path[-1], row.fitness, row.failure), None if row.failure else results[0]


class _Beliefs:
    """What a Gaussian process makes of the architectures whose fitness is known."""

    def __init__(
        self,
        known: Sequence[Description],
        values: Sequence[float],
        distances: Distances,
        noise: float,
        random: np.random.Generator,
    ) -> None:
        # method
        self.known, self.distances, self.sets = list(known), distances, embedding.draw(len(known), random)
        self.coordinates = self.sets.coordinates(distances(self.known, self.known))
        kernel = embedding.kernel(self.coordinates, self.coordinates)
        self.process = gaussian_process.fit(kernel, np.array(values), noise=noise)
        # end of method

    def predict(self, descriptions: Sequence[Description]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the fitness of each architecture."""
        coordinates = self.sets.coordinates(self.distances(descriptions, self.known))
        return self.process.predict(embedding.kernel(coordinates, self.coordinates))


class _Chooser(Generic[C]):
    """Chooses what to evaluate next."""

    def __init__(
        self,
        space: Space[C],
        describe: Callable[[C], Description],
        morph: Callable[[C, np.random.Generator], C],
        beta: float,
        skip_weight: float,
        noise: float,
        seed: int,
    ) -> None:
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a finite number of 0 or more, not {beta!r}")
        if not LEAST_NOISE <= noise < math.inf:
            raise ValueError(f"noise must be a finite number of {LEAST_NOISE} or more, not {noise!r}")
        _check_not_empty(space)
        self.space, self.morph, self.beta, self.noise = space, morph, beta, noise
        self.distances = Distances(skip_weight)
        self.describe = lru_cache(maxsize=100_000)(_checked(describe))
        self.random = np.random.default_rng(seed)

    def draw(self, count: int, tried: set[Description]) -> list[C]:
        """At most ``count`` random candidates whose descriptions are new."""
        drawn: dict[Description, C] = {}
        for _ in range(DRAWS * count):
            candidate = self.space.sample(self.random)
            if self.describe(candidate) not in tried:
                drawn.setdefault(self.describe(candidate), candidate)
            if len(drawn) == count:
                break
        return list(drawn.values())

    def choose(self, rows: Sequence[Evaluation[C]], count: int) -> list[Node[C]]:
        """At most ``count`` candidates with new descriptions."""
        tried = {self.describe(row.candidate) for row in rows}
        worked = [(place, row) for place, row in enumerate(rows) if not row.failure]
        roots = [Node(row.candidate, (row.candidate,), place) for place, row in worked]
        scores = _standardized([row.fitness for _, row in worked])
        known, values = [self.describe(row.candidate) for _, row in worked], list(scores)
        chosen: list[Node[C]] = []
        while len(chosen) < count:
            beliefs = _Beliefs(known, values, self.distances, self.noise, self.random) if roots else None
            node = self.climbed(roots, scores, beliefs, tried) if beliefs else None
            if node is None:  # nothing to learn from yet, or the tree has nothing new
                node = next((Node(candidate, (candidate,)) for candidate in self.draw(1, tried)), None)
            if node is None:
                break
            chosen.append(node)
            tried.add(self.describe(node.candidate))
            if beliefs:
                known.append(self.describe(node.candidate))
                values.append(float(beliefs.predict(known[-1:])[0][0]))
        return chosen

    def climbed(
        self, roots: Sequence[Node[C]], scores: Sequence[float], beliefs: _Beliefs, tried: set[Description]
    ) -> Node[C] | None:
        """The node of the tree whose bound is the largest found."""
        return climb(
            roots,
            scores,
            morph=self.morph,
            describe=self.describe,
            bounds=partial(self.bounds, beliefs),
            tried=tried,
            random=self.random,
        )

    def bounds(self, beliefs: _Beliefs, descriptions: Sequence[Description]) -> list[float]:
        """The upper confidence bound of each architecture: mu + beta sigma."""
        if not descriptions:
            return []
        mean, deviation = beliefs.predict(descriptions)
        return (mean + self.beta * deviation).tolist()


def _checked(describe: Callable[[C], Description]) -> Callable[[C], Description]:
    def checked(candidate: C) -> Description:
        description = describe(candidate)
        if not isinstance(description, Description):
            raise ValueError(f"describe must return a Description, not {description!r} for {candidate!r}")
        return description

    return checked


def _check_not_empty(space: Space[C]) -> None:
    try:
        next(iter(space))
    except StopIteration:
        raise ValueError("the space has no candidates") from None
    except TypeError:  # it is infinite, and cannot be listed
        return


def _standardized(fitness: Sequence[float]) -> list[float]:
    """Fitness in standard deviations from its mean; zeros where all are the same."""
    if not fitness:
        return []
    scaled = np.array(fitness) / (np.abs(fitness).max() or 1)  # so that squares neither overflow nor vanish
    spread = scaled.std()
    return ((scaled - scaled.mean()) / (spread if spread > 1e-12 else 1)).tolist()
