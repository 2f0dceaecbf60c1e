"""Search under a limit on the cost: the candidates within the limit are a space of their own.

Where the largest network is the most accurate, a search by accuracy alone finds nothing new. Parameters, multiply-adds
and latency can all serve as the cost.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lib.search.history import Space

C = TypeVar("C")
DRAWS = 10_000  # after so many in vain, a space counts as one without an allowed candidate


@dataclass(frozen=True)
class Within(Generic[C]):
    """The candidates of a space whose cost is at most ``limit``; a space itself.

    space: of all candidates.
    cost: of a candidate, in any unit.
    limit: the largest cost that is allowed, in the same unit, above 0.

    Raises ValueError for a limit that is not above 0, and if 10,000 draws find no candidate that it allows.

    >>> from lib.search.chains import Chains
    >>> space = Within(Chains(), Chains().multiply_adds, limit=100_000)
    >>> len(list(space)), max(map(Chains().multiply_adds, space))
    (113, 97536)
    """

    space: Space[C]
    cost: Callable[[C], float]
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise ValueError(f"limit must be a finite number above 0, not {self.limit!r}")
        self.sample(np.random.default_rng(0))

    def __iter__(self) -> Iterator[C]:
        return filter(self._allowed, self.space)

    def sample(self, random: np.random.Generator) -> C:
        """Draw from the whole space until a candidate is allowed.

        random: numpy's generator.

        Raises ValueError where 10,000 draws find none.
        """
        cheapest = math.inf
        for _ in range(DRAWS):
            candidate = self.space.sample(random)
            cost = self.cost(candidate)
            if cost <= self.limit:
                return candidate
            cheapest = min(cheapest, cost)
        raise ValueError(
            f"no candidate was found that costs {self.limit:g} or less: the cheapest of {DRAWS:,} costs {cheapest:g}"
        )

    def mutated(self, candidate: C, random: np.random.Generator) -> C:
        """Draw an allowed neighbor; if 1,000 draws find none, any allowed candidate.

        candidate: of the space.
        random: numpy's generator.

        Raises ValueError as :meth:`sample` does.
        """
        for _ in range(1000):
            neighbor = self.space.mutated(candidate, random)
            if self._allowed(neighbor):
                return neighbor
        return self.sample(random)

    def _allowed(self, candidate: C) -> bool:
        return self.cost(candidate) <= self.limit
