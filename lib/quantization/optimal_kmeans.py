r"""k-means in one dimension: the exact optimum, and Lloyd's iteration, which everyone uses instead.

Of all ways to replace n numbers by k centroids, find the one with the least squared error

.. math:: \min_{c_1, \dots, c_k} \sum_{i=1}^{n} h_i \min_j (w_i - c_j)^2 .

On a line the best clusters are intervals of the sorted values, so dynamic programming finds them all: with
:math:`D_m(j)` the least error of the first j values in m clusters and :math:`c(i, j)` that of one cluster of the values
after the i-th up to the j-th,

.. math:: D_m(j) = \min_{i < j} D_{m-1}(i) + c(i, j), \qquad c(i, j) = T - S^2 / H

from prefix sums of :math:`h`, :math:`hw` and :math:`hw^2`. The best i never falls as j grows, so divide and conquer
needs O(k n log n) steps; with a price on each cluster, a few passes are enough (wu1991optimal; gronlund2017fast).
Lloyd's iteration (lloyd1982least) only finds a local optimum.
"""

from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np

TABLE = 2**27  # most entries, 4 bytes each, of the table of dynamic programming, which only ties need


@dataclass(frozen=True)
class Codebook:
    """Centroids, and which of them replaces each value.

    centroids: (k,) float64, ascending.
    codes: (n,) int64, the index of each value's centroid.
    squared_error: the weighted squared error of the replacement.
    """

    centroids: np.ndarray
    codes: np.ndarray
    squared_error: float


def optimal(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> Codebook:
    """Find the k centroids with the least possible weighted squared error.

    The optimum is exact for every k, except for the rounding of sums in float64. It takes seconds per million values,
    and longest if many clusters tie.

    values: (n,) finite numbers, one or more.
    k: number of centroids, 1 to n; with fewer distinct values, fewer come back, and the error is zero.
    weights: (n,) importance h of each value, finite and not negative; None weighs them all alike.

    Returns the codebook. Raises ValueError for k out of range, and for invalid values or weights (wu1991optimal;
    gronlund2017fast).

    >>> book = optimal(np.array([1.0, 2.0, 10.0, 12.0]), k=2)
    >>> book.centroids.tolist(), book.codes.tolist(), book.squared_error
    ([1.5, 11.0], [0, 0, 1, 1], 2.5)
    """
    values, weights = _checked(values, k, weights)
    # method
    distinct, inverse = np.unique(values, return_inverse=True)
    mass = np.bincount(inverse, weights, minlength=len(distinct))
    # end of method
    if k >= len(distinct):
        return _codebook(values, weights, distinct)
    # method
    mean = np.average(values, weights=weights) if weights.sum() > 0 else values.mean()
    centered = distinct - mean  # differences of prefix sums cancel less near zero
    starts = _intervals(centered, np.ascontiguousarray(mass), k)
    edges = np.append(starts, len(distinct))
    centroids = [_mean(distinct[a:b], mass[a:b]) for a, b in pairwise(edges)]
    return _codebook(values, weights, np.array(centroids), np.searchsorted(starts, inverse, side="right") - 1)
    # end of method


def lloyd(
    values: np.ndarray, centroids: np.ndarray, weights: np.ndarray | None = None, *, iterations: int = 100
) -> Codebook:
    """Assign each value to its nearest centroid, move the centroids to the means, and repeat until none moves.

    A cluster that loses all its values keeps its centroid (han2016deep). The result is only a local optimum
    (lloyd1982least).

    values: (n,) finite numbers, one or more.
    centroids: (k,) where they begin, in any order; k at most n.
    weights: (n,) importance h of each value, finite and not negative; None weighs them all alike.
    iterations: maximum number of rounds.

    Returns the codebook. Raises ValueError for no centroids or more than n, and for invalid values or weights.

    >>> lloyd(np.array([1.0, 2.0, 10.0, 12.0]), np.array([0.0, 3.0])).centroids.tolist()
    [1.5, 11.0]
    """
    values, weights = _checked(values, len(centroids), weights)
    centroids = np.sort(np.asarray(centroids, dtype=float))
    codes = None
    for _ in range(iterations):
        assigned = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
        if codes is not None and np.array_equal(assigned, codes):
            break
        codes = assigned
        mass = np.bincount(codes, weights, minlength=len(centroids))
        total = np.bincount(codes, weights * values, minlength=len(centroids))
        centroids = np.where(mass > 0, total / np.where(mass > 0, mass, 1), centroids)
    return _codebook(values, weights, centroids)


def _checked(values: np.ndarray, k: int, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=float).ravel()
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float).ravel()
    if not np.isfinite(values).all():
        raise ValueError("the values to cluster hold NaN or infinity: finite numbers are needed")
    if len(values) == 0:
        raise ValueError("there are no values to cluster: at least one is needed")
    if not 1 <= k <= len(values):
        raise ValueError(f"k = {k} clusters for {len(values)} values: k must be in 1..{len(values)}")
    if len(weights) != len(values) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("each value needs one finite weight that is not negative")
    return values, weights


