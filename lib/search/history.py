"""What every search takes and returns: ``search(space, evaluate, budget=..., seed=...) -> History``."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import joblib
import numpy as np

from lib.arguments import check_sizes

C = TypeVar("C")


class Space(Protocol[C]):
    """The candidates that a search may choose. Candidates are values: they can be compared, hashed and pickled."""

    def __iter__(self) -> Iterator[C]:
        """List all candidates, in one fixed order; an infinite space raises TypeError."""

    def sample(self, random: np.random.Generator) -> C:
        """Draw a candidate.

        random: numpy's generator.
        """

    def mutated(self, candidate: C, random: np.random.Generator) -> C:
        """Draw a neighbor: a candidate that differs in one choice.

        candidate: of this space.
        random: numpy's generator.
        """


@dataclass(frozen=True)
class Evaluation(Generic[C]):
    """One row of a history.

    candidate: that was tried.
    fitness: larger is better; minus infinity where the evaluation failed.
    failure: why it failed, in one sentence; empty where it did not.
    """

    candidate: C
    fitness: float
    failure: str = ""


@dataclass(frozen=True)
class History(Generic[C]):
    """All evaluations of a search, in their order.

    rows: one for each evaluation.
    """

    rows: tuple[Evaluation[C], ...]

    @property
    def best(self) -> Evaluation[C]:
        """The first row with the largest fitness. Raises ValueError if there is none, or every evaluation failed."""
        if not self.rows:
            raise ValueError("the history has no evaluation, so there is no best one")
        if not any(row.fitness > -math.inf for row in self.rows):
            raise ValueError(f"none of the {len(self.rows)} evaluations worked; the last one: {self.rows[-1].failure}")
        return max(self.rows, key=lambda row: row.fitness)


def evaluated(evaluate: Callable[[C], float], candidates: Sequence[C], *, jobs: int = 1) -> list[Evaluation[C]]:
    """Evaluate candidates; one that raises, or whose fitness is not finite, is a row that says so.

    evaluate: gives the fitness of a candidate.
    candidates: to evaluate.
    jobs: processes, through joblib, whose backends also reach Dask and Ray; default 1, this process.

    >>> [row.failure for row in evaluated(lambda n: 1 / n, [1, 0])]
    ['', 'ZeroDivisionError: division by zero']
    """
    return joblib.Parallel(n_jobs=jobs)(joblib.delayed(_one)(evaluate, candidate) for candidate in candidates)


def _one(evaluate: Callable[[C], float], candidate: C) -> Evaluation[C]:
    try:
        fitness = float(evaluate(candidate))
    except Exception as error:  # whatever a user's evaluation raises, the search goes on
        return Evaluation(candidate, -math.inf, f"{type(error).__name__}: {error}")
    if not math.isfinite(fitness):
        return Evaluation(candidate, -math.inf, f"the fitness is {fitness}: a finite number is needed")
    return Evaluation(candidate, fitness)


def check_budget(budget: int, seed: int, *, least: int = 1) -> None:
    """Raise ValueError for a budget or a seed that is no whole number, or below what a search needs.

    budget: evaluations.
    seed: 0 or more.
    least: the smallest budget, default 1.
    """
    check_sizes({"budget": budget, "seed": seed}, {"budget": least, "seed": 0})
