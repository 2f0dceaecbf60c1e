r"""Bourgain's embedding: points of any metric space become vectors, so that they can have a kernel.

A coordinate is the distance to a random set of the points. For n points there are :math:`\lceil \ln n \rceil` sets of
each size :math:`2^i < n`,

.. math:: \rho_S(x) = \min_{s \in S} d(x, s), \qquad
    \rho(x, y)^2 = \frac{1}{m} \sum_{k=1}^{m} \big(\rho_{S_k}(x) - \rho_{S_k}(y)\big)^2 \le d(x, y)^2 .

The kernel :math:`e^{-\rho^2}` of vectors is positive semidefinite, which :math:`e^{-d^2}` of a metric need not be
(jin2019autokeras). New points get coordinates from the same sets, so one kernel serves between new and old points and
among the old ones. The authors' code takes :math:`e^{-d^2}` for new points, and its loop draws one set less for each
larger size; both are corrected here.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist


@dataclass(frozen=True)
class Embedding:
    """Sets of points, each of which gives a coordinate.

    sets: indices of the points of each set.
    """

    sets: tuple[np.ndarray, ...]

    def coordinates(self, distances: np.ndarray) -> np.ndarray:
        """Embed points by their distances to all n points that the sets were drawn from.

        distances: (m, n).

        Returns (m, sets), divided by the root of the number of sets, so that no two points get farther apart.

        >>> Embedding((np.array([0]), np.array([0, 1]))).coordinates(np.array([[0.0, 2.0], [2.0, 0.0]])) ** 2
        array([[0., 0.],
               [2., 0.]])
        """
        # method
        members, starts = np.concatenate(self.sets), np.cumsum([0, *map(len, self.sets[:-1])])
        nearest = np.minimum.reduceat(distances[:, members], starts, axis=1)  # min over s in S of d(x, s)
        return nearest / math.sqrt(len(self.sets))
        # end of method


def draw(points: int, random: np.random.Generator) -> Embedding:
    """Draw the sets.

    points: n, 1 or more.
    random: numpy's generator.

    Returns the embedding, with ceil(ln n) sets of each size 1, 2, 4, ... below n; for one point, with one set.
    Raises ValueError for no point.

    >>> [len(drawn) for drawn in draw(8, np.random.default_rng(0)).sets]
    [1, 1, 1, 2, 2, 2, 4, 4, 4]
    """
    if points < 1:
        raise ValueError(f"an embedding needs 1 or more points, not {points}")
    sizes = [2**i for i in range(max(1, math.ceil(math.log2(points))))]
    repeats = max(1, math.ceil(math.log(points)))
    return Embedding(tuple(random.choice(points, size, replace=False) for size in sizes for _ in range(repeats)))


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute exp(-rho^2) of embedded points.

    first, second: (m, sets) and (n, sets) coordinates.

    Returns (m, n).

    >>> kernel(np.zeros((1, 3)), np.zeros((1, 3)))
    array([[1.]])
    """
    return np.exp(-cdist(first, second, "sqeuclidean"))