def _codebook(
    values: np.ndarray, weights: np.ndarray, centroids: np.ndarray, codes: np.ndarray | None = None
) -> Codebook:
    if codes is None:
        codes = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    return Codebook(centroids, codes, float((weights * (values - centroids[codes]) ** 2).sum()))


def _mean(values: np.ndarray, mass: np.ndarray) -> float:
    return float(np.average(values, weights=mass) if mass.sum() > 0 else values.mean())


def _intervals(w: np.ndarray, h: np.ndarray, k: int) -> np.ndarray:
    """First index of each of the k optimal clusters of the ascending, distinct values w with masses h."""
    mass, moment = (np.concatenate([[0.0], np.cumsum(x)]) for x in (h, h * w))
    spread = max(float((h * w * w).sum()), np.finfo(float).tiny)
    # A few thousand of the prefix sums are enough to find a good starting price.
    thinned = np.unique(np.linspace(0, len(w), min(len(w), 4096) + 1).astype(np.int64))
    *_, price = priced(mass[thinned], moment[thinned], min(k, len(thinned) - 1), spread / k**3, 2.0)
    fewer, more, _ = priced(mass, moment, k, price, 1.02)
    if len(fewer) == k:
        return fewer
    return _layered(mass, moment, k) if k * len(mass) <= TABLE else spliced(fewer, more, k, len(w))


