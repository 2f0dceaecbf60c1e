r"""Binarized neural network: the weights are signs, and so is all that flows between the layers.

.. math:: a_k = \operatorname{sign}(z_k), \qquad z_k = \mathrm{BatchNorm}(W^b_k\, a_{k-1}), \qquad
   \frac{\partial C}{\partial z_k} = \frac{\partial C}{\partial a_k}\, \mathbb 1_{\lvert z_k \rvert \le 1}

(courbariaux2016binarynet, algorithm 1; hubara2016bnn). Weights are signs as in :mod:`lib.binarization.binaryconnect`.
The first layer reads the image as it is, every other layer reads signs, and batch norm comes after the last.

Batch norm and sign together only ask whether a sum reaches a threshold, and :func:`threshold` finds it. The network can
then run on bits, counts and comparisons, with exactly the answers of the float network.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.shared.conversion import EPSILON, chosen, read_activations
from lib.binarization.shared.signs import LAYERS, NORMS, SignActivation
from lib.weights import compress, layers


def binarize(model: nn.Module, *, classes: int | None = None, names: Collection[str] | None = None) -> nn.Module:
    """Binarize the weights and inputs of a network and return it; do not use the original afterwards.

    Every weight becomes a sign. ReLU modules are removed, since after one a sign would always be +1. (A relu that is
    called as a function stays: make it a module first.) A network without batch norm gets one before each sign.

    model: the network.
    classes: width of the output, which then gets a batch norm of its own; None (default): the output stays as it is.
    names: of the linear and 2-d convolution layers that read signs; None (default): all but the first.

    Returns the model to use from now on. Raises ValueError for a network of fewer than two such layers, for an unknown
    name, and for weights that are not finite; the model is then as it was.

    >>> from lib import models
    >>> model = binarize(models.lenet_300_100())
    >>> model.fc1.weight.unique().tolist(), type(model.fc2).__name__
    ([-1.0, 1.0], 'Binarized')
    """
    accepted = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
    if names is None and len(accepted) < 2:
        raise ValueError(f"{type(model).__name__} has {len(accepted)} linear and 2-d layers: at least two are needed")
    if classes is not None and classes < 1:
        raise ValueError(f"classes, the width of the output, must be 1 or more, not {classes}")
    names = chosen(model, accepted[1:] if names is None else names)
    compress(model, lambda name, layer: BinaryConnectWeight())
    model = read_activations(model, names, SignActivation)
    return model if classes is None else nn.Sequential(model, nn.BatchNorm1d(classes, eps=EPSILON))


@torch.no_grad()
def threshold(norm: nn.Module, channels: int, *, target: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Replace a batch norm and a comparison by one comparison: norm(x) >= target just where x >= t, or x <= t.

    t is found by bisecting all floats. Rounding never reverses batch norm's line, so there is one such t, and the
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

    largest = torch.finfo(torch.float32).max / 4  # norm stays finite
    low, high = torch.full((channels,), -largest), torch.full((channels,), largest)
    at_low, at_high = reached(low), reached(high)
    below = at_low & ~at_high
    a, b = _ordered(low), _ordered(high)  # reached(a) == at_low and reached(b) == at_high, always
    while (b - a > 1).any():
        middle = (a + b) // 2
        as_high = reached(_float(middle)) == at_high
        a, b = torch.where(as_high, a, middle), torch.where(as_high, middle, b)
    t = torch.where(below, _float(a), _float(b))
    # end of method
    constant = at_low == at_high
    return torch.where(constant, torch.where(at_low, -torch.inf, torch.inf), t), below


def _ordered(x: Tensor) -> Tensor:
    """Floats as whole numbers in the same order; both zeros are 0."""
    bits = x.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _float(ordered: Tensor) -> Tensor:
    bits = torch.where(ordered < 0, ordered.abs() | 0x80000000, ordered)
    return torch.where(bits >= 2**31, bits - 2**32, bits).int().view(torch.float32)
