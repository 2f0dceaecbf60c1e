r"""Auto-Keras: Bayesian optimization chooses which morphs of which network to train next (jin2019autokeras).

A Gaussian process, whose kernel comes from the edit distance of architectures, predicts the mean :math:`\mu` and the
standard deviation :math:`\sigma` of the fitness of networks that are not trained yet. The next network is the one with
the largest upper confidence bound that a search through a tree of morphs finds,

.. math:: \alpha(f) = \mu(f) + \beta\, \sigma(f) .

The tree, :mod:`lib.morphism.shared.tree_search`, starts from all evaluated networks.

Three things differ from the authors' code. Fitness is in standard deviations from its mean, so that the prior (mean 0,
variance 1) and the temperature fit any scale. A candidate that failed is not tried again, and the Gaussian process does
not see it. Candidates of one batch count at their predicted mean until they are evaluated. Left out: training in the
background while the tree is searched, and the limit of memory that adapts to the device.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lib.arguments import check_sizes
from lib.morphism.shared.chooser import LEAST_NOISE, Chooser
from lib.morphism.shared.edit_distance import Description
from lib.morphism.shared.tree_search import Node
from lib.search.history import Evaluation, History, Space, check_budget, evaluated

C = TypeVar("C")
N = TypeVar("N")


@dataclass(frozen=True)
class Tree(History[C], Generic[C, N]):
    """What :func:`grow` returns: a history that says from which network each one was morphed.

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
    describe: gives the description of a candidate that the edit distance compares.
    morph: draws a morph of a candidate with numpy's generator; default: the space's ``mutated``.
    start: random candidates before the Gaussian process chooses, 1 or more; default 4. At most budget - 1 are
        drawn, so that it chooses at least once.
    batch: candidates that are chosen before the next evaluations, 1 or more; default 1.
    beta: weight of the standard deviation in the bound, 0 or more; default 2.576.
    skip_weight: of skip connections in the edit distance, above 0; default 0.1.
    noise: variance of the noise of the fitness, over the variance of the fitness, 1e-10 or more; default 1e-10.
    jobs: processes that evaluate a batch, 1 or more; they change no result. Default 1.

    Returns the history; it ends before the budget if nothing new was found.
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
    check_sizes({"start": start, "batch": batch, "jobs": jobs})
    chooser = Chooser(space, describe, morph or space.mutated, beta, skip_weight, noise, seed)
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
    """Search as :func:`search` does, and let each network continue from the trained network it was morphed from.

    space: where candidates come from.
    train: gets the candidates from the parent to the one to train, each a morph of the one before, and a copy of the
        parent's network; returns the fitness, larger = better, and the trained network. To train from scratch it gets
        (candidate,) and None: for the first, and for random ones while every training failed or no morph is new.
    first: the candidate to begin with; a small one, since morphs usually grow.
    budget: trainings, 2 or more.
    seed: of all draws, 0 or more.
    describe: gives the description of a candidate that the edit distance compares.
    morph: draws a morph of a candidate with numpy's generator; default: the space's ``mutated``.
    beta, skip_weight, noise: as for :func:`search`.

    Returns the history with the parent and the network of each row. Raises ValueError as :func:`search` does.
    Source: jin2019autokeras.

    >>> from lib.search.chains import Chains
    >>> space = Chains()
    >>> def train(path, network):
    ...     return -space.parameters(path[-1]), [*(network or []), *path]
    >>> def weights_of_layers(chain):
    ...     return Description(tuple(layer.parameters for layer in space.operations_of(chain) if layer.parameters))
    >>> tree = grow(space, train, first=next(iter(space)), budget=3, seed=0, describe=weights_of_layers)
    >>> len(tree.rows), tree.networks[0] == [tree.rows[0].candidate]
    (3, True)
    """
    check_budget(budget, seed, least=2)
    chooser = Chooser(space, describe, morph or space.mutated, beta, skip_weight, noise, seed)
    chooser.describe(first)  # refuses before a training is spent
    rows: list[Evaluation[C]] = []
    parents: list[int | None] = []
    networks: list[N | None] = []
    chosen = [Node((first,))]
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
