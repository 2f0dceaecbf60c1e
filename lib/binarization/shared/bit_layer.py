"""One layer that reads signs, on bits: a sum of products of signs for each pair of bases."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.binarization.bnn import threshold
from lib.binarization.shared import kernels
from lib.binarization.shared.signs import NORMS, Activation, Binarized, BinaryForm, normalized, rescaled
from lib.weights import compressed_form


class BitLayer(nn.Module):
    """A Binarized layer in evaluation mode, computed on bits. Input and output are floats, as in that layer.

    Everything its answers depend on is in buffers: words of bits (groups, M · filters of a group, ⌈inputs / 64⌉),
    int64, thresholds and which of them are reached from above (N, channels), scales (M, filters) and factors (N,). So
    it survives ``state_dict``, a file and a copy. What the kernels derive from buffers is derived again when they
    change.

    Where ``chooses`` is True, as :func:`lib.binarization.shared.inference.convert` sets it, a layer of one base
    multiplies signs as floats for inputs so small that counting is predicted to be slower; the sums are the same.

    binarized: the layer to compute.
    name: of the layer, for error messages; "" by default.
    Raises ValueError for a weight that is not binary or not float32, an activation without bases, and, when it runs,
    for buffers that were moved to another device or type.
    """

    words: Tensor
    thresholds: Tensor
    below: Tensor
    scales: Tensor
    factors: Tensor

    @torch.inference_mode(False)  # a tensor of inference mode does not tell when it is changed
    @torch.no_grad()
    def __init__(self, binarized: Binarized, name: str = "") -> None:
        super().__init__()
        layer, activation = binarized.layer, binarized.activation
        if not isinstance(activation, Activation):
            what = type(activation).__name__
            raise ValueError(f"layer {name!r} reads the values of {what}, which are no signs: it cannot count bits")
        if layer.weight.dtype != torch.float32:
            raise ValueError(f"layer {name!r} has weights of {layer.weight.dtype}: accepted is torch.float32")
        self.name, self.image = name, isinstance(layer, nn.Conv2d)
        self.place: kernels.Place = kernels.Place()
        self.copied: tuple[tuple[int, int, int, int], str] | None = None
        if isinstance(layer, nn.Conv2d):
            left, right, top, bottom = layer._reversed_padding_repeated_twice
            border = left, right, top, bottom
            if layer.padding_mode != "zeros":  # a border of copies is put around the image first
                border, self.copied = (0, 0, 0, 0), (border, layer.padding_mode)
            self.place = kernels.Place(_pair(layer.stride), border, _pair(layer.dilation))
        signs, scales = bases(layer, name)
        self.bias, self.groups, self.input_scale = layer.bias, getattr(layer, "groups", 1), binarized.input_scale
        norm = copy.deepcopy(binarized.norm).eval()
        folds = isinstance(norm, nn.Identity) or (isinstance(norm, NORMS) and norm.running_var is not None)
        folds &= self.input_scale is None  # K needs the normalized values
        self.norm = nn.Identity() if folds else norm
        channels = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
        norm_folded = norm if folds else nn.Identity()
        found = [threshold(norm_folded, channels, target=target) for target, _ in activation.bases()]
        rows = signs.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(1, 2)  # of each group (M · filters, ...)
        self.shape, self.length = tuple(rows.shape[1:]), math.prod(rows.shape[2:])
        bits = [kernels.arrange(part).bits.words.view(np.int64) for part in rows]
        self.register_buffer("words", torch.from_numpy(np.stack(bits)))
        self.register_buffer("thresholds", torch.stack([t for t, _ in found]))
        self.register_buffer("below", torch.stack([turned for _, turned in found]))
        self.register_buffer("scales", scales.detach().clone())
        self.register_buffer("factors", torch.tensor([factor for _, factor in activation.bases()]))
        self.kept: tuple[object, Arranged] | None = None
        self.chooses = False
        self.eval()

    def extra_repr(self) -> str:
        return f"{tuple(self.words.shape)} words of {self.length} bits, {len(self.factors)} signs for each input"

    def forward(self, x: Tensor) -> Tensor:
        if self.image and x.dim() == 3:  # one image without its batch
            return self(x[None])[0]
        arranged = self.arranged()
        x = normalized(self.norm, x, linear=not self.image)
        axis = 1 if self.image else -1
        if self.chooses and arranged.single and self.floats_win(x):
            sums = self._sums_of_floats(x.detach())
        else:
            parts = [
                self._sums(part, group, arranged, axis)
                for part, group in zip(x.chunk(self.groups, axis), range(self.groups), strict=True)
            ]
            sums = parts[0]
            if self.groups > 1:
                sums = torch.cat(parts, axis).to(memory_format=torch.channels_last)  # as of one group
        scale = None if self.input_scale is None else self.input_scale(x)
        return rescaled(sums, arranged.size, scale, self.bias, axis)

    def floats_win(self, x: Tensor) -> bool:
        """Whether the layer is predicted to be faster if torch multiplies its signs as floats.

        x: the layer's input; False for one that does not fit, which the kernels refuse.
        """
        fits = x.dtype == torch.float32 and x.dim() > 0 and x.numel() > 0 and kernels.available()
        if not fits or x.shape[1 if self.image else -1] != self.thresholds.shape[1]:
            return False
        if not self.image:
            return not kernels.bits_win(kernels.LayerShape((math.prod(x.shape[:-1]), x.shape[-1]), self.shape))
        if x.dim() != 4:
            return False
        left, right, top, bottom = self.copied[0] if self.copied else (0, 0, 0, 0)
        size = x.shape[2] + top + bottom, x.shape[3] + left + right
        self.place.outputs(size, (self.shape[2], self.shape[3]))  # refuses an image that is too small
        filters = self.groups * self.shape[0], *self.shape[1:]
        return not kernels.bits_win(kernels.LayerShape((*x.shape[:2], *size), filters, self.place, self.groups))

    def _sums_of_floats(self, x: Tensor) -> Tensor:
        arranged = self.arranged()
        if not self.image:
            return kernels.linear_of_floats(x, arranged.whole, *arranged.compared)
        if self.copied is not None:
            x = functional.pad(x, *self.copied)
        place, groups = self.place, self.groups
        return kernels.convolution_of_floats(x, arranged.whole, *arranged.compared, place=place, groups=groups)

    def arranged(self) -> "Arranged":
        """The buffers in the form that the kernels take, made again when one has changed."""
        state = self.words, self.thresholds, self.below, self.scales, self.factors
        key = [(tensor.data_ptr(), tensor._version) for tensor in state]
        if self.kept is None or self.kept[0] != key:
            if self.words.device.type != "cpu" or self.thresholds.dtype != torch.float32:
                raise ValueError(
                    f"layer {self.name!r} counts bits on the CPU, for float32, not on {self.words.device} for"
                    f" {self.thresholds.dtype}: move the network before it is converted"
                )
            self.kept = key, self._arrange()
        return self.kept[1]

    def alone(self) -> bool:
        """Whether the layer can hand bits on: one base, one group, a border of zeros, and a norm that is folded."""
        plain = self.groups == 1 and self.copied is None and self.input_scale is None
        return plain and isinstance(self.norm, nn.Identity) and self.arranged().single

    def values(self, sums: Tensor) -> Tensor:
        """What the layer gives for its sums of signs, computed in their memory; for a layer that is :meth:`alone`.

        sums: (n, filters, height, width) or (n, filters).
        """
        return rescaled(sums, self.scales[0], None, self.bias, 1 if self.image else -1)

    def _arrange(self) -> "Arranged":
        rows = self.words.numpy().view(np.uint64)
        filters = [kernels.panelled(kernels.Bits(part, self.length), self.shape) for part in rows]
        bounds = [  # of each base, for each group
            [(t, turned if turned.any() else None) for t, turned in zip(*each, strict=True)]
            for each in zip(
                (t.chunk(self.groups) for t in self.thresholds),
                (turned.chunk(self.groups) for turned in self.below),
                strict=True,
            )
        ]
        single = len(self.scales) == 1 and self.factors.tolist() == [1.0]
        size = self.scales[0] if single else torch.ones_like(self.scales[0])
        alphas = self.scales.unflatten(1, (self.groups, -1)).unbind(1)  # for each group (M, its filters)
        compared = kernels.bounds(self.thresholds[0], self.below[0])
        whole = filters[0]
        if self.groups > 1:  # for floats, which take all groups at once
            bits = kernels.Bits(rows.reshape(-1, rows.shape[-1]), self.length)
            whole = kernels.Filters((len(bits.words), *self.shape[1:]), bits, filters[0].panels)
        return Arranged(filters, bounds, self.factors.tolist(), alphas, size, single, whole, compared)

    def _sums(self, x: Tensor, group: int, arranged: "Arranged", axis: int) -> Tensor:
        """The sums of one group of channels: whole numbers, or their combination over the bases."""
        if self.image and self.copied is not None:
            x = functional.pad(x, *self.copied)
        total: Any = 0
        place = self.place
        filters, alpha = arranged.filters[group], arranged.alphas[group]
        for bounds, factor in zip(arranged.bounds, arranged.factors, strict=True):
            if self.image:
                sums = kernels.convolution(
                    x, filters, *bounds[group], stride=place.stride, border=place.border, dilation=place.dilation
                )
            else:
                sums = kernels.linear(x, filters, *bounds[group])
            if arranged.single:
                return sums
            alphas = (factor * alpha).reshape(*alpha.shape, *[1] * (2 * self.image))
            total = total + (sums.unflatten(axis, alpha.shape) * alphas).sum(axis if self.image else -2)
        return total


@dataclass(frozen=True)
class Arranged:
    """What the kernels need: filters and scales of each group, bounds of each base and group, factors, sizes.

    single: whether there is one base, so that sums are whole numbers.
    whole: the filters of all groups, for floats.
    compared: what floats are compared with, see :func:`lib.binarization.shared.kernels.bounds`.
    """

    filters: list[kernels.Filters]
    bounds: list[list[tuple[Tensor, Tensor | None]]]
    factors: list[float]
    alphas: tuple[Tensor, ...]
    size: Tensor
    single: bool
    whole: kernels.Filters
    compared: tuple[Tensor, Tensor | None]


@torch.no_grad()
def bases(layer: nn.Linear | nn.Conv2d, name: str = "") -> tuple[Tensor, Tensor]:
    """The signs and scales of a layer's binary weight, which is in a binary form, or dense as read from a file.

    layer: the layer.
    name: of the layer, for error messages; "" by default.
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
            raise ValueError(f"layer {name!r} is not binary now: its weights are not a sum of signs")
        return signs, scales
    weight = layer.weight.detach()
    size = weight.abs().flatten(1).amax(1)
    if compressed is not None or not (weight.abs().flatten(1) == size[:, None]).all():
        raise ValueError(
            f"layer {name!r} is not binary: a filter has weights of more than one size; accepted are layers in a"
            " binary form of this section, and dense ones with one size for each filter, as loaded from a file"
        )
    return torch.where(weight >= 0, 1.0, -1.0)[None], size[None]


def _pair(values: Sequence[int]) -> tuple[int, int]:
    rows, columns = values
    return rows, columns
