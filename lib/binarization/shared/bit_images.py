r"""Images of bits: a layer reads them, counts, compares and writes the bits that the next layer reads.

Between two layers that read signs only the sign of a value matters, and each function there (batch norm, ReLU) is
monotone. So a sum s of signs needs only one comparison, of the count of bits that differ:

.. math:: s \ge T \iff \mathrm{popcount}(a \oplus b) \le \lfloor (K - T) / 2 \rfloor

(courbariaux2016binarynet has it for batch norm). The largest value of a window reaches a threshold if any of its values
does, so max pooling is OR of bits, and AND where the comparison is reversed.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from lib.binarization.shared import kernels

if kernels.COMPILED:
    from lib.binarization.shared import compiled


@dataclass(frozen=True)
class BitImages:
    """Images of bits, or rows as images of one pixel.

    words: (n, height, width, ⌈channels / 64⌉), uint64: the bits of each pixel; the rest of its last word is 0.
    channels: bits of a pixel.
    """

    words: np.ndarray
    channels: int


@dataclass(frozen=True)
class Cuts:
    """Where the counts of a layer become bits: 1 where count <= limit, inverted where the flip is 1.

    limits: (kinds of places, filters rounded up to a multiple of 16), int64.
    flips: (kinds of places, ⌈filters / 16⌉), uint16: a bit for each filter.
    kinds: (height' · width',), int64: the kind of each place of the output.
    """

    limits: np.ndarray
    flips: np.ndarray
    kinds: np.ndarray


@dataclass(frozen=True)
class Window:
    """Of max pooling: its size, stride, border and dilation, all (down, right), and whether sizes are rounded up."""

    size: tuple[int, int]
    stride: tuple[int, int]
    border: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def outputs(self, image: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output, as torch computes them.

        image: height and width of the input.

        >>> Window((2, 2), (2, 2)).outputs((5, 4))
        (2, 2)
        """
        return _pooled_size(self, tuple(image))


@cache
def _pooled_size(window: Window, image: tuple[int, int]) -> tuple[int, int]:
    empty = torch.empty(1, 1, *image, device="meta")
    options = window.size, window.stride, window.border, window.dilation, window.ceil
    height, width = torch.nn.functional.max_pool2d(empty, *options).shape[2:]
    return height, width


