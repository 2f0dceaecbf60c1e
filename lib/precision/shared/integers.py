"""The integer arithmetic of a small processor: codes of 16 bits, sums of 32, shifts, and a table.

A code c stands for c / 2^f, where f, its bits of fraction, is the same in a whole layer. Arrays are (n, channels,
height, width). Rounding adds half a unit and shifts, so halves go up; what does not fit is saturated.
"""

import math
from typing import Any

import numba
import numpy as np

TANH_FRACTION = 12  # of the codes a tanh reads: 16 bits reach from -8 to 8, and tanh 8 is 1 to 6 digits
GUARD = 8  # additional bits of fraction in the table
LOW, HIGH = -(2**31), 2**31 - 1
BLOCK = 2048  # sums that are held at a time


def fraction(peak: float, bits: int) -> int:
    """The most bits of fraction with which numbers up to a peak fit a code; 30 at most.

    peak: the largest magnitude of a number, 0 or more.
    bits: of the code, including the sign.

    >>> fraction(0.99, bits=8)  # 0.99 * 2^7 is 127, the largest code
    7
    """
    highest, most = 2 ** (bits - 1) - 1, 30
    while most > -30 and round(peak * 2.0**most) > highest:
        most -= 1
    return most


def encode(values: np.ndarray, fraction: int, bits: int) -> np.ndarray:
    """The codes of real values, rounded to the nearest and saturated.

    values: any shape.
    fraction: bits of fraction of the codes.
    bits: of a code, including the sign, up to 16.

    Returns int16, in the shape of the values.

    >>> encode(np.array([0.5, -2.0]), fraction=7, bits=8)
    array([  64, -128], dtype=int16)
    """
    codes = np.floor(np.asarray(values, np.float64) * 2.0**fraction + 0.5)
    return np.clip(codes, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int16)


