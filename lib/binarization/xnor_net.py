r"""XNOR-Net: signs of weights times signs of inputs, with one scale per filter and one per place of the output.

.. math:: I \ast W \approx \big(\operatorname{sign}(I) \circledast \operatorname{sign}(W)\big) \odot K \alpha, \qquad
   K = A \ast k, \quad A = \tfrac1c \sum_{i=1}^{c} \lvert I_{i,:,:} \rvert, \quad k_{ij} = \tfrac{1}{w h}

(rastegari2016xnor, equation 11), with :math:`\alpha` as in :mod:`lib.binarization.bwn`. K, one number for each place
of the output, costs real multiplications; the authors' released code leaves it out, so here it is an option. A layer
normalizes its input before it binarizes it: the order is batch norm, sign, convolution, (ReLU,) pooling. The first and
the last layer stay real.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.binarization.bwn import one_bit
from lib.binarization.shared.conversion import EPSILON, chosen, norm_before, readable
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.weights import compress, replace


class InputScale(nn.Module):
    """K of a layer's real input; for the gradient it is a constant.

    Its output is (n, 1, height, width) for a convolution, where the zeros of the border count, and (n, 1), the mean of
    |x|, for a linear layer.

    layer: whose input is read. Raises ValueError for a convolution of several groups or with another border than zeros.

    >>> InputScale(nn.Linear(2, 5))(torch.tensor([[1.0, -3.0]])).tolist()
    [[2.0]]
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.place = None
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros" or layer.groups > 1:
                raise ValueError(
                    "K needs a convolution of one group with a border of zeros, not one of"
                    f" {layer.groups} groups with padding_mode {layer.padding_mode!r}"
                )
            self.place = layer._reversed_padding_repeated_twice, layer.stride, layer.dilation, layer.kernel_size

    # method
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().abs()
        if self.place is None:
            return x.mean(-1, keepdim=True)
        border, stride, dilation, size = self.place
        k = x.new_full((1, 1, *size), 1 / (size[0] * size[1]))
        mean = functional.pad(x.mean(-3, keepdim=True), border).to(memory_format=torch.contiguous_format)
        return functional.conv2d(mean, k, None, stride, 0, dilation)

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
) -> nn.Module:
    """Binarize the weights and inputs of a network and return it; do not use the original afterwards.

    The named layers read signs, with weights of one bit and one scale per filter. All between them stays where it is.

    model: the network.
    names: of linear and 2-d convolution layers; None (default): all but the first and the last.
    input_scale: whether outputs are multiplied by K; False by default.
    norm: whether each sign gets a batch norm before it; True by default. Without it the network must bring its own.
    maps: name of a linear layer -> how many maps its flattened input consists of; its norm then has one mean and
      deviation for each map. None (default): one for each input.
    centered: whether the mean of each filter over its input channels is subtracted first; False by default.

    Returns the model to use from now on. Raises ValueError for an unknown layer, where no layer is left, for weights
    that are not finite, maps that do not fit or have no norm, a centered layer of one input channel, and a layer whose
    K is not known; the model is then as it was.

    >>> from lib import models
    >>> model = binarize(models.lenet5(), maps={"fc1": 50})
    >>> type(model.conv2).__name__, type(model.fc1.norm).__name__
    ('Binarized', 'MapNorm')
    """
    maps = maps or {}
    if maps and not norm:
        raise ValueError(f"maps must be empty where norm is False, not {dict(maps)}: they are of the norm")
    binary = {name: readable(model, name) for name in chosen(model, names)}
    for name, count in maps.items():
        inputs = getattr(binary.get(name), "in_features", 0)
        if not inputs or count < 1 or inputs % count:
            raise ValueError(f"maps: {name!r} is no layer to binarize whose flattened input is {count} maps")
    scales = {name: InputScale(layer) if input_scale else None for name, layer in binary.items()}
    compress(model, lambda name, layer: one_bit(name, layer, centered=centered) if name in binary else None)

    def norm_of(name: str, layer: nn.Module) -> nn.Module | None:
        if not norm:
            return None
        return MapNorm(maps[name], eps=EPSILON) if name in maps else norm_before(layer)

    for name, layer in binary.items():
        model = replace(model, name, Binarized(layer, SignActivation(), norm_of(name, layer), scales[name]))
    return model