def priced(
    mass: np.ndarray, moment: np.ndarray, k: int, price: float, step: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Find the price per cluster at which exactly k clusters are cheapest, by widening a bracket and bisecting it.

    Clusters that are cheapest at some price are optimal for their number. The least error falls ever more slowly as k
    grows, so every k is cheapest at some price.

    mass: (n + 1,) prefix sums of the weights h of the ascending, distinct values.
    moment: (n + 1,) prefix sums of h w.
    k: number of clusters, 1 to n.
    price: where the search begins, in units of the squared error.
    step: factor by which the price is changed at first, above 1.

    Returns the first index of each of the k clusters, twice, and the price. If several numbers of clusters tie at one
    price, no price singles out k: the results are then the tied clusters with fewer than k and those with more.
    """
    fewer, more = np.zeros(1, dtype=np.int64), np.arange(len(mass) - 1)
    low, high, price = 0.0, np.inf, max(price, 1e-300)  # a price of 0 could not be raised
    while high > low * (1 + 1e-13):
        starts = _cheapest(mass, moment, price)
        if len(starts) == k:
            return starts, starts, price
        if len(starts) > k:
            low, more = price, starts
        else:
            high, fewer = price, starts
        if high == np.inf:
            if price > 1e300:
                break
            price, step = price * step, min(step**2, 1e100)
        elif low == 0:
            if price < 1e-300:
                break
            price, step = price / step, min(step**2, 1e100)
        else:
            price = (low * high) ** 0.5
    return fewer, more, price


def spliced(fewer: np.ndarray, more: np.ndarray, k: int, n: int) -> np.ndarray:
    """Make k clusters from two sets of clusters that tie at one price: the first of one, then the last of the other.

    Somewhere a cluster [b, c) of ``more`` lies inside a cluster [a, d) of ``fewer``, and has k - len(fewer) more
    clusters before it. There one can switch from either set to the other. The error of a cluster satisfies
    c(a, c) + c(b, d) <= c(a, d) + c(b, c), so the two mixtures together cost no more than the two optimal sets, and
    each of them is optimal as well.

    fewer: (m,) first index of each cluster, m < k.
    more: the same for more than k clusters.
    k: number of clusters.
    n: number of values.

    Returns (k,) first indices.

    >>> spliced(np.array([0, 3]), np.array([0, 1, 2, 4]), k=3, n=5).tolist()
    [0, 1, 3]
    """
    extra = k - len(fewer)
    ends, others = np.append(fewer, n)[1:], np.append(more, n)[extra + 1 :]
    i = int(np.argmax(others[: len(ends)] <= ends))  # the first: before it, clusters of ``more`` end later
    return np.concatenate([more[: i + extra + 1], fewer[i + 1 :]])


@numba.njit(cache=True)
def _cost(D: np.ndarray, H: np.ndarray, S: np.ndarray, i: int, j: int) -> float:
    mass, moment = H[j] - H[i], S[j] - S[i]
    return D[i] - moment * moment / mass if mass > 0 else D[i]


@numba.njit("int64[::1](float64[::1], float64[::1], float64)", cache=True)
def _cheapest(H: np.ndarray, S: np.ndarray, price: float) -> np.ndarray:
    """First indices of the clusters that minimize error + price * clusters, for prefix sums H of h and S of h w.

    The error of a cluster is written without T, which adds up to the same total for all partitions. A later start i
    only ever gains on an earlier one as the end j grows, so a queue holds the starts that will be best, and the j from
    which each is.
    """
    n = len(H) - 1
    D = np.zeros(n + 1)
    start_of = np.zeros(n + 1, dtype=np.int64)
    queue, since = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    head = tail = 0
    since[0] = 1
    for j in range(1, n + 1):
        while head < tail and since[head + 1] <= j:
            head += 1
        start_of[j] = queue[head]
        D[j] = _cost(D, H, S, queue[head], j) + price
        while True:
            at = max(since[tail], j + 1)
            if at > n:
                break
            if _cost(D, H, S, j, at) <= _cost(D, H, S, queue[tail], at):
                if tail > head:
                    tail -= 1
                    continue
                queue[tail], since[tail] = j, j + 1
            elif _cost(D, H, S, j, n) < _cost(D, H, S, queue[tail], n):
                low, high = at, n
                while high - low > 1:
                    middle = (low + high) // 2
                    if _cost(D, H, S, j, middle) < _cost(D, H, S, queue[tail], middle):
                        high = middle
                    else:
                        low = middle
                tail += 1
                queue[tail], since[tail] = j, high
            break
    k, j = 0, n
    while j > 0:
        start_of[n - k], j = start_of[j], start_of[j]  # the path, written from the end over entries already read
        k += 1
    return start_of[n - k + 1 :].copy()


@numba.njit("int64[::1](float64[::1], float64[::1], int64)", cache=True)
def _layered(H: np.ndarray, S: np.ndarray, k: int) -> np.ndarray:
    """The same k clusters by dynamic programming over m = 1..k, divide and conquer within each m; needed for ties."""
    n = len(H) - 1
    before, after = np.zeros(n + 1), np.zeros(n + 1)
    for j in range(1, n + 1):
        before[j] = _cost(after, H, S, 0, j)
    best = np.zeros((k, n + 1), dtype=np.int32)
    stack = np.zeros((64, 4), dtype=np.int64)
    for m in range(1, k):
        stack[0] = (m + 1, n, m, n - 1)  # first and last end j, first and last start i
        top = 1
        while top:
            top -= 1
            a, b, low, high = stack[top]
            j = (a + b) // 2
            least, at = np.inf, low
            for i in range(low, min(high, j - 1) + 1):
                cost = _cost(before, H, S, i, j)
                if cost < least:
                    least, at = cost, i
            after[j] = least
            best[m, j] = at
            if a < j:
                stack[top] = (a, j - 1, low, at)
                top += 1
            if j < b:
                stack[top] = (j + 1, b, at, high)
                top += 1
        before, after = after, before
    starts = np.zeros(k, dtype=np.int64)
    end = n
    for m in range(k - 1, 0, -1):
        starts[m] = best[m, end]
        end = starts[m]
    return starts