def convolve(
    codes: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    shift: int = 0,
    bits: int = 32,
) -> np.ndarray:
    """Convolve codes: sums of int16 x int16 in int32, shifted right and saturated.

    The caller must make sure that no sum overflows.

    codes: (n, inputs, height, width), int16.
    kernel: (outputs, inputs / groups, height, width), int16 or int8.
    bias: (outputs,) int32, in the unit of the sums.
    stride, padding, dilation: down the rows and across the columns, default (1, 1), (0, 0) and (1, 1).
    groups: parts into which the maps are split, default 1.
    shift: bits by which a sum is shifted right, rounded; a negative one is a shift to the left; default 0.
    bits: of the result, up to 16 in int16, or 32 in int32 (default).

    Returns (n, outputs, rows, columns). Raises ValueError for shapes that do not fit.
    """
    if any(padding):
        codes = np.pad(codes, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    n, channels, height, width = codes.shape
    outputs, inputs, kh, kw = kernel.shape
    if channels != inputs * groups or outputs % groups or len(bias) != outputs:
        raise ValueError(
            f"{channels} maps for a kernel of {outputs} x {inputs} in {groups} groups with {len(bias)} biases:"
            f" {inputs * groups} maps are needed"
        )
    (sy, sx), (dy, dx) = stride, dilation
    shape = n, outputs, (height - dy * (kh - 1) - 1) // sy + 1, (width - dx * (kw - 1) - 1) // sx + 1
    if min(shape[2:]) < 1:
        raise ValueError(f"maps of {height} x {width} are too small for a kernel of {kh} x {kw}")
    out = np.empty(shape, np.int16 if bits <= 16 else np.int32)
    low, high = (LOW, HIGH) if bits == 32 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    kernel = np.ascontiguousarray(kernel, np.int16)
    convolve_codes(np.ascontiguousarray(codes), kernel, bias, out, (sy, sx, dy, dx, groups), (shift, low, high))
    return out


@numba.njit(cache=True)
def convolve_codes(
    codes: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    steps: tuple[int, int, int, int, int],
    end: tuple[int, int, int],
) -> None:
    """The loops of :func:`convolve`: multiply a whole map by one weight after the other, in blocks that fit the cache.

    The map is split into sy x sx maps first, so that a strided convolution reads neighbors too. The windows at the end
    of a row run into the next row; these sums are computed like all others, and left out of the result.

    codes: (n, inputs, height, width), int16.
    kernel: (outputs, inputs / groups, height, width), int16.
    bias: (outputs,), int32.
    out: (n, outputs, rows, columns), int16 or int32, which is filled.
    steps: strides and dilations, each down and across, and the number of groups.
    end: the shift to the right, the lowest and the highest result.
    """
    sy, sx, dy, dx, groups = steps
    shift, low, high = np.int32(end[0]), np.int32(end[1]), np.int32(end[2])
    n, channels, height, width = codes.shape
    outputs, inputs, kh, kw = kernel.shape
    rows, columns, wide = out.shape[2], out.shape[3], -(-width // sx)
    dealt = np.zeros((sy * sx, channels, -(-height // sy), wide), np.int16)
    maps, last = dealt.reshape(sy * sx, channels, -1), (rows - 1) * wide + columns
    sums = np.empty(min(BLOCK, last), np.int32)
    half = np.int32(1 << (shift - 1)) if shift > 0 else np.int32(0)
    for image in range(n):
        for phase in range(sy * sx):
            part = codes[image, :, phase // sx :: sy, phase % sx :: sx]
            dealt[phase, :, : part.shape[1], : part.shape[2]] = part
        for o in range(outputs):
            first = o // (outputs // groups) * inputs
            for start in range(0, last, BLOCK):
                size = min(BLOCK, last - start)
                sums[:] = bias[o]
                # method
                for c in range(inputs):
                    for ky in range(kh):
                        for kx in range(kw):
                            weight = np.int32(kernel[o, c, ky, kx])
                            if weight != 0:
                                phase = ky * dy % sy * sx + kx * dx % sx
                                at = start + ky * dy // sy * wide + kx * dx // sx
                                values = maps[phase, first + c, at : at + size]
                                for i in range(size):
                                    sums[i] += weight * values[i]
                # end of method
                for y in range(start // wide, (start + size - 1) // wide + 1):
                    for x in range(max(0, start - y * wide), min(columns, start + size - y * wide)):
                        value = sums[y * wide + x - start]
                        if shift > 0:
                            value = np.int32(value + half) >> shift
                        elif shift < 0:
                            if value > high >> -shift:
                                value = high
                            elif value < low >> -shift:
                                value = low
                            else:
                                value = value << -shift
                        out[image, o, y, x] = min(max(value, low), high)


@numba.njit(cache=True)
def mean_pool(codes: np.ndarray) -> np.ndarray:
    """The mean of each window of 2 x 2, rounded.

    codes: (n, channels, height, width), int16; an odd last row or column is left out.

    Returns (n, channels, height // 2, width // 2), int16.
    """
    n, channels, height, width = codes.shape
    out = np.empty((n, channels, height // 2, width // 2), np.int16)
    for image in range(n):
        for c in range(channels):
            for y in range(height // 2):
                upper, lower, row = codes[image, c, 2 * y], codes[image, c, 2 * y + 1], out[image, c, y]
                for x in range(width // 2):
                    four = np.int32(upper[2 * x]) + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1]
                    row[x] = (four + 2) >> 2
    return out


def max_pool(codes: np.ndarray, *, size: int, stride: int, padding: int = 0) -> np.ndarray:
    """The largest code of each window.

    codes: (n, channels, height, width), any integers.
    size: of a window, in both directions.
    stride: distance between windows, in both directions.
    padding: pixels added on all sides, default 0; they are never the largest.

    >>> max_pool(np.arange(4).reshape(1, 1, 2, 2), size=2, stride=2)
    array([[[[3]]]])
    """
    if padding:
        edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        codes = np.pad(codes, edges, constant_values=np.iinfo(codes.dtype).min)
    windows = np.lib.stride_tricks.sliding_window_view(codes, (size, size), axis=(2, 3))
    return windows[:, :, ::stride, ::stride].max(axis=(4, 5))


def tanh_table(bits: int, entries: int = 10) -> np.ndarray:
    r"""A table of :math:`\tanh` at equal distances in [0, 8], with ``bits`` - 1 + ``GUARD`` bits of fraction.

    bits: of the codes that :func:`tanh` gives, 2 to 16.
    entries: the table has 2^entries + 1 of them, 1 to 15, default 10.

    Returns (2^entries + 1,) int32. Raises ValueError for numbers out of range.

    >>> tanh_table(bits=8, entries=2) / 2 ** (7 + GUARD)  # of 0, 2, 4, 6, 8
    array([0.        , 0.96401978, 0.99932861, 1.        , 1.        ])
    """
    if not 1 <= entries <= 15 or not 2 <= bits <= 16:
        raise ValueError(f"bits must be in 2..16 and entries in 1..15, not {bits} and {entries}")
    places = np.arange(2**entries + 1) * 2.0 ** (3 - entries)
    return np.floor(np.tanh(places) * 2.0 ** (bits - 1 + GUARD) + 0.5).astype(np.int32)


def tanh_error(bits: int, entries: int) -> float:
    r"""The most that :func:`tanh` can be wrong by.

    It is the sum of :math:`\tfrac{h^2}{8} \max|\tanh''|` between entries at distance h, half a unit for rounding, and
    the little that the guard bits leave; but at least the unit by which the result saturates below 1.

    bits: of the codes that :func:`tanh` gives.
    entries: of the table, as in :func:`tanh_table`.
    """
    unit, h = 2.0 ** (1 - bits), 2.0 ** (3 - entries) if entries < 15 else 0.0
    return max(unit, h * h / 8 * 4 / (3 * math.sqrt(3)) + unit / 2 + 2 * unit / 2**GUARD)


@numba.njit(cache=True)
def tanh(codes: np.ndarray, table: np.ndarray, shift: int, highest: int) -> np.ndarray:
    """Compute tanh of codes, by linear interpolation in a table.

    codes: any shape, int16, of ``TANH_FRACTION`` plus ``shift`` bits of fraction.
    table: of :func:`tanh_table`, for positive numbers; tanh is odd.
    shift: the codes' bits of fraction beyond ``TANH_FRACTION``; may be negative.
    highest: the largest code of the result.

    Returns int16, in the shape of the codes.
    """
    out = np.empty(codes.shape, np.int16)
    flat, result = codes.reshape(-1), out.reshape(-1)
    drop, entry = 0, len(table) - 1  # 2^15 codes share the entries
    while entry < 1 << 15:
        drop, entry = drop + 1, entry << 1
    for i in range(len(flat)):
        z: Any = np.int32(flat[i])
        if shift > 0:
            z = (z + (1 << (shift - 1))) >> shift
        elif shift < 0:
            end = (1 << 15) - 1
            z = z << -shift if abs(z) <= end >> -shift else (end if z > 0 else -end)
        size: Any = min(abs(z), (1 << 15) - 1)
        low, rest = table[size >> drop], size & ((1 << drop) - 1)
        value = low + (((table[(size >> drop) + 1] - low) * rest) >> drop)
        value = min((value + (1 << (GUARD - 1))) >> GUARD, highest)
        result[i] = -value if z < 0 else value
    return out
