r"""Uniform quantization for entropy coding: cells of one width on the whole line, then a code for their numbers.

Weight :math:`w` falls into the cell :math:`\operatorname{round}(w / \Delta)`, and each cell that is used keeps the mean
of its members, weighed by their importance :math:`h`,

.. math:: a_i = \operatorname{round}(w_i / \Delta), \qquad c_j = \frac{\sum_{a_i = j} h_i w_i}{\sum_{a_i = j} h_i} .

Nothing is clipped, and the number of cells is not limited: an entropy code makes the rare ones cheap. With such a code
no quantizer of single values is better in the limit of small cells (gish1968asymptotically), where the rate is
:math:`\eta - \log_2 \Delta` bits a weight, :math:`\eta` being the differential entropy, and the mean squared error
:math:`\Delta^2 / 12`. All layers together, with one codebook (choi2017towards).
"""

import numpy as np
from torch import nn

from lib.coding import coders
from lib.quantization.hessian_weighted_kmeans import Importance, share_together
from lib.quantization.optimal_kmeans import Codebook

MOST_CELLS = 2**16 - 1  # what a stream of symbols holds, one left for a filler's zero


def fit(values: np.ndarray, step: float, weights: np.ndarray | None = None) -> Codebook:
    """Codebook of the cells of width ``step`` that hold a value. Arguments as in ``optimal_kmeans.optimal``.

    A cell whose members have no weight keeps their plain mean. Raises ValueError on a step that is not positive or
    makes more than 65,535 cells, and on values or weights that are no good.
    """
    values, weights = checked(values, weights)
    used, codes = np.unique(_cells(values, step), return_inverse=True)
    if len(used) > MOST_CELLS:
        raise ValueError(f"a step of {step} makes {len(used)} cells: at most {MOST_CELLS} are accepted")
    mass, count = np.bincount(codes, weights), np.bincount(codes)
    weighed, plain = np.bincount(codes, weights * values), np.bincount(codes, values)
    centroids = np.where(mass > 0, weighed / np.where(mass > 0, mass, 1), plain / count)
    return Codebook(centroids, codes, float((weights * (values - centroids[codes]) ** 2).sum()))


def checked(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights as contiguous (n,) float64, weights 1 if none are given; ValueError if they are no good."""
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
    """Entropy of the codes, bits for each."""
    lowest = codes.min(initial=0)
    spread = codes.max(initial=0) - lowest
    counts = np.bincount(codes - lowest) if spread < 2**24 else np.unique(codes, return_counts=True)[1]
    return coders.entropy_bits(counts) / max(1, len(codes))


def step_for(values: np.ndarray, bits: float) -> float:
    """The step, by bisection of its logarithm, at which the cells' numbers have an entropy of ``bits`` or just less.

    Raises ValueError where no step within reach does: bits must be positive and below the entropy of the finest cells.
    """
    values, _ = checked(values, None)
    widest = 4 * np.abs(values).max()
    narrowest = np.ptp(values) / (MOST_CELLS - 1)
    most = rate(_cells(values, narrowest)) if narrowest > 0 else 0.0
    if not 0 < bits < most:
        raise ValueError(f"bits must lie between 0 and {most:.3f} for these values, not {bits}")
    low, high = np.log(narrowest), np.log(widest)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if rate(_cells(values, np.exp(middle))) <= bits else (middle, high)
    return float(np.exp(high))


def share(
    model: nn.Module,
    *,
    step: float | None = None,
    bits: float | None = None,
    importance: Importance | None = None,
    floor: float = 1e-3,
) -> nn.Module:
    """Quantize the non-zero weights of all layers together, by cells of width ``step``. In place.

    bits: give these instead of a step for that entropy of the codes, in bits a weight that is kept.
    Other arguments and errors as in ``hessian_weighted_kmeans.share_together``; ValueError unless one of them is given.
    """
    if (step is None) == (bits is None):
        raise ValueError(f"give either a step or bits, not step={step} and bits={bits}")
    return share_together(
        model,
        lambda values, weights: fit(values, step_for(values, bits) if step is None else step, weights),
        importance=importance,
        floor=floor,
    )
