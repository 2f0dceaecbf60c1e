r"""Entropy-constrained scalar quantization: k-means that pays for the bits of each code.

With the rate of an entropy code in the objective, and a price :math:`\lambda` for a bit,

.. math:: J_\lambda = \frac1N \sum_{i=1}^{N} h_i (w_i - c_{a(i)})^2 + \lambda \sum_j p_j \log_2 \frac{1}{p_j},

Lloyd's two steps become three: :math:`a(i) = \arg\min_j h_i (w_i - c_j)^2 - \lambda \log_2 p_j`, then each
:math:`c_j` is the weighted mean and :math:`p_j` the share of its members (chou1989entropy; choi2017towards). None of
them lets :math:`J_\lambda` rise. A cluster that nobody chooses is gone, so the price also sets how many stay. Where the
:math:`h_i` differ, clusters are no intervals: of two equal weights the important one may stay with a rarer centroid.
"""

import numba
import numpy as np
from torch import nn

from lib.quantization import uniform_quantization
from lib.quantization.hessian_weighted_kmeans import Importance, share_together
from lib.quantization.optimal_kmeans import Codebook


def fit(
    values: np.ndarray,
    penalty: float,
    weights: np.ndarray | None = None,
    *,
    start: np.ndarray | None = None,
    iterations: int = 100,
) -> Codebook:
    """The codebook at which the iteration stops: J falls by less than a millionth of itself, or it is run so often.

    values, weights: as in ``optimal_kmeans.optimal``. penalty: the price λ of a bit, in squared units of the values
    times those of the weights. start: centroids to begin with; by default those of uniform cells, at most 256, of the
    width that this price is worth, or, where weights differ, of a third of it, whichever ends better. Raises ValueError
    on a penalty that is negative or not finite, and on values or weights that are no good.
    """
    if not 0 <= penalty < np.inf:
        raise ValueError(f"penalty must be 0 or more and finite, not {penalty}")
    values, weights = uniform_quantization.checked(values, weights)
    if start is not None:
        return iterated(values, weights, np.sort(np.asarray(start, dtype=float)), penalty, iterations)
    # Small cells have the error Δ²/12 and the rate η - log2 Δ, so that J is least at λ = ln 2 · Δ²/6.
    width = np.sqrt(6 * penalty / np.log(2) / max(weights.mean(), np.finfo(float).tiny))
    parts = (1, 1 / 3) if np.ptp(weights) > 0 else (1,)
    steps = {max(width * part, np.ptp(values) / 255) or 1.0 for part in parts}
    starts = [uniform_quantization.fit(values, step, weights).centroids for step in sorted(steps)]
    found = [iterated(values, weights, centroids, penalty, iterations) for centroids in starts]
    return min(found, key=lambda book: objective(book, penalty))


def iterated(values: np.ndarray, weights: np.ndarray, start: np.ndarray, penalty: float, most: int) -> Codebook:
    if start.ndim != 1 or len(start) == 0 or not np.isfinite(start).all():
        raise ValueError("the centroids to start from must be finite numbers, one or more of them")
    codes = np.searchsorted((start[1:] + start[:-1]) / 2, values)
    found = _updated(values, weights, start, codes)
    last = objective(found, penalty)
    for _ in range(most):
        codes = np.empty(len(values), dtype=np.int64)
        assign(values, weights, found.centroids, -penalty * np.log2(shares(found.codes)), codes)
        found = _updated(values, weights, found.centroids, codes)
        now = objective(found, penalty)
        if last - now <= 1e-6 * last:
            break
        last = now
    return found


def shares(codes: np.ndarray) -> np.ndarray:
    """p_j: the share of each code."""
    return np.bincount(codes) / max(1, len(codes))


def objective(book: Codebook, penalty: float) -> float:
    """J: mean weighted squared error + penalty · entropy of the codes in bits."""
    return book.squared_error / max(1, len(book.codes)) + penalty * uniform_quantization.rate(book.codes)


def _updated(values: np.ndarray, weights: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> Codebook:
    """Weighted means of the clusters that have members, in ascending order; one without weight keeps its centroid."""
    count, k = np.bincount(codes, minlength=len(centroids)), len(centroids)
    mass, total = np.bincount(codes, weights, k), np.bincount(codes, weights * values, k)
    centroids = np.where(mass > 0, total / np.where(mass > 0, mass, 1), centroids)
    order = np.argsort(np.where(count > 0, centroids, np.inf), kind="stable")
    codes, centroids = np.argsort(order)[codes], centroids[order][: np.count_nonzero(count)]
    return Codebook(centroids, codes, float((weights * (values - centroids[codes]) ** 2).sum()))


@numba.njit("void(float64[::1], float64[::1], float64[::1], float64[::1], int64[::1])", cache=True)
def assign(values, weights, centroids, prices, codes):
    """Cheapest centroid of each value: the commonest, or from the nearest outwards till distance costs too much."""
    common = prices.argmin()
    for i in range(len(values)):
        above = np.searchsorted(centroids, values[i])
        least, at = weights[i] * (values[i] - centroids[common]) ** 2 + prices[common], common
        for direction in (-1, 1):
            j = above - 1 if direction < 0 else above
            while 0 <= j < len(centroids):
                error = weights[i] * (values[i] - centroids[j]) ** 2
                if error + prices[common] > least:
                    break
                if error + prices[j] < least or (error + prices[j] == least and j < at):
                    least, at = error + prices[j], j
                j += direction
        codes[i] = at


def share(model: nn.Module, *, penalty: float, importance: Importance | None = None, floor: float = 1e-3) -> nn.Module:
    """Quantize the non-zero weights of all layers together at the price ``penalty`` of a bit. In place.

    penalty: in units of squared weights, since the importance is brought to mean 1. Other arguments and errors as in
    ``hessian_weighted_kmeans.share_together``; ValueError also on a negative penalty.
    """
    return share_together(model, lambda v, h: fit(v, penalty, h), importance=importance, floor=floor)
