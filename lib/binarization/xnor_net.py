r"""XNOR-Net: signs of weights times signs of inputs, with one scale per filter and one per place of the output.

.. math:: I \ast W \approx \big(\operatorname{sign}(I) \circledast \operatorname{sign}(W)\big) \odot K \alpha, \qquad
   K = A \ast k, \quad A = \tfrac1c \sum_{i=1}^{c} \lvert I_{i,:,:} \rvert, \quad k_{ij} = \tfrac{1}{w h}

(rastegari2016xnor, equation 11), with :math:`\alpha` as in :mod:`lib.binarization.bwn`. K, one number for each place
of the output, costs real multiplications; the authors' released code leaves it out, so here it is an option. A layer
normalizes its input before it binarizes it: the order is batch norm, sign, convolution, (ReLU,) pooling. The first and
the last layer stay real.

Left out: gradients of one bit (their scale is the largest gradient, and they cost the authors 1.4 points), and weights
of several bits.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.binarization.bwn import one_bit
from lib.binarization.shared.conversion import EPSILON, like, norm_before, read_signs
from lib.binarization.shared.plans import check_signs, planned
from lib.binarization.shared.signs import Activation, Binarized, SignActivation
from lib.weights import compress


class BitsActivation(Activation):
    r"""Values in [-1, 1] of k bits, in place of the sign (rastegari2016xnor, equation 12), for x of any shape:

    .. math:: q_k(x) = 2 \Big( \frac{\mathrm{round}\big((2^k - 1) \tfrac{x + 1}{2}\big)}{2^k - 1} - \frac12 \Big)

    The gradient passes where |x| <= 1, as for the sign, which is the case k = 1.

    bits: k, from 1 to 8; ValueError for others.

    >>> BitsActivation(2)(torch.tensor([-9.0, -0.2, 0.7, 0.5])).mul(3).tolist()
    [-3.0, -1.0, 3.0, 1.0]
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if bits not in range(1, 9):
            raise ValueError(f"bits of activations must be a whole number from 1 to 8, not {bits}")
        self.bits = int(bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"

    def forward(self, x: Tensor) -> Tensor:
        return _Bits.apply(x, [t for t, _ in self.bases()])

    def bases(self) -> list[tuple[float, float]]:
        steps = 2**self.bits - 1
        return [((2 * j + 1) / steps - 1, 1 / steps) for j in range(steps)]


class _Bits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, thresholds: list[float]) -> Tensor:
        ctx.save_for_backward(x)
        reached = torch.bucketize(x, x.new_tensor(thresholds), right=True)  # how many thresholds x reaches
        return (2 * reached - len(thresholds)).to(x.dtype) / len(thresholds)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1), None


class InputScale(nn.Module):
    """K of a layer's real input; for the gradient it is a constant.

    Its output is (n, 1, height, width) for a convolution, where the zeros of the border count, and (n, 1), the mean of
    |x|, for a linear layer. A convolution of several groups has one K per group: (n, filters, height, width).

    layer: whose input is read.

    >>> InputScale(nn.Linear(2, 5))(torch.tensor([[1.0, -3.0]])).tolist()
    [[2.0]]
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.place = None
        if isinstance(layer, nn.Conv2d):
            self.place = layer._reversed_padding_repeated_twice, layer.stride, layer.dilation, layer.kernel_size
            self.groups, self.filters = layer.groups, layer.out_channels // layer.groups
            self.mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode

    # method
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().abs()
        if self.place is None:
            return x.mean(-1, keepdim=True)
        border, stride, dilation, size = self.place
        k = x.new_full((self.groups, 1, *size), 1 / (size[0] * size[1]))
        mean = x.unflatten(-3, (self.groups, -1)).mean(-3)  # A, for each group
        mean = functional.pad(mean, border, self.mode).to(memory_format=torch.contiguous_format)
        scale = functional.conv2d(mean, k, None, stride, 0, dilation, self.groups)
        return scale if self.groups == 1 else scale.repeat_interleave(self.filters, -3)

    # end of method


class MapNorm(nn.BatchNorm1d):
    """Batch norm for flattened maps, (n, maps · pixels), with one mean and one deviation for each map.

    The authors' code has it before its first linear layer, which it writes as a convolution over whole maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (self.num_features, -1))).flatten(1)


