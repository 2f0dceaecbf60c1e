"""Exhaustive search: evaluate every candidate. Its best is the truth that other searches are measured against."""

from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from lib.search.history import History, Space, check_budget, evaluated

C = TypeVar("C")


def search(space: Space[C], evaluate: Callable[[C], float], *, budget: int, seed: int = 0, jobs: int = 1) -> History[C]:
    """Evaluate every candidate, in the order of the space.

    space: of candidates, a finite one.
    evaluate: gives the fitness of a candidate; one that fails is a row that says so.
    budget: evaluations, at least as many as there are candidates.
    seed: for the signature that all searches share; nothing is drawn. Default 0.
    jobs: processes that evaluate, default 1.

    Raises ValueError, before anything is evaluated, for a smaller budget and for a space without a candidate; TypeError
    for an infinite space.

    >>> from lib.search.chains import Chains
    >>> history = search(Chains(), lambda chain: -Chains().multiply_adds(chain), budget=256)
    >>> len(history.rows), str(history.best.candidate)
    (256, 'skip skip skip skip')
    """
    check_budget(budget, seed)
    candidates = list(islice(space, budget + 1))
    if not candidates:
        raise ValueError("the space has no candidate: there is nothing to search")
    if len(candidates) > budget:
        raise ValueError(f"budget is {budget}, but the space has more candidates: an exhaustive search evaluates all")
    return History(tuple(evaluated(evaluate, candidates, jobs=jobs)))
