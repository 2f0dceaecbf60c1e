r"""Run a trained network whose layers read signs on kernels that count bits, with the same answers.

:func:`convert` replaces each :class:`lib.binarization.shared.signs.Binarized` by a :class:`BitLayer`. Batch norm and
sign become one threshold for each channel, weights become words of bits, and all else stays as it is.

Where weights and inputs have one base each, or are ternary, the answers are those of the float network bit for bit:
sums of signs are whole numbers in both, and what follows is the same arithmetic in the same order. (Images come out
channels last. A real layer or a mean after them adds in the same order as in a float network that is given its images
channels last; with images in plain memory it may round differently.)

With M bases of the weights and N of the inputs a layer is

.. math:: y = \sum_{m=1}^{M} \sum_{n=1}^{N} \alpha_m \beta_n \, (A_n \circledast B_m) + b

(lin2017abcnet, section 3.2): M N products of signs, which differ from the float network by the rounding of sums.
Write files from the network before it is converted: :mod:`lib.storage` gives each of its signs one bit.
"""

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.binarization.bnn import threshold
from lib.binarization.shared import kernels
from lib.binarization.shared.signs import LAYERS, NORMS, Binarized, BinaryForm, rescaled
from lib.weights import compressed_form, layers, replace


class BitLayer(nn.Module):
    """What a Binarized layer computes in evaluation mode, on bits. Input and output are floats, as that layer's are.

    binarized: the layer to compute.
    name: what an error calls the layer; "" by default.
    Raises ValueError for a weight that is not binary or not float32, an activation without bases, and a border of
    anything but zeros.
    """

    def __init__(self, binarized: Binarized, name: str = "") -> None:
        super().__init__()
        layer, bounds = binarized.layer, getattr(binarized.activation, "bases", None)
        if bounds is None:
            what = type(binarized.activation).__name__
            raise ValueError(f"layer {name!r} reads the values of {what}, which are no signs: it cannot count bits")
        self.image = isinstance(layer, nn.Conv2d)
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise ValueError(f"padding_mode of layer {name!r} must be 'zeros', not {layer.padding_mode!r}")
            left, right, top, bottom = layer._reversed_padding_repeated_twice
            self.border = left, right, top, bottom
            self.stride, self.dilation = _pair(layer.stride), _pair(layer.dilation)
        if layer.weight.dtype != torch.float32:
            raise ValueError(f"layer {name!r} has weights of {layer.weight.dtype}: accepted is torch.float32")
        signs, scales = bases(layer, name)
        self.bias, self.groups, self.input_scale = layer.bias, getattr(layer, "groups", 1), binarized.input_scale
        norm = copy.deepcopy(binarized.norm).eval()
        folds = isinstance(norm, nn.Identity) or (isinstance(norm, NORMS) and norm.running_var is not None)
        folds &= self.input_scale is None  # which wants the values
        self.norm = nn.Identity() if folds else norm
        self.rows_only = folds and isinstance(norm, nn.BatchNorm1d)  # of steps it would norm another axis
        channels = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
        norm_folded = norm if folds else nn.Identity()
        self.bounds = [self._by_group(*threshold(norm_folded, channels, target=bound)) for bound, _ in bounds()]
        self.betas = [beta for _, beta in bounds()]
        self.single = len(signs) == 1 and self.betas == [1]
        self.size = scales[0] if self.single else torch.ones_like(scales[0])
        self.alphas = scales.unflatten(1, (self.groups, -1)).unbind(1)  # for each group (M, its filters)
        parts = signs.unflatten(1, (self.groups, -1)).unbind(1)
        self.filters = [kernels.arrange(part.flatten(0, 1)) for part in parts]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.image and x.dim() == 3:  # one image without its batch
            return self(x[None])[0]
        if self.rows_only and x.dim() != 2:
            raise ValueError(f"after its batch norm the layer reads rows (n, features), not {tuple(x.shape)}")
        x = self.norm(x)
        axis = 1 if self.image else -1
        groups = x.chunk(self.groups, axis) if self.groups > 1 else [x]
        parts = [self._sums(part, group, axis) for group, part in enumerate(groups)]
        sums = torch.cat(parts, axis) if self.groups > 1 else parts[0]
        return rescaled(sums, self.size, None if self.input_scale is None else self.input_scale(x), self.bias, axis)

    def _by_group(self, bound: Tensor, below: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Thresholds of each group's channels, and which of them are reached from above; None where none is."""
        pairs = zip(bound.chunk(self.groups), below.chunk(self.groups), strict=True)
        return [(t, turned if turned.any() else None) for t, turned in pairs]

    def _sums(self, x: Tensor, group: int, axis: int) -> Tensor:
        """The sums of one group of channels: whole numbers, or their combination over the bases."""
        total: Any = 0
        for bounds, beta in zip(self.bounds, self.betas, strict=True):
            ends = bounds[group]
            if self.image:
                sums = kernels.convolution(
                    x, self.filters[group], *ends, stride=self.stride, border=self.border, dilation=self.dilation
                )
            else:
                sums = kernels.linear(x, self.filters[group], *ends)
            if self.single:
                return sums
            alphas = (beta * self.alphas[group]).reshape(*self.alphas[group].shape, *[1] * (2 * self.image))
            total = total + (sums.unflatten(axis, self.alphas[group].shape) * alphas).sum(axis if self.image else -2)
        return total


@torch.no_grad()
def bases(layer: nn.Linear | nn.Conv2d, name: str = "") -> tuple[Tensor, Tensor]:
    """The signs and scales of a layer's binary weight, which is in a binary form, or dense as it is read from a file.

    layer: whose weight it is.
    name: what an error calls the layer; "" by default.
    Returns signs, (M, *shape of the weight), and scales, (M, filters): the weight is the sum of scale · sign over M.
    Raises ValueError for a weight that is not binary.

    >>> from lib.binarization.bwn import binarize
    >>> signs, scales = bases(binarize(nn.Linear(4, 3), names=[""]))
    >>> signs.shape, scales.shape
    (torch.Size([1, 3, 4]), torch.Size([1, 3]))
    """
    compressed = compressed_form(layer)
    if compressed is not None and isinstance(compressed[0], BinaryForm):
        signs, scales = compressed[0].bases(*compressed[1])
        lost = ((scales[:, :, None] * signs.flatten(2)).sum(0) - layer.weight.flatten(1)).abs().max()
        if not lost <= 1e-5 * layer.weight.abs().max():  # NaN is no sum either
            raise ValueError(f"layer {name!r} is not binary as it is now: its weights are no sum of signs")
        return signs, scales
    weight = layer.weight.detach()
    size = weight.abs().flatten(1).amax(1)
    if compressed is not None or not (weight.abs().flatten(1) == size[:, None]).all():
        raise ValueError(
            f"layer {name!r} is not binary: a filter has weights of more than one size; accepted are layers in a"
            " binary form of this section, and dense ones with one size for each filter, as a file of one gives them"
        )
    return torch.where(weight >= 0, 1.0, -1.0)[None], size[None]


def convert(model: nn.Module, *, names: Collection[str] | None = None) -> nn.Module:
    """A copy of the network, in evaluation mode, whose layers that read signs count bits. The network stays as it is.

    model: trained, with layers that read signs.
    names: of the layers to convert; None (default): all that read signs.
    Returns the copy. Raises ValueError for a named layer that reads no signs, a weight that is not binary, and a
    network in which no layer reads signs.

    >>> from lib import models
    >>> from lib.binarization import xnor_net
    >>> model, images = xnor_net.binarize(models.lenet_300_100()).eval(), torch.rand(2, 1, 28, 28)
    >>> torch.equal(convert(model)(images), model(images))
    True
    """
    model = copy.deepcopy(model).eval()
    readers = {name: module for name, module in model.named_modules() if isinstance(module, Binarized)}
    if not readers:
        others = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
        raise ValueError(f"no layer of {type(model).__name__} reads signs: {', '.join(others) or 'it has none'}")
    for name in names or ():
        if name not in readers:
            raise ValueError(f"layer {name!r} is not binary, it reads no signs: those that do are {', '.join(readers)}")
    for name, layer in {name: BitLayer(readers[name], name) for name in (readers if names is None else names)}.items():
        model = replace(model, name, layer)
    return model


def _pair(values: Sequence[int]) -> tuple[int, int]:
    rows, columns = values
    return rows, columns
