"""The loops of the kernels, compiled by numba for the processor at hand; importing it without numba fails."""

from collections.abc import Callable

import numba
import numpy as np

from lib.binarization.shared import vector

BLOCK = 128  # rows that are multiplied with all filters before the next are read
ROWS, LANES = vector.ROWS, vector.LANES
_tile, _row = vector.tile(ROWS, False), vector.tile(1, False)
_tile_real, _row_real = vector.tile(ROWS, True), vector.tile(1, True)


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
products = numba.njit(_shape.format("int32"), cache=True)(_multiplier(_tile, _row))
products_real = numba.njit(_shape.format("float32"), cache=True)(_multiplier(_tile_real, _row_real))


@numba.njit("boolean(float32[:, ::1], float32[::1], uint64[::1], uint64[:, ::1])", cache=True)
def pack(values: np.ndarray, thresholds: np.ndarray, flips: np.ndarray, words: np.ndarray) -> bool:
    """Write the bits of values against thresholds to words; returns whether a value was NaN."""
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
def gather(
    image: np.ndarray, channels: int, place: tuple, out_size: tuple[int, int], first: int, rows: np.ndarray
) -> None:
    """image (n, height, width, words) -> rows (some of n · height' · width' from ``first`` on, words of a filter).

    The bits of the pixels under each place of the filter, one after the other; outside the image they are 0.
    """
    _, height, width, words = image.shape
    (high, wide), (down, right), (left, top), (dy, dx) = place
    out_height, out_width = out_size
    last = channels - 64 * (words - 1)  # bits in a pixel's last word
    n, rest = divmod(first, out_height * out_width)
    y, x = divmod(rest, out_width)
    for at in range(len(rows)):
        word, used, w = np.uint64(0), 0, 0
        for i in range(high):
            row = y * down - top + i * dy
            for j in range(wide):
                column = x * right - left + j * dx
                inside = 0 <= row < height and 0 <= column < width
                if last == 64:  # whole words are copied, with no shift that waits for the one before
                    for c in range(words):
                        rows[at, w + c] = image[n, row, column, c] if inside else np.uint64(0)
                    w += words
                    continue
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
        x += 1
        if x == out_width:
            x, y = 0, y + 1
            if y == out_height:
                y, n = 0, n + 1


@numba.njit(cache=True)
def convolve(
    image: np.ndarray,
    channels: int,
    place: tuple,
    out_size: tuple[int, int],
    panels: np.ndarray,
    out: np.ndarray,
    length: int,
) -> None:
    """The sums of all places, out (n · height' · width', filters); rows are gathered a block at a time."""
    rows = np.empty((min(BLOCK, len(out)), panels.shape[1]), np.uint64)
    for first in range(0, len(out), BLOCK):
        some = rows[: min(BLOCK, len(out) - first)]
        gather(image, channels, place, out_size, first, some)
        products_real(some, panels, out[first : first + BLOCK], length)


@numba.njit("void(float32[:, :, ::1], int64[::1], float32[:, ::1])", cache=True)
def add_border(sums: np.ndarray, places: np.ndarray, border: np.ndarray) -> None:
    """Add to each image's sums (height' · width', filters) the values of ``border`` at these places."""
    for n in range(len(sums)):
        for i, place in enumerate(places):
            for f in range(sums.shape[2]):
                sums[n, place, f] += border[i, f]


_bit_tile, _bit_row = vector.bit_tile(ROWS), vector.bit_tile(1)


