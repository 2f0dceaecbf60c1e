"""Random search: draw candidates and keep the best of them. Every other search must beat it (li2019random)."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from lib.search.history import History, Space, check_budget, evaluated

C = TypeVar("C")


def search(space: Space[C], evaluate: Callable[[C], float], *, budget: int, seed: int, jobs: int = 1) -> History[C]:
    """Evaluate ``budget`` different candidates, drawn at random.

    space: of candidates.
    evaluate: gives the fitness of a candidate; one that fails is a row that says so.
    budget: evaluations, 1 or more.
    seed: of the draws, 0 or more.
    jobs: processes that evaluate, default 1.

    Raises ValueError, before anything is evaluated, for a budget above the number of candidates.

    >>> from lib.search.chains import Chains
    >>> history = search(Chains(), lambda chain: -Chains().parameters(chain), budget=20, seed=0)
    >>> len({row.candidate for row in history.rows})
    20
    """
    check_budget(budget, seed)
    random = np.random.default_rng(seed)
    # method
    drawn: dict[C, None] = {}
    in_vain = 0
    while len(drawn) < budget:
        before = len(drawn)
        drawn[space.sample(random)] = None
        # end of method
        in_vain = 0 if len(drawn) > before else in_vain + 1
        # Where one candidate of n is left, 20 n draws miss it with probability exp(-20).
        if in_vain > 20 * (len(drawn) + 1):
            raise ValueError(f"budget is {budget}, but {in_vain} draws found no candidate besides these {len(drawn)}")
    return History(tuple(evaluated(evaluate, list(drawn), jobs=jobs)))
