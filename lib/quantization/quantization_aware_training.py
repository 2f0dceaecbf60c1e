r"""Quantization-aware training: the forward pass rounds as the integer network will, the backward pass does not.

.. math:: q(r; a, b) = \mathrm{round}\big(\tfrac{\mathrm{clamp}(r, a, b) - a}{S}\big) S + a, \qquad
   \frac{\partial L}{\partial r} = \frac{\partial L}{\partial q}\; \mathbb 1[a \le r \le b]

(jacob2018quantization, section 3). The range of a weight is its smallest and largest value at each step. The range of
an activation is a moving average over the batches, so its rounding begins after a delay, once the average is reliable.
Biases are not rounded: the integer network holds them in int32.

The paper folds batch norm in each step, with the statistics of the batch; here it is folded once, before training, with
the running statistics. After another operation, it becomes a layer with one weight for each channel, trained like the
others. Dropout modules stay active in training; stochastic depth and functional dropout are removed.
"""

import math
from typing import Unpack

from torch import fx

from lib import training
from lib.datasets import Split
from lib.quantization.shared.activation import activations
from lib.training import FitOptions


def fit(
    network: fx.GraphModule,
    split: Split,
    *,
    epochs: int,
    seed: int,
    delay: float = 0.5,
    decay: float = 0.99,
    **options: Unpack[FitOptions],
) -> list[float]:
    """Train a simulated network while it rounds as the integer network will. In place.

    network: what :func:`lib.quantization.affine.simulate` returned, calibrated.
    split: samples to train on, one or more.
    epochs: passes over the split, 0 or more.
    seed: of the order of the samples.
    delay: share of the epochs, in [0, 1] and rounded up, before activations are rounded; weights are rounded from the
        start. Default 0.5.
    decay: of the moving average of the activations' ranges, in [0, 1). Default 0.99.
    options: of the training, see :func:`lib.training.fit`:

        - learning_rate: of the first step, default 0.01. About a tenth of the float network's rate works well.
        - momentum: default 0.9.
        - weight_decay: default 5e-4.
        - batch_size: samples per step, 1 or more, default 128.
        - shift: pixels by which images are moved at random, 0 or more, default 0.
        - optimizer: "sgd" (default), "adam", or a function of parameter groups.
        - loss: "cross_entropy" (default), "squared_hinge" or "squared_error".

    Returns the mean loss of each epoch.
    Raises TypeError for unknown options, and ValueError for a network without grids, an empty split, and arguments out
    of range (jacob2018quantization, section 3).

    >>> from torch import rand, tensor, nn
    >>> from lib.quantization.affine import calibrate, simulate
    >>> split = Split(rand(6, 3), tensor([0, 1, 0, 1, 0, 1]))
    >>> network = calibrate(simulate(nn.Linear(3, 2)), split.images)
    >>> len(fit(network, split, epochs=2, seed=0))
    2
    """
    training.check_options(options)
    options.setdefault("learning_rate", 0.01)
    followed = activations(network)
    if not 0 <= delay <= 1 or not 0 <= decay < 1:
        raise ValueError(f"delay must be in [0, 1] and decay in [0, 1), not {delay} and {decay}")

    # method
    def before_epoch(epoch: int) -> None:  # first called when all arguments have been checked
        for activation in followed:
            activation.percentile, activation.decay = 100.0, decay
            activation.observing, activation.quantizing = True, epoch >= math.ceil(delay * epochs)

    # end of method
    try:
        # method
        return training.fit(network, split, epochs=epochs, seed=seed, before_epoch=before_epoch, **options)
        # end of method
    finally:
        for activation in followed:
            activation.observing, activation.quantizing = False, True
