"""How far a search is from the truth, after each of its evaluations."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from lib.search.history import History

C = TypeVar("C")


def regret_points(history: History[C], truth: Mapping[C, float]) -> np.ndarray:
    r"""Return how far the search's choice falls short of the best candidate, after each evaluation.

    .. math:: r_t = \max_m a(m) - a(m_t)

    with a the truth and :math:`m_t` the candidate with the largest fitness among the first t. The search chose by its
    fitness, which is one sample, so the regret can rise as well as fall.

    history: of any search.
    truth: candidate -> accuracy in percent, for all candidates that may be chosen.

    Returns percentage points, shape (evaluations,). As long as every evaluation has failed there is no choice, and the
    regret is that of the worst candidate.
    Raises ValueError for an empty or not finite truth, and for a candidate that it lacks.

    >>> from lib.search.history import Evaluation
    >>> history = History((Evaluation("a", 0.6), Evaluation("b", 0.9), Evaluation("c", 0.7)))
    >>> regret_points(history, {"a": 80.0, "b": 85.0, "c": 90.0})
    array([10.,  5.,  5.])
    """
    values = np.array(list(truth.values()), dtype=float)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("truth must have a finite accuracy for each candidate, and at least one")
    regrets, fittest, chosen = [], -np.inf, float(values.min())
    for row in history.rows:
        if row.fitness > fittest:
            if row.candidate not in truth:
                raise ValueError(f"truth says nothing about {row.candidate}")
            fittest, chosen = row.fitness, truth[row.candidate]
        regrets.append(values.max() - chosen)
    return np.array(regrets)
