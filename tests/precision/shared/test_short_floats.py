"""Short floats against the types of torch, their relative error, and the list of all numbers of a small format."""

import math

import pytest
import torch

from lib.precision.shared import short_floats


def numbers(n=200_000, seed=0):
    """Every kind of float32: random bits, so all exponents, subnormal numbers, infinities and NaN."""
    bits = torch.randint(-(2**31), 2**31, (n,), generator=torch.Generator().manual_seed(seed))
    special = torch.tensor(
        [0.0, -0.0, math.inf, -math.inf, math.nan, 65504, 65519.99, 65520, 2**-24, 2**-25, 3e-8, 1e-45]
    )
    return torch.cat([bits.to(torch.int32).view(torch.float32), special])


def same(a, b):
    """Equal bit for bit, but that every NaN is like every other."""
    nan = a.isnan()
    return torch.equal(nan, b.isnan()) and torch.equal(a[~nan].view(torch.int32), b[~nan].view(torch.int32))


@pytest.mark.parametrize(
    ("exponent", "significand", "dtype"),
    [(8, 23, torch.float32), (8, 7, torch.bfloat16), (5, 10, torch.float16), (5, 2, torch.float8_e5m2)],
)
def test_a_format_is_that_of_torch(exponent, significand, dtype):
    x = torch.cat([numbers(), torch.randn(100_000) * 1e-6, torch.randn(100_000) * 100])
    rounded = short_floats.rounded(x, exponent=exponent, significand=significand)
    assert same(rounded, x.to(dtype).to(torch.float32))


@pytest.mark.parametrize(("exponent", "significand"), [(7, 16), (6, 9), (8, 1), (4, 3), (2, 1)])
def test_normal_numbers_have_a_bounded_relative_error_and_keep_their_order(exponent, significand):
    least, top = 2.0 ** (2 - 2 ** (exponent - 1)), short_floats.largest(exponent=exponent, significand=significand)
    x = torch.linspace(math.log2(least), math.log2(top), 20_001, dtype=torch.float64).exp2().float().clamp(least, top)
    rounded = short_floats.rounded(x, exponent=exponent, significand=significand)
    assert ((rounded - x).double().abs() <= 2.0 ** -(significand + 1) * x.double()).all()
    assert (rounded.diff() >= 0).all()
    assert torch.equal(short_floats.rounded(rounded, exponent=exponent, significand=significand), rounded)
    assert torch.equal(short_floats.rounded(-x, exponent=exponent, significand=significand), -rounded)


def test_a_small_format_against_the_list_of_its_numbers():
    grid = sorted({(m / 4 if e == 0 else 1 + m / 4) * 2.0 ** (max(e, 1) - 3) for e in range(7) for m in range(4)})
    x = torch.rand(5000, generator=torch.Generator().manual_seed(0)) * short_floats.largest(exponent=3, significand=2)
    rounded = short_floats.rounded(x, exponent=3, significand=2)
    table = torch.tensor(grid)
    assert torch.equal(rounded, table[(x[:, None] - table).abs().argmin(1)])
    assert short_floats.largest(exponent=3, significand=2) == grid[-1] == 14
    halfway = torch.tensor([1.125, 1.375, 14.9, 15.0, 2**-5, 3 * 2**-5])
    expected = torch.tensor([1.0, 1.5, 14.0, math.inf, 0.0, 0.125])  # ties to even; half a step above 14 is infinity
    assert torch.equal(short_floats.rounded(halfway, exponent=3, significand=2), expected)


def test_shapes_layouts_and_the_input_are_kept():
    x = torch.randn(4, 6).T
    before = x.clone()
    assert torch.equal(short_floats.rounded(x), short_floats.rounded(x.contiguous())) and torch.equal(x, before)
    assert short_floats.rounded(torch.tensor(1.5)).shape == () and short_floats.rounded(torch.zeros(0, 3)).shape == (
        0,
        3,
    )


@pytest.mark.parametrize(("exponent", "significand"), [(1, 5), (9, 5), (5, 0), (5, 24)])
def test_widths_that_are_no_float_are_refused(exponent, significand):
    for call in (lambda **k: short_floats.rounded(torch.zeros(1), **k), short_floats.largest):
        with pytest.raises(ValueError, match=f"not {exponent} and {significand}"):
            call(exponent=exponent, significand=significand)


def test_other_types_of_number_are_refused():
    with pytest.raises(ValueError, match="float64: float32 is needed"):
        short_floats.rounded(torch.zeros(1, dtype=torch.float64))
