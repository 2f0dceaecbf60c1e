r"""Quantization-aware training: the forward pass rounds as the integer network will, the backward pass does not.

.. math:: q(r; a, b) = \mathrm{round}\big(\tfrac{\mathrm{clamp}(r, a, b) - a}{S}\big) S + a, \qquad
   \frac{\partial L}{\partial r} = \frac{\partial L}{\partial q}\; \mathbb 1[a \le r \le b]

(jacob2018quantization, section 3). The range of a weight is its least and greatest value at each step. That of an
activation is a moving average over the batches, and its rounding begins after a delay, when the average is worth
something. Biases are not rounded: the integer network holds them in int32.

The paper folds batch norm anew in each step, with the statistics of the batch; here it is folded once, before training.
"""

import math

from torch import fx

from lib import training
from lib.datasets import Split
from lib.quantization.affine import activations


def fit(
    network: fx.GraphModule,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.01,
    delay: float = 0.5,
    decay: float = 0.99,
    batch_size: int = 128,
) -> list[float]:
    """Train what :func:`lib.quantization.affine.simulate` returned, after it was calibrated; return each epoch's loss.

    learning_rate: about a tenth of that which trained the float network. delay: share of the epochs, rounded up, before
    activations are rounded; weights are rounded from the start. decay: of the moving average of their ranges.
    In place. Raises ValueError for a network without grids, an empty split, a delay outside [0, 1] or a decay outside
    [0, 1).
    """
    found = activations(network)
    if not 0 <= delay <= 1 or not 0 <= decay < 1:
        raise ValueError(f"delay must be in [0, 1] and decay in [0, 1), not {delay} and {decay}")

    def before_epoch(epoch: int) -> None:
        for each in found:
            each.observing, each.quantizing = True, epoch >= math.ceil(delay * epochs)

    for each in found:
        each.percentile, each.decay = 100.0, decay
    how = {"epochs": epochs, "seed": seed, "learning_rate": learning_rate, "batch_size": batch_size}
    try:
        return training.fit(network, split, before_epoch=before_epoch, **how)
    finally:
        for each in found:
            each.observing, each.quantizing = False, True
