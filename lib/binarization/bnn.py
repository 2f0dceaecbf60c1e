r"""Binarized neural network: weights and what flows between the layers are signs.

.. math:: a_k = \operatorname{sign}(z_k), \qquad z_k = \mathrm{BatchNorm}(W^b_k\, a_{k-1}), \qquad
   \frac{\partial C}{\partial z_k} = \frac{\partial C}{\partial a_k}\, \mathbb 1_{\lvert z_k \rvert \le 1}

(courbariaux2016binarynet, algorithm 1; hubara2016bnn). Weights are those of :mod:`lib.binarization.binaryconnect`; the
first layer reads the image as it is, every other one reads signs, and batch norm stands behind the last.

Batch norm and sign together only ask whether a sum reaches a threshold, and :func:`threshold` finds it: the network is
one of bits, counts and comparisons, and answers as the float network does, exactly.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.shared.signs import EPSILON, LAYERS, NORMS, SignActivation, chosen, read_activations
from lib.weights import compress, layers


def binarize(model: nn.Module, *, classes: int | None = None, names: Collection[str] | None = None) -> nn.Module:
    """Turn a network into one of signs, and return it; the given one is used up.

    Every weight becomes a sign; every linear and 2-d layer but the first, or each of ``names``, reads signs; ReLU
    modules go, since a sign behind them would always be +1 (behind a relu that is called as a function it will be: give
    it a module first). A network without batch norm gets one before each sign; ``classes``, the width of the output,
    asks for one behind that.
    Raises ValueError for a network of fewer than two such layers, and for an unknown name.
    """
    found = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
    if names is None and len(found) < 2:
        raise ValueError(f"{type(model).__name__} has {len(found)} linear and 2-d layers: at least two are needed")
    if classes is not None and classes < 1:
        raise ValueError(f"classes, the width of the output, must be 1 or more, not {classes}")
    names = chosen(model, found[1:] if names is None else names)
    compress(model, lambda name, layer: BinaryConnectWeight())
    model = read_activations(model, names, SignActivation)
    return model if classes is None else nn.Sequential(model, nn.BatchNorm1d(classes, eps=EPSILON))


@torch.no_grad()
def threshold(norm: nn.Module, channels: int, *, target: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""For each channel the t with :math:`\mathrm{norm}(x) \ge` target just where x >= t, or, where ``below``, x <= t.

    Found by halving the floats between the least and the greatest: rounding never turns batch norm's line around, so
    there is one such t, and the comparison answers as the float network does for every x. A channel whose norm is
    constant gets a t below, or above, all floats. norm: batch norm in evaluation mode, or Identity. (Of x in plain or
    channels-last memory: for other views of a tensor torch rounds batch norm otherwise.)
    Returns t (channels,), float32, and below (channels,), bool. Raises ValueError for another norm.
    """
    fixed = isinstance(norm, NORMS) and not norm.training and norm.running_var is not None
    if not fixed and not isinstance(norm, nn.Identity):
        raise ValueError(f"only batch norm with fixed statistics, in evaluation mode, has a threshold, not {norm}")

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
    constant = at_low == at_high
    return torch.where(constant, torch.where(at_low, -torch.inf, torch.inf), t), below


def _ordered(x: Tensor) -> Tensor:
    """Floats as whole numbers in the same order; both zeros are 0."""
    bits = x.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _float(ordered: Tensor) -> Tensor:
    bits = torch.where(ordered < 0, ordered.abs() | 0x80000000, ordered)
    return torch.where(bits >= 2**31, bits - 2**32, bits).int().view(torch.float32)
