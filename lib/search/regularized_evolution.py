"""Regularized evolution: the best of a few is mutated, and the oldest of all dies (real2019regularized, algorithm 1).

Age decides which one dies, not fitness, so that a candidate whose evaluation was lucky does not stay forever: only what
does well again and again survives.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from lib.arguments import check_sizes
from lib.search.history import Evaluation, History, Space, check_budget, evaluated

C = TypeVar("C")


def search(
    space: Space[C],
    evaluate: Callable[[C], float],
    *,
    budget: int,
    seed: int,
    population: int = 10,
    tournament: int = 3,
    jobs: int = 1,
) -> History[C]:
    """Evolve a population that starts at random; each step adds a child and removes the oldest.

    The paper uses ``population`` = 100 and ``tournament`` = 25 for 20,000 evaluations; the defaults here are for
    budgets of a few dozen. A candidate that comes up again is evaluated again, and counts.

    space: of candidates.
    evaluate: gives the fitness of a candidate; one that fails is a row that says so, and wins no tournament.
    budget: evaluations, ``population`` or more.
    seed: of the draws, 0 or more.
    population: P, 1 or more, default 10.
    tournament: S, members that are drawn with replacement, of which the fittest is the parent; 1 or more, default 3.
    jobs: processes that evaluate, default 1. With more, that many children are bred from the same population at once,
        as the paper's workers do, so the history depends on their number.

    Raises ValueError, before anything is evaluated, for sizes that are not accepted.

    >>> from lib.search.chains import Chains
    >>> history = search(Chains(), lambda chain: -Chains().parameters(chain), budget=60, seed=0)
    >>> str(history.best.candidate)
    'skip skip skip skip'
    """
    check_sizes({"population": population, "tournament": tournament, "jobs": jobs})
    check_budget(budget, seed, least=population)
    random = np.random.default_rng(seed)
    # method
    rows = evaluated(evaluate, [space.sample(random) for _ in range(population)], jobs=jobs)
    alive: deque[Evaluation[C]] = deque(rows, maxlen=population)  # when full, adding one drops the oldest
    while len(rows) < budget:
        children = [_child(space, alive, tournament, random) for _ in range(min(jobs, budget - len(rows)))]
        born = evaluated(evaluate, children, jobs=jobs)
        rows += born
        alive += born
    # end of method
    return History(tuple(rows))


def _child(space: Space[C], alive: deque[Evaluation[C]], tournament: int, random: np.random.Generator) -> C:
    drawn = [alive[i] for i in random.integers(len(alive), size=tournament)]
    return space.mutated(max(drawn, key=lambda row: row.fitness).candidate, random)
