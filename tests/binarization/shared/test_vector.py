"""Vector instructions against Python's whole numbers."""

import numba
import numpy as np
import pytest

from lib.binarization.shared import vector

NAN = float("nan")


@numba.njit("int64(int64, int64)")
def popcounts(turns, seed):
    return vector.popcounts(turns, seed)


@numba.njit("float64(int64, int64)")
def multiply_adds(turns, seed):
    return vector.multiply_adds(turns, seed)


_whole, _real = vector.tile(4, False), vector.tile(3, True)


@numba.njit("void(uint64[:, ::1], uint64[:, ::1], int32[:, ::1], int64)")
def whole_tile(a, b, out, length):
    _whole(a.ctypes.data, a.shape[1], b.ctypes.data, out.ctypes.data, out.shape[1], length)


@numba.njit("void(uint64[:, ::1], uint64[:, ::1], float32[:, ::1], int64)")
def real_tile(a, b, out, length):
    _real(a.ctypes.data, a.shape[1], b.ctypes.data, out.ctypes.data, out.shape[1], length)


@numba.njit("UniTuple(int64, 3)(float32[::1], float32[::1], int64)")
def signs(values, thresholds, count):
    return vector.signs(values.ctypes.data, thresholds.ctypes.data, count)


@pytest.mark.parametrize("turns", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("seed", [1, 12345, 2**60 + 7])
def test_counts_in_registers_are_those_of_python(turns, seed):
    total = 0
    for chain in range(vector.CHAINS):  # the first lane of each
        other = seed * (16 * chain + 3) % 2**64
        total ^= sum((turn ^ other).bit_count() for turn in range(turns))
    assert popcounts(turns, seed) == total


@pytest.mark.parametrize("turns", [0, 1, 2, 7, 100])
def test_fused_multiply_adds_are_those_by_hand(turns):
    assert multiply_adds(turns, 1) == turns * vector.CHAINS
    assert multiply_adds(turns, 0) == 0
    assert multiply_adds(min(turns, 7), 2) == (2 ** (min(turns, 7) + 1) - 2) * vector.CHAINS  # x <- 2 x + 2


@pytest.mark.parametrize("words", [0, 1, 2, 9])
@pytest.mark.parametrize(("tile", "rows", "dtype"), [(whole_tile, 4, np.int32), (real_tile, 3, np.float32)])
def test_a_tile_writes_its_rows_and_nothing_else(tile, rows, dtype, words):
    random = np.random.default_rng(words)
    a, b = (random.integers(0, 2**64, shape, dtype=np.uint64) for shape in ((rows, words), (words, vector.LANES)))
    out = np.full((rows + 1, 20), 7, dtype=dtype)
    tile(a, b, out, 64 * words + 5)
    expected = np.full_like(out, 7)
    counts = np.bitwise_count(a[:, :, None] ^ b[None]).sum(1, dtype=np.int64)
    expected[:rows, : vector.LANES] = 64 * words + 5 - 2 * counts
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 63, 64])
def test_64_comparisons_are_three_words_and_read_no_further(count):
    random = np.random.default_rng(count)
    values, thresholds = random.integers(-2, 3, (2, 64)).astype(np.float32)
    values[::9] = NAN
    values[count:] = NAN  # not to be read
    found = [each % 2**64 for each in signs(values, thresholds, count)]
    read, t = values[:count], thresholds[:count]
    for word, expected in zip(found, (read >= t, read <= t, np.isnan(read)), strict=True):
        assert word == sum(1 << int(place) for place in np.flatnonzero(expected))