def speedup(channels: int, area: int, *, bits: float = 64, floats: float = 1) -> float:
    r"""How much faster a convolution becomes, by count of operations, with one real product for each output:

    .. math:: S = \frac{q}{p} \cdot \frac{c N_W}{c N_W + q}

    channels: c, of the input.
    area: N_W, places of the filter.
    bits: q, products of signs in one operation; 64 by default.
    floats: p, products of floats in one operation; 1 by default. With both defaults it is the paper's
      :math:`64 c N_W / (c N_W + 64)` (section 4.1).

    >>> round(speedup(256, 9), 2)
    62.27
    """
    # method
    return bits / floats * channels * area / (channels * area + bits)
    # end of method


def binarize(
    model: nn.Module,
    *,
    names: Collection[str] | None = None,
    input_scale: bool = False,
    norm: bool = True,
    maps: Mapping[str, int] | None = None,
    centered: bool = False,
    activation_bits: int = 1,
    example: Tensor | None = None,
) -> nn.Module:
    """Binarize the weights and inputs of a network and return it; do not use the original afterwards.

    The named layers read signs, with weights of one bit and one scale per filter. Everything between them stays.

    model: the network.
    names: of linear and 2-d convolution layers that are called; None (default): all of them, except for those that read
      the network's input or give its output.
    input_scale: whether outputs are multiplied by K; False by default.
    norm: whether each sign gets a batch norm before it; True by default. Without it the network must bring its own.
    maps: name of a linear layer -> how many maps its flattened input consists of; its norm then has one mean and
      deviation for each map. None (default): one for each input.
    centered: whether the mean of each filter over its input channels is subtracted first; False by default.
    activation_bits: of each input, 1 (default), a sign, to 8 (see :class:`BitsActivation`).
    example: a batch of the network's input, on which a copy is tried; None (default): torch.fx traces the network.

    Returns the model to use from now on. Raises ValueError for an unknown layer, one that is not called, if no layer is
    left, for weights that are not finite, maps that do not fit or have no norm, a centered layer of one input channel,
    a sign that is constant, as after ReLU without a norm, and a network that cannot be traced; the model is then
    unchanged.

    >>> from lib import models
    >>> model = binarize(models.lenet5(), maps={"fc1": 50})
    >>> type(model.conv2).__name__, type(model.fc1.norm).__name__
    ('Binarized', 'MapNorm')
    """

    def activation() -> Activation:
        return SignActivation() if activation_bits == 1 else BitsActivation(activation_bits)

    maps = maps or {}
    if maps and not norm:
        raise ValueError(f"maps must be empty where norm is False, not {dict(maps)}: only the norm uses them")
    plan = planned(model, names, activation=activation(), ends=("first", "last"), norm=norm, example=example)
    for name, count in maps.items():
        inputs = getattr(model.get_submodule(name), "in_features", 0) if name in plan.readers else 0
        if not inputs or count < 1 or inputs % count:
            raise ValueError(f"maps: {name!r} must be a linear layer to binarize with inputs for {count} maps")

    def make(name: str, layer: nn.Linear | nn.Conv2d) -> Binarized:
        before = norm_before(layer) if norm else None
        if name in maps:
            before = like(layer, MapNorm(maps[name], eps=EPSILON))
        return Binarized(layer, activation(), before, InputScale(layer) if input_scale else None)

    def change(model: nn.Module) -> nn.Module:
        compress(model, lambda name, layer: one_bit(name, layer, centered=centered) if name in plan.readers else None)
        return read_signs(model, plan.readers, make)

    if example is not None:
        check_signs(change(copy.deepcopy(model)), example)
    return change(model)
