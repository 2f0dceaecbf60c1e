r"""Products of signs by counting bits: 64 signs in one word, exact for every shape.

A sign is one bit, 1 for +1. Two rows of K signs have the product

.. math:: a \cdot b = K - 2\, \mathrm{popcount}(a \oplus b)

(rastegari2016xnor, section 3.2), with K the true length: what fills the last word is 0 in both rows and adds nothing.
A convolution first gathers the bits under each place of the filter into one row. Beyond the border the filter sees
zeros, which are not signs. They are counted as -1, and what that added is subtracted again.

numba compiles the kernels for any processor it knows. Without numba, torch computes everything with floats, just as
exact but no faster than floats, and a warning says so once. Words are numpy's uint64, little-endian in K.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional

try:
    import numba

    from lib.binarization.shared import compiled, vector
except ImportError:
    numba = None  # type: ignore[assignment]  # the module is optional

COMPILED = numba is not None  # at import; :func:`available` says whether the compiled kernels are used
NO_NUMBER = "a value to pack is not a number (NaN): it has no sign"


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
    floats: the signs as floats, kept once they are asked for: see :func:`weight`.
    """

    shape: tuple[Any, ...]
    bits: Bits
    panels: np.ndarray
    borders: dict[tuple, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False)
    floats: list[Tensor] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Place:
    """Where the filter of a convolution lies.

    stride: down and right, in pixels; (1, 1) by default.
    border: rows and columns of zeros on the left, right, top and bottom; none by default.
    dilation: down and right, in pixels; (1, 1) by default.
    """

    stride: tuple[int, int] = (1, 1)
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def outputs(self, image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output.

        image: height and width of the input.
        size: of the filter. Raises ValueError where it is larger than the image with its border.

        >>> Place(stride=(2, 2), border=(1, 1, 1, 1)).outputs((8, 8), (3, 3))
        (4, 4)
        """
        left, right, top, bottom = self.border
        (height, width), (down, right_) = image, self.stride
        out_height = (height + top + bottom - self.dilation[0] * (size[0] - 1) - 1) // down + 1
        out_width = (width + left + right - self.dilation[1] * (size[1] - 1) - 1) // right_ + 1
        if out_height < 1 or out_width < 1:
            raise ValueError(
                f"an image of {height} x {width} with border {self.border} is smaller than the filter {size}"
            )
        return out_height, out_width

    def numbers(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """What compiled code reads: size of the filter, stride, border on the left and the top, dilation."""
        return size, self.stride, (self.border[0], self.border[2]), self.dilation


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
        raise ValueError(f"values must be rows of floats, not a {values.dim()}-d tensor of {values.dtype}")
    if thresholds is None and not (values.abs() == 1).all():
        odd = values[values.abs() != 1][0].item()
        raise ValueError(f"{odd:g} is not a sign: binarize the values first, or give thresholds")
    for name, row, dtype in (("thresholds", thresholds, torch.float32), ("below", below, torch.bool)):
        if row is not None and (row.shape != values.shape[1:] or row.dtype != dtype):
            raise ValueError(
                f"{name} has the shape {tuple(row.shape)} and the type {row.dtype}: it must be one {dtype} for each of"
                f" {values.shape[1]} columns"
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
            raise ValueError(NO_NUMBER)
        reached = values >= thresholds
        if below is not None:
            reached = torch.where(below, values <= thresholds, reached)
        bytes_ = np.packbits(reached.numpy(), axis=1, bitorder="little")
        words.view(np.uint8)[:, : bytes_.shape[1]] = bytes_
        return Bits(words, columns)
    pack_rows(values, thresholds, below, words)
    return Bits(words, columns)


def pack_rows(values: Tensor, thresholds: Tensor, below: Tensor | None, words: np.ndarray) -> None:
    """Pack rows of float32 on compiled kernels, as :func:`pack` does, into words that are given.

    values: (rows, columns), float32.
    thresholds: (columns,), float32.
    below: (columns,), bool, or None.
    words: (rows, ⌈columns / 64⌉), uint64, which are filled. Raises ValueError for NaN.
    """
    flips = np.zeros(words.shape[1], dtype=np.uint64)
    if below is not None:
        packed = np.packbits(below.numpy(), bitorder="little")
        flips.view(np.uint8)[: len(packed)] = packed
    if compiled.pack(values.detach().contiguous().numpy(), thresholds.contiguous().numpy(), flips, words):
        raise ValueError(NO_NUMBER)


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
        raise ValueError(f"the weight has {signs.dim()} dimensions: accepted are 2 (linear) and 4 (2-d convolution)")
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


def product(a: Bits, filters: Filters | Bits, *, dtype: torch.dtype = torch.int32, out: Tensor | None = None) -> Tensor:
    """The product of every row with every filter.

    a: packed rows.
    filters: arranged or packed, of the same length.
    dtype: torch.int32 (default), or torch.float32, which holds whole numbers exactly up to 2^24.
    out: (rows, filters), contiguous, of that dtype, to write to: new memory of some megabytes may take as long as the
      product. None (default): a new tensor.
    Returns (rows, filters), whole numbers, in ``out``. Raises ValueError for operands that are not packed or differ in
    length, for another dtype, and for another ``out``.

    >>> product(pack(torch.tensor([[1.0, -1.0, 1.0]])), pack(torch.tensor([[1.0, 1.0, 1.0]]))).tolist()
    [[1]]
    """
    if not isinstance(a, Bits):
        raise ValueError(f"a must be packed bits, not {_what(a)}: pack it first")
    if isinstance(filters, Bits):
        filters = panelled(filters, (len(filters.words), filters.length))
    if not isinstance(filters, Filters):
        raise ValueError(f"filters must be arranged or packed, not {_what(filters)}: arrange or pack them first")
    if a.length != filters.bits.length:
        raise ValueError(f"rows of {a.length} signs meet filters of {filters.bits.length}: they must be equally long")
    if dtype not in (torch.int32, torch.float32):
        raise ValueError(f"dtype must be torch.int32 or torch.float32, not {dtype}")
    shape = len(a.words), filters.shape[0]
    if out is None:
        out = torch.empty(shape, dtype=dtype)
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous() or out.device.type != "cpu":
        raise ValueError(
            f"out has the shape {tuple(out.shape)} and the type {out.dtype}: it must be contiguous, on the CPU, {shape}"
            f" of {dtype}"
        )
    if not available():
        wide = torch.float32 if a.length < 2**24 else torch.float64
        return out.copy_(unpack(a).to(wide) @ unpack(filters.bits).to(wide).T)
    # method
    if out.numel():
        multiply = compiled.products if dtype == torch.int32 else compiled.products_real
        multiply(a.words, filters.panels, out.numpy(), a.length)
    return out
    # end of method


def weight(filters: Filters) -> Tensor:
    """The signs of filters as floats, of the shape of the weight.

    filters: arranged.
    """
    if not filters.floats:
        signs = unpack(filters.bits)
        if len(filters.shape) == 4:
            signs = signs.reshape(filters.shape[0], *filters.shape[2:], filters.shape[1]).permute(0, 3, 1, 2)
        filters.floats.append(signs.clone(memory_format=torch.contiguous_format))
    return filters.floats[0]


def bounds(thresholds: Tensor, below: Tensor) -> tuple[Tensor, Tensor | None]:
    """Thresholds in the form that :func:`as_signs` takes: all reached from below, with signs that are then turned.

    thresholds: (channels,), float32, finite, or infinite where the sign is the same for all x.
    below: (channels,), bool: True where a value is +1 for x <= t.
    Returns bounds, (channels,), and -1 where the sign is turned, else 1; None where none is.

    >>> bounds(torch.zeros(2), torch.tensor([False, True]))[1].tolist()
    [1.0, -1.0]
    """
    if not below.any():
        return thresholds, None
    after = torch.nextafter(thresholds, torch.tensor(torch.inf))  # x <= t where x does not reach the float after t
    return torch.where(below, after, thresholds), torch.where(below, -1.0, 1.0)


def as_signs(x: Tensor, bounds: Tensor, turned: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """+1 where a value reaches its bound, else -1, as floats.

    x: float32, any shape.
    bounds: float32, one for each place of the axis.
    turned: -1 where the sign is turned, else 1; None (default): nowhere.
    axis: 1 (default) or -1. Raises ValueError for NaN.

    >>> as_signs(torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([1.0, 1.5, 1.5])).tolist()
    [[1.0, -1.0, 1.0]]
    """
    if not x.sum().isfinite() and x.isnan().any():  # the sum alone is twenty times as fast
        raise ValueError(NO_NUMBER)
    shape = (-1, *[1] * (x.dim() - 2)) if axis == 1 else (-1,)
    signs = torch.ge(x, bounds.reshape(shape), out=torch.empty_like(x)).mul_(2).sub_(1)
    return signs if turned is None else signs.mul_(turned.reshape(shape))


def linear_of_floats(x: Tensor, filters: Filters, bounds: Tensor, turned: Tensor | None = None) -> Tensor:
    """What :func:`linear` gives, with signs that torch multiplies as floats: as exact, and faster for small layers.

    x: (..., inputs), float32.
    filters: arranged, (filters, inputs).
    bounds: (inputs,), float32, as :func:`bounds` gives them.
    turned: (inputs,), float32, or None (default).
    """
    return functional.linear(as_signs(x, bounds, turned, axis=-1), weight(filters))


def convolution_of_floats(
    x: Tensor, filters: Filters, bounds: Tensor, turned: Tensor | None = None, *, place: Place, groups: int = 1
) -> Tensor:
    """What :func:`convolution` gives, with signs that torch multiplies as floats.

    x: (n, channels, height, width), float32.
    filters: arranged, (filters, channels of a group, height, width).
    bounds: (channels,), float32, as :func:`bounds` gives them.
    turned: (channels,), float32, or None (default).
    place: where the filter lies.
    groups: of channels and filters; 1 by default.
    Returns (n, filters, height', width'), float32, in the memory that torch chooses.
    """
    signs = as_signs(x, bounds, turned)
    left, right, top, bottom = place.border
    padding = top, left
    if (left, top) != (right, bottom):
        signs, padding = functional.pad(signs, place.border), (0, 0)
    if x.shape[1] == 1:  # on some processors torch's kernels for one channel are wrong in channels last
        signs = signs.to(memory_format=torch.contiguous_format)
    sums = functional.conv2d(signs, weight(filters), None, place.stride, padding, place.dilation, groups)
    return sums.to(memory_format=torch.contiguous_format) if filters.shape[0] == 1 else sums


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
            " the same number of channels"
        )
    count, channels, height, width = x.shape
    place = Place(stride, border, dilation)
    place.outputs((height, width), filters.shape[2:])  # before anything is packed
    pixels = x.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    bits = pack(pixels, thresholds, below)
    if available():
        total = sums(bits.words.reshape(count, height, width, bits.words.shape[1]), filters, place)
    else:
        signs = unpack(bits).reshape(count, height, width, channels).permute(0, 3, 1, 2)
        signs = signs.to(memory_format=torch.contiguous_format)
        total = functional.conv2d(functional.pad(signs, border), weight(filters), None, stride, 0, dilation)
    # On some processors torch's convolution of one channel is wrong for channels last: what reads it gets plain memory.
    return total.to(memory_format=torch.contiguous_format if filters.shape[0] == 1 else torch.channels_last)


def sums(image: np.ndarray, filters: Filters, place: Place) -> Tensor:
    """Sums of a convolution of bits, on compiled kernels.

    image: (n, height, width, ⌈channels / 64⌉), uint64: the bits of each pixel.
    filters: arranged, (filters, channels, height, width).
    place: where the filter lies.
    Returns (n, filters, height', width'), float32, channels last. Raises ValueError for an image smaller than the
    filter.
    """
    count, size, channels = len(image), filters.shape[2:], filters.shape[1]
    out_size = place.outputs(image.shape[1:3], size)
    out = torch.empty(count * math.prod(out_size), filters.shape[0])
    if out.numel():
        length = filters.bits.length
        compiled.convolve(image, channels, place.numbers(size), out_size, filters.panels, out.numpy(), length)
    out = out.reshape(count, math.prod(out_size), filters.shape[0])
    if any(place.border):
        compiled.add_border(out.numpy(), *border_sums(filters, image.shape[1:3], place))
    return out.reshape(count, *out_size, filters.shape[0]).permute(0, 3, 1, 2)


def _what(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def border_sums(filters: Filters, image: tuple[int, int], place: Place) -> tuple[np.ndarray, np.ndarray]:
    """What to add to sums that read a border of zeros as -1.

    filters: arranged, (filters, channels, height, width).
    image: height and width of the input.
    place: where the filter lies.
    Returns the places (p,) of the output that reach beyond the border, and what to add there, (p, filters).
    """
    key = (image, place)
    if key not in filters.borders:
        signs = unpack(filters.bits).reshape(filters.shape[0], *filters.shape[2:], filters.shape[1]).sum(-1)
        outside = functional.pad(torch.zeros(1, 1, *image), place.border, value=1.0)
        # In float64 torch's convolution is exact on every processor.
        added = functional.conv2d(outside.double(), signs[:, None].double(), None, place.stride, 0, place.dilation)
        added = added[0].flatten(1).T.float().contiguous()
        places = added.any(1).nonzero().flatten()
        filters.borders[key] = places.numpy(), added[places].numpy()
    return filters.borders[key]


@dataclass(frozen=True)
class LayerShape:
    """Everything that the time of a layer depends on.

    x: shape of its input, (n, inputs) or (n, channels, height, width).
    filters: shape of its weight, (filters, inputs) or (filters, channels of a group, height, width).
    place: where the filter lies; by default as in a linear layer.
    groups: of channels and filters; 1 by default. On bits they come one after the other.
    """

    x: tuple[int, ...]
    filters: tuple[int, ...]
    place: Place = Place()
    groups: int = 1

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """What the layer has to do, on bits and with floats.

        Of bits: calls, values and words to pack, words to gather, words to count, outputs. Of floats: the call, values,
        weights, products (of channels and filters in blocks of 16, as processors take them), outputs.
        """
        groups, (filters, channels), size = self.groups, self.filters[:2], self.filters[2:]
        pixels, area = self.x[0] * math.prod(self.x[2:]), math.prod(size)
        rows = self.x[0]
        if size:
            rows *= math.prod(self.place.outputs((self.x[2], self.x[3]), (size[0], size[1])))
        words, blocks = -(-channels // 64), -(-filters // groups // 16)
        counted = rows * -(-channels * area // 64) * blocks
        bits = [1, pixels * channels, pixels * words, rows * area * words, counted, rows * filters // groups]
        # With groups torch has kernels that leave no block half empty.
        products = rows * area * (-(-channels // 16) * blocks if groups == 1 else channels * filters / 256)
        floats = [1, groups * pixels * channels, filters * channels * area, products, rows * filters]
        return groups * np.array(bits, float), np.array(floats, float)


@dataclass(frozen=True)
class Crossover:
    """A model of which layers are faster on bits: it prices a few counts at so many nanoseconds each.

    bits: for a linear layer and for a convolution, nanoseconds for each of :meth:`LayerShape.counts`, on bits.
    floats: the same with signs that torch multiplies as floats.
    """

    bits: tuple[np.ndarray, np.ndarray]
    floats: tuple[np.ndarray, np.ndarray]

    def ratio(self, shape: LayerShape) -> float:
        """How many times as fast a layer is on bits.

        shape: of the layer and its input.
        """
        kind, (bits, floats) = int(len(shape.filters) == 4), shape.counts()
        return float(floats @ self.floats[kind]) / float(bits @ self.bits[kind])


FITTED = [  # the layers on which the model is fitted
    *(
        LayerShape((rows, inputs), (filters, inputs))
        for rows, inputs, filters in (
            *((1, 784, 10), (1, 64, 10), (1, 256, 256), (1, 2048, 1024), (1, 4096, 16), (8, 1024, 64), (64, 784, 10)),
            *((64, 800, 500), (16, 1024, 1024), (256, 128, 128), (512, 64, 16), (256, 512, 8)),
        )
    ),
    *(
        LayerShape((n, channels, side, side), (filters, channels, size, size), Place(border=(size // 2,) * 4))
        for n, channels, side, filters, size in (
            *((1, 8, 28, 8, 3), (1, 16, 8, 16, 3), (16, 16, 8, 16, 3), (1, 64, 14, 64, 3), (1, 128, 14, 128, 3)),
            *((4, 32, 16, 32, 3), (1, 128, 8, 256, 1), (4, 20, 12, 50, 5), (1, 64, 28, 16, 1), (1, 3, 32, 64, 3)),
            *((1, 512, 4, 64, 3), (2, 130, 9, 10, 3), (8, 16, 16, 4, 3), (1, 256, 4, 256, 1)),
        )
    ),
]
CLEAR = 2.5  # a predicted ratio beyond this, either way, is trusted; nearer to 1 the layer itself is timed


def crossover() -> Crossover:
    """Measure from which size on a layer is faster on bits, once for each number of threads; it takes a second or less.

    >>> large, small = LayerShape((64, 4096), (4096, 4096)), LayerShape((1, 16), (4, 16))
    >>> crossover().ratio(large) > crossover().ratio(small)
    True
    """
    return _measured(torch.get_num_threads())


def bits_win(shape: LayerShape) -> bool:
    """Whether a layer is faster on bits than with signs that torch multiplies; the answer is kept for the process.

    :func:`crossover` decides where it is clear. Where the two are close, both are timed on a layer of this shape.

    shape: of the layer and its input.
    """
    return _bits_win(torch.get_num_threads(), shape)


@lru_cache(maxsize=10_000)
def _bits_win(threads: int, shape: LayerShape) -> bool:
    ratio = _measured(threads).ratio(shape)
    if 1 / CLEAR < ratio < CLEAR:
        bits, floats = _both(shape)
        return bits < floats
    return ratio > 1


@cache
def _measured(threads: int) -> Crossover:
    models: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for dimensions in (2, 4):
        shapes = [shape for shape in FITTED if len(shape.filters) == dimensions]
        measured = [_both(shape) for shape in shapes]
        for way in (0, 1):
            counts = np.array([shape.counts()[way] for shape in shapes])
            times = np.array([time[way] for time in measured])
            # Relative errors count: a small layer decides as much as a large one.
            models[way].append(nnls(counts / times[:, None], np.ones(len(times)))[0])
    return Crossover((models[0][0], models[0][1]), (models[1][0], models[1][1]))


@torch.inference_mode()
def _both(shape: LayerShape, runs: int = 8) -> tuple[float, float]:
    """Nanoseconds of a layer on bits and with floats: the least of some runs, since other programs only add time."""
    draw, place, groups = torch.Generator().manual_seed(0), shape.place, shape.groups
    x, weights = (torch.randn(*each, generator=draw) for each in (shape.x, shape.filters))
    whole, *parts = (arrange(torch.where(w >= 0, 1.0, -1.0)) for w in (weights, *weights.chunk(groups)))
    zeros = torch.zeros(x.shape[1])
    ways: list[Callable[[], object]] = [
        lambda: linear(x, whole, zeros),
        lambda: linear_of_floats(x, whole, zeros),
    ]
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        options: Any = {"stride": place.stride, "border": place.border, "dilation": place.dilation}
        some = zeros.chunk(groups)
        ways = [
            lambda: [convolution(*each, **options) for each in zip(x.chunk(groups, 1), parts, some, strict=True)],
            lambda: convolution_of_floats(x, whole, zeros, place=place, groups=groups),
        ]
    best = [math.inf, math.inf]
    for _ in range(runs):
        for way, call in enumerate(ways):
            start = time.perf_counter_ns()
            call()
            best[way] = min(best[way], time.perf_counter_ns() - start)
    return best[0], best[1]
