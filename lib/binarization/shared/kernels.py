r"""Products of signs by counting bits: 64 signs in one word, exact for every shape.

A sign is one bit, 1 for +1. Two rows of K signs have the product

.. math:: a \cdot b = K - 2\, \mathrm{popcount}(a \oplus b)

(rastegari2016xnor, section 3.2), with K the true length: what fills the last word is 0 in both rows and adds nothing.
A convolution first gathers the bits under each place of the filter into one row. Where the filter looks over the
border, at zeros, which are no signs, what -1 would have added there is subtracted again.

numba compiles the kernels for any processor it knows. Without numba torch computes everything with floats, equally
exact but no faster than floats, and a warning says so once. Words are numpy's uint64, little-endian in K.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

try:
    import numba

    from lib.binarization.shared import vector
except ImportError:
    numba = None  # type: ignore[assignment]  # the module is optional

BLOCK = 128  # rows that are multiplied with all filters before the next are read


@dataclass(frozen=True)
class Bits:
    """Rows of signs, packed.

    words: (rows, ⌈length / 64⌉), uint64.
    length: signs in each row.
    """

    words: np.ndarray
    length: int


@dataclass(frozen=True)
class Filters:
    """Signs of a layer's weight, arranged once for the kernels.

    shape: of the weight, (filters, inputs) or (filters, channels, height, width).
    bits: one row for each filter.
    panels: the same, for 16 filters at a time, (⌈filters / 16⌉, words, 16).
    borders: what a border adds, kept for each size of image that was seen.
    """

    shape: tuple[int, ...]
    bits: Bits
    panels: np.ndarray
    borders: dict[tuple, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False)


@cache
def available() -> bool:
    """Whether compiled kernels count the bits; if not, a warning says once what is missing."""
    if numba is None:
        warnings.warn(
            "numba is not installed: signs are multiplied as floats by torch, as exact, but no faster than floats;"
            " pip install numba brings the kernels",
            RuntimeWarning,
            stacklevel=3,
        )
    return numba is not None


def pack(values: Tensor, thresholds: Tensor | None = None, below: Tensor | None = None) -> Bits:
    """Pack rows of floats into bits.

    values: (rows, columns), floats: +1 and -1, or any numbers if there are thresholds.
    thresholds: (columns,), float32: the bit is 1 where x >= t; None (default): the values are signs.
    below: (columns,), bool: True where the bit is 1 for x <= t instead; None (default): nowhere.
    Raises ValueError for other values than signs, for NaN, and for thresholds of another type or number.

    >>> bits = pack(torch.tensor([[1.0, -1.0, 1.0]]))
    >>> bits.words.tolist(), bits.length
    ([[5]], 3)
    """
    if values.dim() != 2 or not values.is_floating_point():
        raise ValueError(f"rows of floats are packed, not a {values.dim()}-d tensor of {values.dtype}")
    if thresholds is None and not (values.abs() == 1).all():
        odd = values[values.abs() != 1][0].item()
        raise ValueError(f"{odd:g} is no sign: binarize the values first, or say at which threshold")
    for name, row, dtype in (("thresholds", thresholds, torch.float32), ("below", below, torch.bool)):
        if row is not None and (row.shape != values.shape[1:] or row.dtype != dtype):
            raise ValueError(
                f"{name} has the shape {tuple(row.shape)} and the type {row.dtype}: one of {dtype} for each of"
                f" {values.shape[1]} columns is needed"
            )
    if thresholds is None:
        thresholds = torch.zeros(values.shape[1])
    if values.dtype == torch.float64 and not values.isnan().any():  # rounded first, a value could cross its threshold
        reached = (
            values >= thresholds if below is None else torch.where(below, values <= thresholds, values >= thresholds)
        )
        values, thresholds, below = reached.float() - 1, torch.zeros_like(thresholds), None
    return _packed(values.float(), thresholds, below)


def _packed(values: Tensor, thresholds: Tensor, below: Tensor | None) -> Bits:
    rows, columns = values.shape
    words = np.zeros((rows, -(-columns // 64)), dtype=np.uint64)
    if not available():
        if values.isnan().any():
            raise ValueError("a value to pack is not a number (NaN): it has no sign")
        reached = values >= thresholds
        if below is not None:
            reached = torch.where(below, values <= thresholds, reached)
        bytes_ = np.packbits(reached.numpy(), axis=1, bitorder="little")
        words.view(np.uint8)[:, : bytes_.shape[1]] = bytes_
        return Bits(words, columns)
    flips = np.zeros(words.shape[1], dtype=np.uint64)
    if below is not None and below.any():
        flips = _packed(below.float()[None], torch.ones(columns), None).words[0]
    if _pack(values.detach().contiguous().numpy(), thresholds.contiguous().numpy(), flips, words):
        raise ValueError("a value to pack is not a number (NaN): it has no sign")
    return Bits(words, columns)


def unpack(bits: Bits) -> Tensor:
    """The signs as floats, (rows, length): what :func:`pack` packed.

    bits: packed rows.
    """
    spread = np.unpackbits(bits.words.view(np.uint8), axis=1, count=bits.length, bitorder="little")
    return torch.from_numpy(spread).float() * 2 - 1


def arrange(signs: Tensor) -> Filters:
    """Arrange a layer's signs for the kernels.

    signs: (filters, inputs) or (filters, channels, height, width), +1 and -1. Raises ValueError for other values and
      another number of dimensions.
    """
    if signs.dim() not in (2, 4):
        raise ValueError(f"the weight has {signs.dim()} dimensions: accepted are 2, linear, and 4, a 2-d convolution")
    rows = signs if signs.dim() == 2 else signs.permute(0, 2, 3, 1)  # channels innermost, as in the bits of an image
    return panelled(pack(rows.reshape(len(signs), math.prod(signs.shape[1:]))), tuple(signs.shape))


def panelled(bits: Bits, shape: tuple[int, ...]) -> Filters:
    """Arrange filters whose bits are packed already.

    bits: one row for each filter, channels innermost.
    shape: of the weight, (filters, inputs) or (filters, channels, height, width).
    """
    rows, words = bits.words.shape
    lanes = vector.LANES if available() else 1
    panels = -(-rows // lanes)
    padded = np.zeros((panels * lanes, words), dtype=np.uint64)
    padded[:rows] = bits.words
    return Filters(shape, bits, np.ascontiguousarray(padded.reshape(panels, lanes, words).transpose(0, 2, 1)))


def product(a: Bits, filters: Filters | Bits, *, dtype: torch.dtype = torch.int32) -> Tensor:
    """The product of every row with every filter.

    a: packed rows.
    filters: arranged or packed, of the same length.
    dtype: torch.int32 (default), or torch.float32, which holds whole numbers exactly up to 2^24.
    Returns (rows, filters), whole numbers. Raises ValueError for operands that are not packed or differ in length, and
    for another dtype.

    >>> product(pack(torch.tensor([[1.0, -1.0, 1.0]])), pack(torch.tensor([[1.0, 1.0, 1.0]]))).tolist()
    [[1]]
    """
    if not isinstance(a, Bits):
        raise ValueError(f"packed bits are multiplied, not {_what(a)}: pack it first")
    if isinstance(filters, Bits):
        filters = panelled(filters, (len(filters.words), filters.length))
    if not isinstance(filters, Filters):
        raise ValueError(f"packed filters are multiplied with, not {_what(filters)}: arrange or pack them first")
    if a.length != filters.bits.length:
        raise ValueError(f"rows of {a.length} signs meet filters of {filters.bits.length}: they must be as long")
    if dtype not in (torch.int32, torch.float32):
        raise ValueError(f"dtype must be torch.int32 or torch.float32, not {dtype}")
    if not available():
        wide = torch.float32 if a.length < 2**24 else torch.float64
        return (unpack(a).to(wide) @ unpack(filters.bits).to(wide).T).to(dtype)
    # method
    out = torch.empty(len(a.words), filters.shape[0], dtype=dtype)
    if out.numel():
        (_products if dtype == torch.int32 else _products_real)(a.words, filters.panels, out.numpy(), a.length)
    return out
    # end of method


def linear(x: Tensor, filters: Filters, thresholds: Tensor | None = None, below: Tensor | None = None) -> Tensor:
    """Sums of a linear layer whose inputs are signs.

    x: (..., inputs), floats.
    filters: arranged, (filters, inputs).
    thresholds: (inputs,), float32: an input is +1 where x >= t; None (default): x holds signs.
    below: (inputs,), bool: True where it is +1 for x <= t instead; None (default): nowhere.
    Returns (..., filters), float32. Raises ValueError as :func:`pack` and :func:`product` do.
    """
    rows = pack(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), thresholds, below)
    return product(rows, filters, dtype=torch.float32).reshape(*x.shape[:-1], filters.shape[0])


def convolution(
    x: Tensor,
    filters: Filters,
    thresholds: Tensor | None = None,
    below: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    border: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Sums of a convolution whose inputs are signs.

    x: (n, channels, height, width), floats.
    filters: arranged, (filters, channels, height, width).
    thresholds: (channels,), float32: an input is +1 where x >= t; None (default): x holds signs.
    below: (channels,), bool: True where it is +1 for x <= t instead; None (default): nowhere.
    stride: down and right, in pixels; (1, 1) by default.
    border: rows and columns of zeros on the left, right, top and bottom; none by default.
    dilation: down and right, in pixels; (1, 1) by default.
    Returns (n, filters, height', width'), float32, channels last, or in plain memory if there is one filter.
    Raises ValueError as :func:`pack` does, for another number of channels, and for an image smaller than the filter.
    """
    if x.dim() != 4 or len(filters.shape) != 4 or x.shape[1] != filters.shape[1]:
        raise ValueError(
            f"images of shape {tuple(x.shape)} meet filters of shape {filters.shape}: both need four dimensions, and"
            " as many channels"
        )
    count, channels, height, width = x.shape
    size, (left, right, top, bottom) = filters.shape[2:], border
    out_height = (height + top + bottom - dilation[0] * (size[0] - 1) - 1) // stride[0] + 1
    out_width = (width + left + right - dilation[1] * (size[1] - 1) - 1) // stride[1] + 1
    if out_height < 1 or out_width < 1:
        raise ValueError(f"an image of {height} x {width} with border {border} is smaller than the filter {size}")
    pixels = x.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    bits = pack(pixels, thresholds, below)
    place = (*stride, left, top, *dilation)
    if available():
        rows = np.empty((count * out_height * out_width, filters.bits.words.shape[1]), dtype=np.uint64)
        image = bits.words.reshape(count, height, width, bits.words.shape[1])
        _patches(image, channels, *size, *place, out_height, out_width, rows)
        sums = product(Bits(rows, filters.bits.length), filters, dtype=torch.float32)
        sums = sums.reshape(count, out_height, out_width, filters.shape[0])
        if any(border):
            _add_border(
                sums.reshape(count, out_height * out_width, filters.shape[0]).numpy(),
                *_border(filters, (height, width), border, stride, dilation),
            )
        sums = sums.permute(0, 3, 1, 2)
    else:
        signs = unpack(bits).reshape(count, height, width, channels).permute(0, 3, 1, 2)
        weight = unpack(filters.bits).reshape(filters.shape[0], *size, channels).permute(0, 3, 1, 2)
        signs, weight = (tensor.to(memory_format=torch.contiguous_format) for tensor in (signs, weight))
        sums = functional.conv2d(functional.pad(signs, border), weight, None, stride, 0, dilation)
    # On some processors torch's convolution of one channel is wrong for channels last: what reads it gets plain memory.
    return sums.to(memory_format=torch.contiguous_format if filters.shape[0] == 1 else torch.channels_last)


