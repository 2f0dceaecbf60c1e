r"""Uniform quantization for entropy coding: an unlimited number of cells of equal width, and a code for their numbers.

Weight :math:`w` falls into the cell :math:`\operatorname{round}(w / \Delta)`, and each cell that is used keeps the mean
of its members, weighted by their importance :math:`h`,

.. math:: a_i = \operatorname{round}(w_i / \Delta), \qquad c_j = \frac{\sum_{a_i = j} h_i w_i}{\sum_{a_i = j} h_i} .

Nothing is clipped, and the number of cells is not limited: an entropy code makes the rare ones cheap. With such a code
no scalar quantizer is better in the limit of small cells (gish1968asymptotically). There the rate is
:math:`\eta - \log_2 \Delta` bits per weight, with the differential entropy :math:`\eta`, and the mean squared error is
:math:`\Delta^2 / 12`. All layers are quantized together, with one codebook (choi2017towards).
"""

import numpy as np
from torch import nn

from lib.coding import coders
from lib.quantization.optimal_kmeans import Codebook
from lib.quantization.shared.hessian_diagonal import Importance
from lib.quantization.shared.joint_codebook import share_together

MOST_CELLS = 2**16 - 1  # as many symbols as a stream can hold, less one for a filler's zero


def codebook(values: np.ndarray, step: float, weights: np.ndarray | None = None) -> Codebook:
    """Sort values into cells of equal width, and replace them by the mean of their cell.

    values: (n,) finite numbers, one or more.
    step: width of a cell, above 0 and wide enough for at most 65,535 used cells.
    weights: (n,) importance of each value, finite and not negative; None weighs them all alike. A cell whose members
        have no weight keeps their plain mean.

    Returns the codebook of the used cells, in ascending order.
    Raises ValueError for a step out of range, and for invalid values or weights.

    >>> book = codebook(np.array([0.1, 0.3, 0.9, 5.0]), step=1.0)
    >>> book.centroids.round(3).tolist(), book.codes.tolist()
    ([0.2, 0.9, 5.0], [0, 0, 1, 2])
    """
    values, weights = checked(values, weights)
    # method
    used, codes = np.unique(_cells(values, step), return_inverse=True)
    # end of method
    if len(used) > MOST_CELLS:
        raise ValueError(f"a step of {step} makes {len(used)} cells: at most {MOST_CELLS} are accepted")
    # method
    mass, count = np.bincount(codes, weights), np.bincount(codes)
    weighed, plain = np.bincount(codes, weights * values), np.bincount(codes, values)
    centroids = np.where(mass > 0, weighed / np.where(mass > 0, mass, 1), plain / count)
    return Codebook(centroids, codes, float((weights * (values - centroids[codes]) ** 2).sum()))
    # end of method


def checked(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return values and weights as contiguous float64, after checking them.

    values: (n,) finite numbers, one or more.
    weights: (n,) importance of each value, finite and not negative; None gives 1 to each.

    Returns two arrays (n,). Raises ValueError if values are empty or not finite, or weights do not fit them.

    >>> checked(np.array([1, 2]), None)
    (array([1., 2.]), array([1., 1.]))
    """
    values = np.ascontiguousarray(values, dtype=float).ravel()
    weights = np.ones_like(values) if weights is None else np.ascontiguousarray(weights, dtype=float).ravel()
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("the values to quantize must be finite numbers, one or more of them")
    if weights.shape != values.shape or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("each value needs one finite weight that is not negative")
    return values, weights


def _cells(values: np.ndarray, step: float) -> np.ndarray:
    if not 0 < step < np.inf or np.abs(values).max() / step > 2**52:
        raise ValueError(f"step must be positive and fit the values, not {step}")
    return np.rint(values / step).astype(np.int64)


def rate(codes: np.ndarray) -> float:
    """Compute the entropy of codes, in bits per code.

    codes: (n,) whole numbers.

    >>> rate(np.array([0, 0, 7, 7]))
    1.0
    """
    lowest = codes.min(initial=0)
    spread = codes.max(initial=0) - lowest
    counts = np.bincount(codes - lowest) if spread < 2**24 else np.unique(codes, return_counts=True)[1]
    return coders.entropy_bits(counts) / max(1, len(codes))


def step_for(values: np.ndarray, bits: float) -> float:
    """Find the cell width at which the cells' numbers have a given entropy, or just less.

    values: (n,) finite numbers.
    bits: the entropy, in bits per value: above 0 and below that of the finest cells that are accepted.

    Returns the step, found by bisection of its logarithm.
    Raises ValueError for bits outside that range, and for invalid values.

    >>> values = np.linspace(0, 1, 1000)
    >>> round(rate(codebook(values, step_for(values, bits=2)).codes), 2)
    2.0
    """
    values, _ = checked(values, None)
    widest = 4 * np.abs(values).max()
    narrowest = np.ptp(values) / (MOST_CELLS - 1)
    most = rate(_cells(values, narrowest)) if narrowest > 0 else 0.0
    if not 0 < bits < most:
        raise ValueError(f"bits must lie between 0 and {most:.3f} for these values, not {bits}")
    # method
    low, high = np.log(narrowest), np.log(widest)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if rate(_cells(values, np.exp(middle))) <= bits else (middle, high)
    return float(np.exp(high))
    # end of method


def share(
    model: nn.Module,
    *,
    step: float | None = None,
    bits: float | None = None,
    importance: Importance | None = None,
    floor: float = 1e-3,
) -> nn.Module:
    """Quantize the non-zero weights of all layers together, in cells of equal width; zero stays zero. In place.

    Give either ``step`` or ``bits``.

    model: any network whose layers' weights are of one type of float.
    step: width of a cell, in units of the weights, above 0.
    bits: instead of a step, the entropy of the codes, in bits per weight that is kept.
    importance: layer name -> importance of each of its weights, of the weight's shape, finite and not negative; it
        is the weight in the means of the cells. Layers that it does not name are left alone. None: all layers, all
        weights alike.
    floor: added to each importance, in units of their mean, 0 or more, so that a weight that no sample ever used
        counts a little.

    Returns the model.
    Raises ValueError unless exactly one of ``step`` and ``bits`` is given and accepted, for a negative floor, layers
    whose weights are of several types, and an importance that does not fit the model (choi2017towards).

    >>> layer = share(nn.Linear(100, 50), step=0.04)
    >>> len(layer.weight.unique())  # the weights lie between -0.1 and 0.1
    5
    """
    if step is not None and bits is None:
        return share_together(model, lambda v, h: codebook(v, step, h), importance=importance, floor=floor)
    if bits is not None and step is None:
        return share_together(model, lambda v, h: codebook(v, step_for(v, bits), h), importance=importance, floor=floor)
    raise ValueError(f"either step or bits must be given, not step={step} and bits={bits}")
