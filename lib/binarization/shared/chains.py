"""Chains of layers that hand bits to each other, found in the graph of a network whose layers count bits.

Between two layers that read signs, batch norm, ReLU and max pooling only decide which bit follows from which sum. So
the first layer writes these bits at once (:mod:`lib.binarization.shared.bit_images`), and what is between is skipped.
The thresholds are found by trying whole numbers on the skipped modules themselves, so they round as those do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.binarization.shared import bit_images, kernels
from lib.binarization.shared.bisection import as_float, as_ordered, bisect
from lib.binarization.shared.bit_images import Cuts, Window
from lib.binarization.shared.bit_layer import BitLayer

Shape = tuple[int, ...]
Size = tuple[int, int]
LARGEST = 2.0**100  # of the floats that a chain begins with: what follows stays finite


@dataclass
class Link:
    """What lies between a layer that reads signs and the source of its values.

    reader: the layer.
    source: the layer that counts bits and gives the values; None where they are other floats.
    before: monotone modules and functions of single values, up to the pooling.
    after: those after the pooling, or all if there is none.
    window: of the max pooling; None for none.
    flat: whether images are flattened after the pooling, for a linear layer.
    flat_at: the place in ``after`` before which they are flattened.
    kept: what was computed from parameters and buffers, cleared when one of them changes.
    """

    reader: BitLayer
    source: BitLayer | None
    before: list[Callable[[Tensor], Tensor]] = field(default_factory=list)
    after: list[Callable[[Tensor], Tensor]] = field(default_factory=list)
    window: Window | None = None
    flat: bool = False
    flat_at: int = 0
    kept: dict[object, Any] = field(default_factory=dict, compare=False)

    def cuts(self, image: Size) -> tuple[Cuts, np.ndarray]:
        """Limits of the source's counts, and which bits change after the pooling.

        image: height and width of what the source reads.
        """
        return self._kept(("cuts", image), lambda: self._cuts(image))

    def thresholds(self) -> tuple[Tensor, Tensor, np.ndarray]:
        """Thresholds of floats, which of them are reached from above, and which bits change after the pooling."""
        return self._kept("thresholds", self._thresholds)

    def filters(self, image: Shape) -> kernels.Filters:
        """The reader's filters in the order of the bits that reach it; those of a linear layer have one pixel.

        image: height, width and channels of what it reads, before it is flattened.
        """
        if self.flat:
            return self._kept(("filters", image), lambda: self._filters(image))
        return self._kept("filters", lambda: image_filters(self.reader))

    def modules(self) -> list[nn.Module]:
        """The modules whose parameters and buffers decide what is kept."""
        return [m for m in (self.source, self.reader, *self.before, *self.after) if isinstance(m, nn.Module)]

    def _kept(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self.kept:
            with torch.inference_mode(False), torch.no_grad():
                self.kept[key] = make()
        return self.kept[key]

    def _reached(self, values: Tensor) -> Tensor:
        """Whether the reader's bits are 1 for values after the pooling, (1, channels, ...)."""
        x = values
        for place, function in enumerate(self.after):
            if self.flat and place == self.flat_at:
                x = x.flatten(1)
            x = function(x)
        if x.isnan().any():
            raise ValueError(kernels.NO_NUMBER)
        t, below = self.reader.thresholds[0], self.reader.below[0]
        if self.flat:
            x = x.flatten(1)
        else:
            t, below = (v.reshape(-1, *[1] * (x.dim() - 2)) for v in (t, below))
        return torch.where(below, x <= t, x >= t).reshape(values.shape)

    def _pooled(self, values: Tensor) -> Tensor:
        for function in self.before:
            values = function(values)
        return values

    def _falls(self, low: Tensor, high: Tensor) -> Tensor:
        """Where the larger of the pooled values has the smaller bit: there the pooled bit is an AND."""
        ends = self._pooled(low), self._pooled(high)
        return self._reached(torch.minimum(*ends)) & ~self._reached(torch.maximum(*ends))

    def _cuts(self, image: Size) -> tuple[Cuts, np.ndarray]:
        source: Any = self.source
        filters, place, length = image_filters(source), source.place, source.length
        out = place.outputs(image, filters.shape[2:])
        pooled = out if self.window is None else self.window.outputs(out)
        shape = (1, filters.shape[0], *([] if not source.image else pooled if self.flat else [1, 1]))

        def values(whole: Tensor) -> Tensor:
            return source.values(whole.float())

        low, high = torch.full(shape, -length), torch.full(shape, length)
        found = bisect(lambda whole: self._reached(self._pooled(values(whole))), low, high)
        ends = torch.where(found.at_low, -length - 1, length + 1)
        least = torch.where(found.constant, ends, found.place)
        inverted = torch.zeros(shape, dtype=torch.bool)
        if self.window is not None:
            inverted = self._falls(values(low), values(high))
        least, below, inverted = (each.reshape(shape[1], -1).T.contiguous() for each in (least, found.below, inverted))
        to = None
        if self.flat:  # each place has thresholds of its own
            to = np.arange(math.prod(out)) if self.window is None else _windows(self.window, out, pooled)
        return bit_images.cuts(filters, image, place, least, below, inverted, to), _words(inverted)

    def _thresholds(self) -> tuple[Tensor, Tensor, np.ndarray]:
        channels = self.reader.thresholds.shape[1]
        shape = (1, channels, 1, 1) if self.reader.image else (1, channels)
        low, high = torch.full(shape, -LARGEST), torch.full(shape, LARGEST)
        found = bisect(lambda x: self._reached(self._pooled(as_float(x))), as_ordered(low), as_ordered(high))
        t = torch.where(found.constant, torch.where(found.at_low, -torch.inf, torch.inf), as_float(found.place))
        t, below = t.flatten(), found.below.flatten()
        inverted = torch.zeros(channels, dtype=torch.bool)
        if self.window is not None:
            inverted = self._falls(low, high).flatten()
            # The opposite of x >= t is x <= the float before t. Where the bit is always the same, none is inverted.
            other = as_float(as_ordered(t) + torch.where(below, 1, -1))
            t, below = torch.where(inverted, other, t), below ^ inverted
        return t, below, _words(inverted[None])

    def _filters(self, image: Shape) -> kernels.Filters:
        height, width, channels = image
        filters = self.reader.arranged().filters[0]
        signs = kernels.unpack(filters.bits).reshape(-1, channels, height * width).transpose(1, 2)
        words = -(-channels // 64)
        packed = kernels.pack(signs.reshape(-1, channels)).words.reshape(len(signs), -1)
        bits = kernels.Bits(packed, filters.bits.length)
        return kernels.panelled(bits, (len(signs), 64 * words * height * width, 1, 1))


def image_filters(layer: BitLayer) -> kernels.Filters:
    """A layer's filters, those of a linear layer as filters of one pixel.

    layer: of one group.
    """
    filters = layer.arranged().filters[0]
    return filters if layer.image else replace(filters, shape=(*filters.shape, 1, 1), borders={})


def _words(bits: Tensor) -> np.ndarray:
    """(rows, channels), bool, as (rows, words)."""
    return kernels.pack(bits.float() * 2 - 1).words


def _windows(window: Window, image: Size, pooled: Size) -> np.ndarray:
    """For each place of an image, the place of the pooled image whose window holds it; windows must not overlap."""
    found = np.zeros(image, np.int64)
    for axis in (0, 1):
        at = (np.arange(image[axis]) + window.border[axis]) // window.stride[axis]
        at = np.minimum(at, pooled[axis] - 1)  # a place that no window holds is never read
        found = found * (pooled[1] if axis else 1) + at.reshape((-1, 1) if axis == 0 else (1, -1))
    return found.reshape(-1)
