r"""Binarized neural network: both the weights and the activations are signs.

.. math:: a_k = \operatorname{sign}(z_k), \qquad z_k = \mathrm{BatchNorm}(W^b_k\, a_{k-1}), \qquad
   \frac{\partial C}{\partial z_k} = \frac{\partial C}{\partial a_k}\, \mathbb 1_{\lvert z_k \rvert \le 1}

(courbariaux2016binarynet, algorithm 1; hubara2016bnn). Weights are signs as in :mod:`lib.binarization.binaryconnect`.
The first layer reads the image as it is, every other layer reads signs, and batch norm comes after the last.

Most of the published results use Adam and batch norm. Both also exist here in forms that shift bits instead of
multiplying (:mod:`lib.binarization.shared.shifts`): :func:`fit` and ``shifts.shift_norms``. A first layer that reads
8-bit pixels can count bits too (:class:`lib.binarization.shared.bit_planes.PlaneLayer`). Stochastic signs of
activations, which the papers mention as another choice, are left out.

Batch norm and sign together only ask whether a sum reaches a threshold, and :func:`threshold` finds it. The network can
then run on bits, counts and comparisons, with exactly the answers of the float network.
"""

import copy
from collections.abc import Collection
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization.binaryconnect import FIT_DEFAULTS, BinaryConnectWeight
from lib.binarization.shared.bisection import as_float, as_ordered, bisect
from lib.binarization.shared.conversion import check_classes, clip, closed
from lib.binarization.shared.plans import check_signs, planned, read_activations
from lib.binarization.shared.shifts import ShiftAdaMax
from lib.binarization.shared.signs import LAYERS, NORMS, SignActivation
from lib.datasets import Split
from lib.training import LoopOptions
from lib.weights import compress, layers


def binarize(
    model: nn.Module,
    *,
    classes: int | None = None,
    names: Collection[str] | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """Binarize the weights and inputs of a network and return it; do not use the original afterwards.

    Every weight becomes a sign. Each sign of an input replaces the activation before it, such as ReLU; odd functions
    such as tanh stay. A sign that follows no batch norm gets one.

    model: the network.
    classes: width of the output, which then gets a batch norm of its own; None (default): the output stays as it is.
    names: of the linear and 2-d convolution layers that read signs; None (default): all that are called, except for
      those that read the network's input. (Attention reads the weight of its output layer without calling it.)
    example: a batch of the network's input, on which a copy is tried; None (default): torch.fx traces the network.

    Returns the model to use from now on. Raises ValueError for a network of fewer than two such layers, an unknown
    name, a layer that is not called, an activation that is called as a function or is read by others too, a sign that
    is constant, a network that cannot be traced, and weights that are not finite; the model is then unchanged.

    >>> from lib import models
    >>> model = binarize(models.lenet_300_100())
    >>> model.fc1.weight.unique().tolist(), type(model.fc2).__name__
    ([-1.0, 1.0], 'Binarized')
    """
    accepted = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
    if names is None and len(accepted) < 2:
        raise ValueError(f"{type(model).__name__} has {len(accepted)} linear and 2-d layers: at least two are needed")
    check_classes(classes)
    plan = planned(model, names, activation=SignActivation(), remove=True, example=example)

    def change(model: nn.Module) -> nn.Module:
        compress(model, lambda name, layer: BinaryConnectWeight())
        return closed(read_activations(model, plan, SignActivation), classes)

    if example is not None:
        check_signs(change(copy.deepcopy(model)), example)
    return change(model)


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 2**-10,
    **options: Unpack[LoopOptions],
) -> list[float]:
    """Train a network with binary weights by shift-based AdaMax, clipping the latent weights after each step. In place.

    :func:`lib.binarization.binaryconnect.fit` does the same by Adam.

    model: as :func:`binarize` returns it; real parameters are trained as well.
    split: images and labels to train on.
    epochs: how often to go through the split.
    seed: of the order of images and the shifts of images.
    learning_rate: of AdaMax, which rounds it to a power of two; 2^-10 by default.
    options: of the training, see :func:`lib.training.fit`:

      - batch_size: images in a step; 100 by default.
      - loss: "squared_hinge" (default), "cross_entropy" or "squared_error".
      - weight_decay: of parameters of two dimensions or more; 0 by default.
      - shift: pixels by which each image is moved at most, in both directions; 0 by default.

    Returns each epoch's mean loss. Raises TypeError for other options, and ValueError for an empty split, an unknown
    loss, a learning rate that is not above 0, and a loss that is not finite.
    """
    training.check_options(options, kinds=LoopOptions)
    return training.fit(
        model,
        split,
        epochs=epochs,
        seed=seed,
        optimizer=lambda groups: ShiftAdaMax(groups, lr=learning_rate),
        after_step=lambda: clip(model),
        **FIT_DEFAULTS | options,
    )


@torch.no_grad()
def threshold(norm: nn.Module, channels: int, *, target: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Replace a batch norm and a comparison by one comparison: norm(x) >= target exactly where x >= t, or x <= t.

    t is found by bisecting all floats. Batch norm is monotone even with rounding, so there is one such t, and the
    comparison gives the float network's answer for every x. A channel whose norm is constant gets an infinite t.
    (For x in plain or channels-last memory: torch rounds batch norm differently for other views of a tensor.)

    norm: batch norm in evaluation mode, with running statistics, or nn.Identity.
    channels: how many the norm has.
    target: what the norm must reach; 0 by default.
    Returns t, (channels,) float32, and below, (channels,) bool, which is True where the comparison is x <= t.
    Raises ValueError for another norm.

    >>> t, below = threshold(nn.Identity(), 2)
    >>> t.tolist(), below.tolist()
    ([0.0, 0.0], [False, False])
    """
    fixed = isinstance(norm, NORMS) and not norm.training and norm.running_var is not None
    if not fixed and not isinstance(norm, nn.Identity):
        raise ValueError(f"only batch norm with fixed statistics, in evaluation mode, has a threshold, not {norm}")

    # method
    def reached(x: Tensor) -> Tensor:
        return norm(x.reshape(1, -1, *[1, 1] * isinstance(norm, nn.BatchNorm2d))).flatten() >= target

    largest = torch.finfo(torch.float32).max / 4  # so that norm stays finite
    low, high = torch.full((channels,), -largest), torch.full((channels,), largest)
    step = bisect(lambda x: reached(as_float(x)), as_ordered(low), as_ordered(high))
    # end of method
    t = as_float(step.place)
    return torch.where(step.constant, torch.where(step.at_low, -torch.inf, torch.inf), t), step.below