@numba.njit(cache=True)
def bits(
    image: np.ndarray,
    channels: int,
    place: tuple,
    out_size: tuple[int, int],
    panels: np.ndarray,
    limits: np.ndarray,
    flips: np.ndarray,
    kinds: np.ndarray,
    out: np.ndarray,
) -> None:
    """The bits of all places, out (n · height' · width', 4 · words), uint16: a block of rows meets all panels.

    limits and flips (kinds of places, ...) decide about counts; kinds (height' · width',) are those of the places.
    """
    words, lanes, step = panels.shape[1], limits.shape[1], out.shape[1]
    rows, of_rows = np.empty((min(BLOCK, len(out)), words), np.uint64), np.empty(BLOCK, np.int64)
    b_at, limits_at, flips_at = panels.ctypes.data, limits.ctypes.data, flips.ctypes.data
    a_at, kinds_at, out_at = rows.ctypes.data, of_rows.ctypes.data, out.ctypes.data
    for first in range(0, len(out), BLOCK):
        count = min(BLOCK, len(out) - first)
        gather(image, channels, place, out_size, first, rows[:count])
        at_place = first % len(kinds)
        for i in range(count):
            of_rows[i] = kinds[at_place]
            at_place = at_place + 1 if at_place + 1 < len(kinds) else 0
        for panel in range(len(panels)):
            b, limit, flip = b_at + panel * words * LANES * 8, limits_at + panel * LANES * 8, flips_at + panel * 2
            i = 0
            while i + ROWS <= count:
                a, kind, at = a_at + i * words * 8, kinds_at + i * 8, out_at + ((first + i) * step + panel) * 2
                _bit_tile(a, words, b, limit, flip, lanes, kind, at, step)
                i += ROWS
            while i < count:
                a, kind, at = a_at + i * words * 8, kinds_at + i * 8, out_at + ((first + i) * step + panel) * 2
                _bit_row(a, words, b, limit, flip, lanes, kind, at, step)
                i += 1


@numba.njit(cache=True)
def pool(
    image: np.ndarray, size: tuple, stride: tuple, border: tuple, dilation: tuple, last: np.ndarray, out: np.ndarray
) -> None:
    """OR of the words under each place of the window, changed by those of ``last`` (height' · width' or 1, words).

    image (n, height, width, words) -> out (n, height', width', words); the window is clipped to the image.
    """
    count, height, width, words = image.shape
    for n in range(count):
        for y in range(out.shape[1]):
            line = out[n, y]
            line[:] = 0
            for i in range(size[0]):
                row = y * stride[0] - border[0] + i * dilation[0]
                if not 0 <= row < height:
                    continue
                for j in range(size[1]):
                    begin = j * dilation[1] - border[1]  # the column under place 0
                    low = max(0, -(begin // stride[1]))
                    for x in range(low, min(len(line), (width - 1 - begin) // stride[1] + 1)):
                        for w in range(words):
                            line[x, w] |= image[n, row, begin + x * stride[1], w]
            for x in range(len(line)):
                at = y * len(line) + x if len(last) > 1 else 0
                for w in range(words):
                    line[x, w] ^= last[at, w]


@numba.njit("boolean(float32[:, :, ::1], float32[::1], boolean[::1], uint64[:, :, ::1])", cache=True)
def pack_planes(values: np.ndarray, thresholds: np.ndarray, below: np.ndarray, words: np.ndarray) -> bool:
    """Write the bits of values (n, channels, pixels) to words (n, pixels, words); returns whether a value was NaN."""
    count, channels, pixels = values.shape
    plane, bad = np.empty(pixels, np.uint64), np.zeros(pixels, np.uint64)  # side by side, so that they fill vectors
    for n in range(count):
        for w in range(words.shape[2]):
            plane[:] = 0
            for c in range(64 * w, min(channels, 64 * w + 64)):
                row, t, bit = values[n, c], thresholds[c], np.uint64(1) << np.uint64(c & 63)
                if below[c]:
                    for p in range(pixels):
                        plane[p] |= bit if row[p] <= t else np.uint64(0)
                        bad[p] |= np.uint64(row[p] != row[p])
                else:
                    for p in range(pixels):
                        plane[p] |= bit if row[p] >= t else np.uint64(0)
                        bad[p] |= np.uint64(row[p] != row[p])
            words[n, :, w] = plane
    return bool(bad.any())
