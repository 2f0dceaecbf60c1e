"""Integer arithmetic against Python's integers and exact float64, and tanh against its bound."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from lib.precision.shared import integers


def codes(shape, *, bits=16, seed=0):
    return np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int16)


def settled(value, shift, bits):
    """What is kept of a sum, in Python's integers, which have no end."""
    if shift > 0:
        value = (value + 2 ** (shift - 1)) // 2**shift
    else:
        value *= 2**-shift
    return min(max(value, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def by_hand(x, kernel, bias, *, stride, padding, dilation, groups, shift, bits):
    """The convolution in Python's integers, one product after the other."""
    n, _, height, width = x.shape
    outputs, inputs, kh, kw = kernel.shape
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, outputs, rows, columns), np.int64)
    for i, o, y, x_ in product(*map(range, out.shape)):
        total = int(bias[o])
        for c, ky, kx in product(range(inputs), range(kh), range(kw)):
            row = y * stride[0] + ky * dilation[0] - padding[0]
            column = x_ * stride[1] + kx * dilation[1] - padding[1]
            if 0 <= row < height and 0 <= column < width:
                total += int(kernel[o, c, ky, kx]) * int(x[i, o // (outputs // groups) * inputs + c, row, column])
        assert -(2**31) <= total < 2**31
        out[i, o, y, x_] = settled(total, shift, bits)
    return out


@pytest.mark.parametrize("shift", [-3, 0, 1, 9])
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 1, 6, 7), (3, 1, 3, 3), {}),
        ((1, 4, 5, 5), (2, 4, 2, 3), {"padding": (1, 2)}),
        ((1, 4, 8, 9), (8, 1, 3, 3), {"groups": 4, "stride": (2, 2)}),
        ((1, 4, 9, 8), (6, 2, 2, 2), {"groups": 2, "stride": (3, 1), "dilation": (2, 3)}),
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ],
)
def test_the_convolution_is_that_of_python_integers(shape, kernel, options, shift):
    x, k = codes(shape), codes(kernel, bits=11, seed=1)
    bias = np.array([(-1) ** i * 1000 * i for i in range(kernel[0])], np.int32)
    full = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | options
    for bits in (8, 16):
        result = integers.convolve(x, k, bias, shift=shift, bits=bits, **options)
        assert result.dtype == np.int16
        np.testing.assert_array_equal(result, by_hand(x, k, bias, shift=shift, bits=bits, **full))
    if shift == 0:
        sums = integers.convolve(x, k, bias, **options)
        assert sums.dtype == np.int32
        np.testing.assert_array_equal(sums, by_hand(x, k, bias, shift=0, bits=32, **full))


def test_maps_larger_than_a_block_are_exact():
    x, k = codes((1, 2, 70, 90)), codes((3, 2, 5, 5), bits=9, seed=1)
    exact = nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(k).double())  # below 2^53
    np.testing.assert_array_equal(integers.convolve(x, k, np.zeros(3, np.int32)), exact.long().numpy())


def test_shapes_that_do_not_fit_are_refused():
    k, bias = codes((2, 3, 3, 3)), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="4 maps for a kernel of 2 x 3 in 1 groups with 2 biases: 3 maps are needed"):
        integers.convolve(codes((1, 4, 5, 5)), k, bias)
    with pytest.raises(ValueError, match="maps of 2 x 5 are too small for a kernel of 3 x 3"):
        integers.convolve(codes((1, 3, 2, 5)), k, bias)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
@pytest.mark.parametrize("entries", [4, 7, 10])
def test_the_table_of_tanh_keeps_its_bound(bits, entries):
    codes_read = np.arange(-(2**15), 2**15).astype(np.int16)
    table, highest = integers.tanh_table(bits, entries), 2 ** (bits - 1) - 1
    assert len(table) == 2**entries + 1
    result = integers.tanh(codes_read, table, 0, highest)
    exact = np.tanh(codes_read / 2.0**integers.TANH_FRACTION)
    error = np.abs(result / 2.0 ** (bits - 1) - exact)
    inside = np.abs(exact) <= 1 - 2.0**-bits  # beyond, the result is the largest code
    h = 2.0 ** (3 - entries)
    bound = 2.0**-bits * (1 + 4 / 2**integers.GUARD) + h * h / 8 * 4 / (3 * math.sqrt(3))
    assert error[inside].max() <= bound <= integers.tanh_error(bits, entries)
    assert error.max() <= integers.tanh_error(bits, entries)
    np.testing.assert_array_equal(result[1:], -result[1:][::-1])  # odd
    assert (np.diff(result.astype(int)) >= 0).all()


def test_tanh_reads_codes_of_other_fractions():
    table = integers.tanh_table(16)
    codes_read = np.arange(-(2**15), 2**15, 7).astype(np.int16)
    for fraction in (17, 14, 11, 6, -4):
        shift = fraction - integers.TANH_FRACTION
        result = integers.tanh(codes_read, table, shift, 2**15 - 1) / 2.0**15
        rounding = 2.0**-13 if shift > 0 else 0
        assert np.abs(result - np.tanh(codes_read / 2.0**fraction)).max() <= rounding + integers.tanh_error(16, 10)


def test_pooling_is_that_of_integers():
    x = codes((2, 3, 5, 7))
    exact = x[:, :, :4, :6].astype(np.int64).reshape(2, 3, 2, 2, 3, 2).sum((3, 5))
    np.testing.assert_array_equal(integers.mean_pool(x), (exact + 2) // 4)
    for size, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1)):
        result = integers.max_pool(x, size=size, stride=stride, padding=padding)
        expected = nn.functional.max_pool2d(torch.from_numpy(x).double(), size, stride, padding)
        np.testing.assert_array_equal(result, expected.long().numpy())


@pytest.mark.parametrize(
    ("peak", "bits", "expected"), [(1, 16, 14), (0.99, 8, 7), (0.9999, 8, 6), (7.9, 16, 12), (0, 8, 30)]
)
def test_a_fraction_leaves_room_for_the_peak(peak, bits, expected):
    assert integers.fraction(peak, bits) == expected


def test_codes_are_rounded_up_at_a_half_and_saturated():
    values = np.array([0.5, 0.25, -0.25, 3.0, -3.0])
    assert integers.encode(values, 1, 3).tolist() == [1, 1, 0, 3, -4]
