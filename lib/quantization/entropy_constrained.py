r"""Entropy-constrained scalar quantization: k-means that pays for the bits of each code.

With the rate of an entropy code in the objective, and a price :math:`\lambda` for a bit,

.. math:: J_\lambda = \frac1N \sum_{i=1}^{N} h_i (w_i - c_{a(i)})^2 + \lambda \sum_j p_j \log_2 \frac{1}{p_j},

Lloyd's two steps become three: :math:`a(i) = \arg\min_j h_i (w_i - c_j)^2 - \lambda \log_2 p_j`, then each
:math:`c_j` is the weighted mean and :math:`p_j` the share of its members (chou1989entropy; choi2017towards). None of
the steps raises :math:`J_\lambda`. A cluster that loses all its members is dropped, so the price also sets how many
remain. If the :math:`h_i` differ, clusters need not be intervals: of two equal weights, the more important one may keep
a rarer centroid.
"""

import numba
import numpy as np
from torch import nn

from lib.quantization import uniform_quantization
from lib.quantization.optimal_kmeans import Codebook
from lib.quantization.shared.hessian_diagonal import Importance
from lib.quantization.shared.joint_codebook import share_together


def codebook(
    values: np.ndarray,
    penalty: float,
    weights: np.ndarray | None = None,
    *,
    start: np.ndarray | None = None,
    iterations: int = 100,
) -> Codebook:
    """Cluster numbers so that squared error plus the price of the codes' bits is small.

    values: (n,) finite numbers, one or more.
    penalty: the price λ of a bit, in squared units of the values times the unit of the weights; 0 or more, finite.
    weights: (n,) importance h of each value, finite and not negative; None weighs them all alike.
    start: (k,) centroids to begin with. None begins with at most 256 uniform cells of the width that suits this price;
        if weights differ, also with cells a third as wide, and keeps the better result.
    iterations: maximum number of rounds; fewer once J falls by less than a millionth of itself.

    Returns the codebook of the clusters that have members.
    Raises ValueError for a penalty that is negative or not finite, and for invalid values, weights or start
    (chou1989entropy).

    >>> values = np.array([0.0, 0.1, 0.2, 5.0])
    >>> [len(codebook(values, penalty).centroids) for penalty in (0.0, 0.1, 100.0)]
    [4, 2, 1]
    """
    if not 0 <= penalty < np.inf:
        raise ValueError(f"penalty must be 0 or more and finite, not {penalty}")
    values, weights = uniform_quantization.checked(values, weights)
    if start is not None:
        return iterated(values, weights, np.sort(np.asarray(start, dtype=float)), penalty, iterations)
    # Small cells have the error Δ²/12 and the rate η - log2 Δ, so J is smallest at λ = ln 2 · Δ²/6.
    width = np.sqrt(6 * penalty / np.log(2) / max(weights.mean(), np.finfo(float).tiny))
    parts = (1, 1 / 3) if np.ptp(weights) > 0 else (1,)
    steps = {max(width * part, np.ptp(values) / 255) or 1.0 for part in parts}
    starts = [uniform_quantization.codebook(values, step, weights).centroids for step in sorted(steps)]
    books = [iterated(values, weights, centroids, penalty, iterations) for centroids in starts]
    return min(books, key=lambda book: objective(book, penalty))


def iterated(values: np.ndarray, weights: np.ndarray, start: np.ndarray, penalty: float, iterations: int) -> Codebook:
    """Run the three steps from given centroids until J falls by less than a millionth of itself.

    values: (n,) float64, contiguous.
    weights: (n,) float64, contiguous, the importance h of each value.
    start: (k,) centroids, finite and ascending.
    penalty: the price λ of a bit.
    iterations: maximum number of rounds, 0 or more.

    Returns the codebook. Raises ValueError for a start that is empty or not finite.

    >>> values = np.array([0.0, 0.2, 1.0, 1.2])
    >>> book = iterated(values, np.ones(4), np.array([0.0, 1.0]), 0.01, 10)
    >>> book.centroids.round(3).tolist(), book.codes.tolist()
    ([0.1, 1.1], [0, 0, 1, 1])
    """
    if start.ndim != 1 or len(start) == 0 or not np.isfinite(start).all():
        raise ValueError("the centroids to start from must be finite numbers, one or more of them")
    codes = np.searchsorted((start[1:] + start[:-1]) / 2, values)
    book = _updated(values, weights, start, codes)
    last = objective(book, penalty)
    # method
    for _ in range(iterations):
        codes = np.empty(len(values), dtype=np.int64)
        assign(values, weights, book.centroids, -penalty * np.log2(shares(book.codes)), codes)
        book = _updated(values, weights, book.centroids, codes)
        now = objective(book, penalty)
        if last - now <= 1e-6 * last:
            break
        last = now
    # end of method
    return book


def shares(codes: np.ndarray) -> np.ndarray:
    """Compute p_j, the share of each code among all codes.

    codes: (n,) whole numbers, 0 or more.

    >>> shares(np.array([0, 2, 2, 2])).tolist()
    [0.25, 0.0, 0.75]
    """
    return np.bincount(codes) / max(1, len(codes))


def objective(book: Codebook, penalty: float) -> float:
    """Compute J: the mean weighted squared error plus ``penalty`` times the entropy of the codes in bits.

    book: the codebook whose codes are charged.
    penalty: the price λ of a bit.

    >>> objective(Codebook(np.array([0.0, 1.0]), np.array([0, 1]), 0.5), penalty=2.0)
    2.25
    """
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
def assign(
    values: np.ndarray, weights: np.ndarray, centroids: np.ndarray, prices: np.ndarray, codes: np.ndarray
) -> None:
    """Write each value's cheapest centroid into ``codes``, by weights[i] (values[i] - centroids[j])^2 + prices[j].

    The search tries the commonest centroid first, then goes outwards from the nearest until the distance and the lowest
    price together cost more than the best so far.

    values: (n,) float64.
    weights: (n,) float64, not negative.
    centroids: (k,) float64, ascending.
    prices: (k,) float64, what the code of each centroid costs, not negative.
    codes: (n,) int64, to be overwritten.
    """
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
    """Quantize the non-zero weights of all layers together at a price per bit; zero stays zero. In place.

    model: any network whose layers' weights are of one type of float.
    penalty: the price of a bit, 0 or more: in units of squared weights, since the importance is scaled to mean 1.
    importance: layer name -> importance of each of its weights, of the weight's shape, finite and not negative. Layers
        that it does not name are left alone. None: all layers, all weights alike.
    floor: added to each importance, in units of their mean, 0 or more, so that a weight that no sample ever used
        counts a little.

    Returns the model.
    Raises ValueError for a penalty that is negative or not finite, a negative floor, layers whose weights are of
    several types, and an importance that does not fit the model (choi2017towards).

    >>> layer = share(nn.Linear(100, 50), penalty=1.0)
    >>> len(layer.weight.unique())  # no second value is worth its bits
    1
    """
    if not 0 <= penalty < np.inf:
        raise ValueError(f"penalty must be 0 or more and finite, not {penalty}")
    return share_together(model, lambda v, h: codebook(v, penalty, h), importance=importance, floor=floor)
