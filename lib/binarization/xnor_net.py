r"""XNOR-Net: signs of the weights times signs of the input, with a scale for each filter and one for each place.

.. math:: I \ast W \approx \big(\operatorname{sign}(I) \circledast \operatorname{sign}(W)\big) \odot K \alpha, \qquad
   K = A \ast k, \quad A = \tfrac1c \sum_{i=1}^{c} \lvert I_{i,:,:} \rvert, \quad k_{ij} = \tfrac{1}{w h}

(rastegari2016xnor, equation 11). :math:`\alpha` is that of :mod:`lib.binarization.bwn`. K, one number for each place
of the output, costs real multiplications; the released code leaves it out, so here it is an option. Before it binarizes
its input a layer normalises it: the order is batch norm, sign, convolution, (ReLU,) pooling. The first and the last
layer stay real.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.binarization.bwn import one_bit
from lib.binarization.shared.signs import EPSILON, Binarized, SignActivation, chosen, norm_before, read_signs
from lib.weights import compress


class InputScale(nn.Module):
    """K of a layer's real input: (n, 1, height, width) for a convolution, (n, 1), the mean of |x|, for a linear layer.

    K is a constant for the gradient. Zeros of the border count as zeros.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.place = None
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or layer.groups > 1:
                raise ValueError(
                    "K needs a convolution of one group with a border of zeros, not one of"
                    f" {layer.groups} groups with padding_mode {layer.padding_mode!r}"
                )
            self.place = layer._reversed_padding_repeated_twice, layer.stride, layer.dilation, layer.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().abs()
        if self.place is None:
            return x.mean(-1, keepdim=True)
        border, stride, dilation, size = self.place
        k = x.new_full((1, 1, *size), 1 / (size[0] * size[1]))
        mean = functional.pad(x.mean(-3, keepdim=True), border).to(memory_format=torch.contiguous_format)
        return functional.conv2d(mean, k, None, stride, 0, dilation)


class MapNorm(nn.BatchNorm1d):
    """Batch norm for flattened maps, (n, maps · pixels), one mean and size for each map.

    The authors' code has it before its first linear layer, which it writes as a convolution over whole maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (self.num_features, -1))).flatten(1)


def speedup(channels: int, area: int, *, bits: float = 64, floats: float = 1) -> float:
    r"""How much faster a convolution gets by count of operations, one real product for each output left over:

    .. math:: S = \frac{q}{p} \cdot \frac{c N_W}{c N_W + q}

    for c channels and filters of N_W places, with q products of signs (``bits``) and p of floats at a time. With 64 and
    1 it is the paper's, :math:`64 c N_W / (c N_W + 64)` (section 4.1).
    """
    return bits / floats * channels * area / (channels * area + bits)


def binarize(
    model: nn.Module,
    *,
    names: Collection[str] | None = None,
    input_scale: bool = False,
    norm: bool = True,
    maps: Mapping[str, int] | None = None,
    centred: bool = False,
) -> nn.Module:
    """Let the named layers, or all but the first and the last, read signs with weights of one bit. In place.

    input_scale: multiply with K. norm: batch norm before each sign, without which the network must bring its own.
    maps: of how many maps the flattened input of a linear layer is made, by its name: its norm is then by map.
    centred: as in :class:`lib.binarization.bwn.BinaryWeight`. Whatever stands between the layers stays where it is.
    Returns the model. Raises ValueError as :func:`lib.binarization.bwn.binarize` does, and for a layer
    of which K is not known.
    """
    names = chosen(model, names)
    for name, count in (maps or {}).items():
        inputs = getattr(model.get_submodule(name), "in_features", 0) if name in names else 0
        if not inputs or count < 1 or inputs % count:
            raise ValueError(f"maps: {name!r} is no layer to binarize whose flattened input is {count} maps")
    scales = {name: InputScale(model.get_submodule(name)) if input_scale else None for name in names}
    compress(model, lambda name, layer: one_bit(name, layer, centred=centred) if name in names else None)
    for name in names:
        model = read_signs(
            model,
            [name],
            lambda layer, k=scales[name]: Binarized(layer, SignActivation(), norm_before(layer) if norm else None, k),
        )
        if norm and name in (maps or {}):
            model.get_submodule(name).norm = MapNorm(maps[name], eps=EPSILON)
    return model