def cuts(
    filters: kernels.Filters,
    image: tuple[int, int],
    place: kernels.Place,
    least: Tensor,
    below: Tensor,
    inverted: Tensor | None = None,
    to: np.ndarray | None = None,
) -> Cuts:
    """Turn thresholds of sums into limits of counts.

    filters: arranged, (filters, channels, height, width).
    image: height and width of the input.
    place: where the filter lies.
    least: (t, filters), int64: the bit is 1 where s >= T; T below -K for always, above K for never.
    below: (t, filters), bool: True where the bit is 1 for s <= T instead.
    inverted: (t, filters), bool: True where the bit is written as its opposite; None (default): nowhere.
    to: (height' · width',), int64: which of the t thresholds a place has; None (default): all have the first.
    Returns the cuts of this size of image.
    """
    places = int(np.prod(place.outputs(image, filters.shape[2:])))
    added = np.zeros((places, filters.shape[0]), np.int64)
    if any(place.border):
        at, sums = kernels.border_sums(filters, image, place)
        added[at] = sums
    which = np.zeros(places, np.int64) if to is None else to
    _, first, kinds = np.unique(
        np.concatenate([which[:, None], added], 1), axis=0, return_index=True, return_inverse=True
    )
    length = filters.bits.length + added[first]  # of each kind of place: what K is there
    t, turned = least.numpy()[which[first]], below.numpy()[which[first]]
    # s = K - 2 count: s >= T where count <= (K - T) / 2, and s <= T where not count <= ceil((K - T) / 2) - 1.
    limit = np.where(turned, -((t - length) // 2) - 1, (length - t) // 2)
    flip = turned if inverted is None else turned ^ inverted.numpy()[which[first]]
    lanes = filters.panels.shape[0] * filters.panels.shape[2]
    limits, flips = np.full((len(first), lanes), -1, np.int64), np.zeros((len(first), lanes), bool)
    limits[:, : filters.shape[0]], flips[:, : filters.shape[0]] = limit, flip
    packed = np.packbits(flips, axis=1, bitorder="little").view(np.uint16)
    return Cuts(limits, np.ascontiguousarray(packed), np.ascontiguousarray(kinds.reshape(-1)))


def bits(
    images: BitImages, filters: kernels.Filters, place: kernels.Place, cuts: Cuts, out: np.ndarray | None = None
) -> BitImages:
    """Count, compare and pack in one pass: the bits of a layer's outputs.

    images: what the layer reads.
    filters: arranged, (filters, channels, height, width), with as many channels.
    place: where the filter lies.
    cuts: for this size of image.
    out: (n, height', width', ⌈filters / 64⌉), uint64, whose bits beyond the filters are 0; None (default): a new one.
    Returns (n, filters, height', width') as bits, in ``out``.
    """
    size = filters.shape[2:]
    out_size = place.outputs(images.words.shape[1:3], size)
    if out is None:
        out = np.zeros((len(images.words), *out_size, -(-filters.shape[0] // 64)), np.uint64)
    rows = out.reshape(-1, out.shape[-1]).view(np.uint16)
    numbers, panels = place.numbers(size), filters.panels
    compiled.bits(images.words, images.channels, numbers, out_size, panels, cuts.limits, cuts.flips, cuts.kinds, rows)
    return BitImages(out, filters.shape[0])


def pool(images: BitImages, window: Window, last: np.ndarray, out: np.ndarray | None = None) -> BitImages:
    """Max pooling of bits: an OR, after which some of the bits are inverted.

    images: bits, already inverted where the pooled bit is the AND.
    window: of the pooling.
    last: (1 or height' · width', ⌈channels / 64⌉), uint64: 1 where a pooled bit is inverted after the OR.
    out: (n, height', width', ⌈channels / 64⌉), uint64; None (default): a new one.
    Returns the pooled images, in ``out``.
    """
    if out is None:
        count, height, width, words = images.words.shape
        out = np.empty((count, *window.outputs((height, width)), words), np.uint64)
    compiled.pool(images.words, window.size, window.stride, window.border, window.dilation, last, out)
    return BitImages(out, images.channels)


def pack(x: Tensor, thresholds: Tensor, below: Tensor, out: np.ndarray | None = None) -> BitImages:
    """Pack images of floats, or rows of floats, into bits.

    x: (n, channels, height, width) or (n, channels), float32.
    thresholds: (channels,), float32: the bit is 1 where x >= t.
    below: (channels,), bool: True where it is 1 for x <= t instead.
    out: (n, height, width, ⌈channels / 64⌉), uint64; None (default): a new one.
    Returns the bits. Raises ValueError for NaN.

    >>> pack(torch.tensor([[0.5, -2.0, 9.0]]), torch.zeros(3), torch.zeros(3, dtype=torch.bool)).words.tolist()
    [[[[5]]]]
    """
    x = x.detach()
    if x.dim() == 2:
        x = x[:, :, None, None]
    count, channels, height, width = x.shape
    if out is None:
        out = np.empty((count, height, width, -(-channels // 64)), np.uint64)
    rows = out.reshape(count, height * width, out.shape[-1])
    if x.is_contiguous() and height * width > 1:
        if compiled.pack_planes(x.reshape(count, channels, -1).numpy(), thresholds.numpy(), below.numpy(), rows):
            raise ValueError(kernels.NO_NUMBER)
    else:
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        kernels.pack_rows(pixels, thresholds, below, rows.reshape(-1, out.shape[-1]))
    return BitImages(out, channels)
