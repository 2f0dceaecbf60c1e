r"""What to evaluate next: beliefs about architectures, and the search for the most promising one.

A Gaussian process predicts the mean :math:`\mu` and the standard deviation :math:`\sigma` of the fitness. What counts
is the upper confidence bound of jin2019autokeras,

.. math:: \alpha(f) = \mu(f) + \beta\, \sigma(f) .
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Generic, TypeVar

import numpy as np

from lib.morphism.shared import embedding, gaussian_process
from lib.morphism.shared.edit_distance import Description, Distances
from lib.morphism.shared.tree_search import Node, climb
from lib.search.history import Evaluation, Space

C = TypeVar("C")

DRAWS = 100  # tries to find a random candidate that is new, before the space counts as used up
LEAST_NOISE = 1e-10  # the authors' default; with less, rounding can make the kernel matrix indefinite


class Beliefs:
    """A Gaussian process, fitted to the architectures whose fitness is known.

    known: the architectures, 1 or more.
    values: their fitness, finite.
    distances: edit distances.
    noise: variance of the noise of a value, above 0.
    random: numpy's generator, draws the sets of the embedding.

    >>> told = [Description((8,)), Description((16,))]
    >>> beliefs = Beliefs(told, [0.0, 1.0], Distances(0.1), 1e-10, np.random.default_rng(0))
    >>> beliefs.predict(told)[0].round(3).tolist()
    [0.0, 1.0]
    """

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
        """Predict mean and standard deviation of the fitness, (m,) and (m,).

        descriptions: of m architectures.
        """
        coordinates = self.sets.coordinates(self.distances(descriptions, self.known))
        return self.process.predict(embedding.kernel(coordinates, self.coordinates))


class Chooser(Generic[C]):
    """Chooses what to evaluate next.

    space: where candidates come from.
    describe: gives the description of a candidate that the edit distance compares.
    morph: draws a morph of a candidate with numpy's generator.
    beta: weight of the standard deviation in the bound, 0 or more.
    skip_weight: of skip connections in the edit distance, above 0.
    noise: variance of the noise of the fitness, over the variance of the fitness, 1e-10 or more.
    seed: of all draws, 0 or more.

    Raises ValueError for arguments outside these bounds and for a space without candidates.

    >>> from lib.search.chains import Chains
    >>> def width(chain):
    ...     return Description((Chains().parameters(chain),))
    >>> chooser = Chooser(Chains(), width, Chains().mutated, 2.576, 0.1, 1e-10, 0)
    >>> rows = [Evaluation(chain, -Chains().parameters(chain)) for chain in chooser.draw(3, set())]
    >>> [node.parent in (0, 1, 2) for node in chooser.choose(rows, 1)]
    [True]
    """

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
        """Draw at most ``count`` random candidates whose descriptions are new.

        count: how many.
        tried: descriptions that are not new.
        """
        drawn: dict[Description, C] = {}
        for _ in range(DRAWS * count):
            candidate = self.space.sample(self.random)
            if self.describe(candidate) not in tried:
                drawn.setdefault(self.describe(candidate), candidate)
            if len(drawn) == count:
                break
        return list(drawn.values())

    def choose(self, rows: Sequence[Evaluation[C]], count: int) -> list[Node[C]]:
        """Choose at most ``count`` candidates with new descriptions.

        rows: the evaluations so far.
        count: how many.

        Returns each with its path from the evaluated candidate it was morphed from; fewer if no more are new.
        """
        tried = {self.describe(row.candidate) for row in rows}
        worked = [(place, row) for place, row in enumerate(rows) if not row.failure]
        roots = [Node((row.candidate,), place) for place, row in worked]
        scores = _standardized([row.fitness for _, row in worked])
        known, values = [self.describe(row.candidate) for _, row in worked], list(scores)
        chosen: list[Node[C]] = []
        while len(chosen) < count:
            beliefs, node = None, None
            if roots:
                beliefs = Beliefs(known, values, self.distances, self.noise, self.random)
                node = climb(
                    roots,
                    scores,
                    morph=self.morph,
                    describe=self.describe,
                    bounds=partial(self.bounds, beliefs),
                    tried=tried,
                    random=self.random,
                )
            if node is None:  # nothing to learn from yet, or the tree has nothing new
                node = next((Node((candidate,)) for candidate in self.draw(1, tried)), None)
            if node is None:
                break
            chosen.append(node)
            tried.add(self.describe(node.candidate))
            if beliefs:
                known.append(self.describe(node.candidate))
                values.append(float(beliefs.predict(known[-1:])[0][0]))
        return chosen

    def bounds(self, beliefs: Beliefs, descriptions: Sequence[Description]) -> list[float]:
        """Compute the upper confidence bound of each architecture: mu + beta sigma.

        beliefs: of the Gaussian process.
        descriptions: of the architectures.
        """
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