def _what(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _border(
    filters: Filters,
    size: tuple[int, int],
    border: tuple[int, int, int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Places (p,) of the output that look over the border, and the sums of the weights that do, (p, filters)."""
    key = (size, border, stride, dilation)
    if key not in filters.borders:
        weight = unpack(filters.bits).reshape(filters.shape[0], *filters.shape[2:], filters.shape[1]).sum(-1)
        outside = functional.pad(torch.zeros(1, 1, *size), border, value=1.0).double()  # exact on every processor
        sums = functional.conv2d(outside, weight[:, None].double(), None, stride, 0, dilation)
        sums = sums[0].flatten(1).T.float().contiguous()
        places = sums.any(1).nonzero().flatten()
        filters.borders[key] = places.numpy(), sums[places].numpy()
    return filters.borders[key]


if numba is not None:
    _tile, _row = vector.tile(vector.ROWS, False), vector.tile(1, False)
    _tile_real, _row_real = vector.tile(vector.ROWS, True), vector.tile(1, True)
    ROWS, LANES = vector.ROWS, vector.LANES

    def _multiplier(tile: Callable, row: Callable) -> Callable:
        """a (rows, words), panels (p, words, 16) -> out (rows, filters): blocks of rows meet all panels in turn."""

        def multiply(a: np.ndarray, panels: np.ndarray, out: np.ndarray, length: int) -> None:
            rows, words = a.shape
            filters = out.shape[1]
            edge = np.empty((ROWS, LANES), out.dtype)
            a_at, b_at, out_at, edge_at = a.ctypes.data, panels.ctypes.data, out.ctypes.data, edge.ctypes.data
            for block in range(0, rows, BLOCK):
                last = min(rows, block + BLOCK)
                for panel in range(len(panels)):
                    b = b_at + panel * words * LANES * 8
                    whole = (panel + 1) * LANES <= filters
                    i = block
                    while i < last:
                        taken = ROWS if i + ROWS <= last else 1
                        at, step = out_at + (i * filters + panel * LANES) * 4, filters
                        if not whole:
                            at, step = edge_at, LANES
                        if taken == 1:
                            row(a_at + i * words * 8, words, b, at, step, length)
                        else:
                            tile(a_at + i * words * 8, words, b, at, step, length)
                        if not whole:
                            for r in range(taken):
                                for c in range(filters - panel * LANES):
                                    out[i + r, panel * LANES + c] = edge[r, c]
                        i += taken

        return multiply

    _shape = "void(uint64[:, ::1], uint64[:, :, ::1], {}[:, ::1], int64)"
    _products = numba.njit(_shape.format("int32"), cache=True)(_multiplier(_tile, _row))
    _products_real = numba.njit(_shape.format("float32"), cache=True)(_multiplier(_tile_real, _row_real))

    @numba.njit("boolean(float32[:, ::1], float32[::1], uint64[::1], uint64[:, ::1])", cache=True)
    def _pack(values: np.ndarray, thresholds: np.ndarray, flips: np.ndarray, words: np.ndarray) -> bool:
        """The bits of values against thresholds; whether one was no number."""
        rows, columns = values.shape
        v_at, t_at, bad = values.ctypes.data, thresholds.ctypes.data, 0
        for r in range(rows):
            for w in range(words.shape[1]):
                at = 4 * (r * columns + 64 * w)
                above, under, odd = vector.signs(v_at + at, t_at + 256 * w, min(64, columns - 64 * w))
                words[r, w] = (np.uint64(above) & ~flips[w]) | (np.uint64(under) & flips[w])
                bad |= odd
        return bad != 0

    @numba.njit(cache=True)
    def _patches(
        image: np.ndarray,
        channels: int,
        high: int,
        wide: int,
        down: int,
        right: int,
        left: int,
        top: int,
        dy: int,
        dx: int,
        out_height: int,
        out_width: int,
        rows: np.ndarray,
    ) -> None:
        """image (n, height, width, words) -> rows (n · height' · width', ⌈channels · high · wide / 64⌉).

        The bits of the pixels under each place of the filter, one after the other; outside the image they are 0.
        """
        count, height, width, words = image.shape
        last = channels - 64 * (words - 1)  # bits in a pixel's last word
        at = 0
        for n in range(count):
            for y in range(out_height):
                for x in range(out_width):
                    word, used, w = np.uint64(0), 0, 0
                    for i in range(high):
                        row = y * down - top + i * dy
                        for j in range(wide):
                            column = x * right - left + j * dx
                            inside = 0 <= row < height and 0 <= column < width
                            for c in range(words):
                                bits = image[n, row, column, c] if inside else np.uint64(0)
                                more = last if c == words - 1 else 64
                                word |= bits << np.uint64(used)
                                if used + more >= 64:
                                    rows[at, w] = word
                                    w += 1
                                    word = bits >> np.uint64(64 - used) if used else np.uint64(0)
                                    used += more - 64
                                else:
                                    used += more
                    if used:
                        rows[at, w] = word
                    at += 1

    @numba.njit("void(float32[:, :, ::1], int64[::1], float32[:, ::1])", cache=True)
    def _add_border(sums: np.ndarray, places: np.ndarray, border: np.ndarray) -> None:
        """Add to each image's sums (height' · width', filters) what belongs to the places."""
        for n in range(len(sums)):
            for i, place in enumerate(places):
                for f in range(sums.shape[2]):
                    sums[n, place, f] += border[i, f]
