"""Affine grids against their definition, their gradient, and torch's grids."""

import math

import numpy as np
import pytest
import torch

from lib.quantization.shared.grids import grid

RANGES = [(-1.0, 1.0), (-0.3, 2.7), (0.0, 6.0), (-5.0, 0.0), (0.5, 2.0), (-3.0, -1.0), (-1e-6, 3e-7), (0.0, 1e30)]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("bits", "symmetric"),  # a symmetric grid of one bit would have one number
    [(1, False), *((bits, symmetric) for bits in (2, 3, 8, 16) for symmetric in (False, True))],
)
@pytest.mark.parametrize(("a", "b"), RANGES)
def test_a_value_in_the_range_is_at_most_half_a_step_away(a, b, bits, symmetric):
    chosen = grid(a, b, bits=bits, symmetric=symmetric)
    r = torch.linspace(min(a, 0), max(b, 0), 1001)
    distance = (r - chosen.dequantize(chosen.quantize(r))).abs().max()
    assert distance <= 0.5001 * chosen.scale + 1e-6 * r.abs().max()
    assert chosen.high - chosen.low == 2**bits - (2 if symmetric else 1)


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 24, 31, 32])
@pytest.mark.parametrize(("a", "b"), RANGES)
def test_zero_is_on_the_grid(a, b, bits):
    for symmetric in (False, True)[: 1 + (bits > 1)]:
        chosen = grid(a, b, bits=bits, symmetric=symmetric)
        assert chosen.low <= chosen.zero <= chosen.high
        assert chosen.dequantize(chosen.quantize(torch.zeros(1))).item() == 0
        assert not symmetric or chosen.zero == 0


@pytest.mark.parametrize(("a", "b"), RANGES)
def test_each_code_comes_back(a, b):
    chosen = grid(a, b)
    codes = torch.arange(-128, 128)
    assert torch.equal(chosen.quantize(chosen.dequantize(codes)), codes)


@pytest.mark.parametrize(("a", "b"), RANGES[:4])
def test_scale_and_zero_are_the_formulas(a, b):
    chosen = grid(a, b)
    assert math.isclose(chosen.scale, (b - a) / 255, rel_tol=1e-6)
    assert abs(chosen.zero - min(127, max(-128, -128 - a / ((b - a) / 255)))) <= 0.5001
    assert math.isclose(grid(a, b, symmetric=True).scale, max(-a, b) / 127, rel_tol=1e-6)


def test_numbers_outside_are_clipped_and_ties_go_to_even():
    chosen = grid(-2, 1.984375, bits=8)  # S = 1 / 64
    assert chosen.quantize(torch.tensor([-9.0, 9.0])).tolist() == [-128, 127]
    ties = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]) / 64
    assert (chosen.quantize(ties) - chosen.zero).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize("bits", [24, 28, 32])
def test_wide_grids_lose_no_more_than_float32_does(bits):
    r, chosen = rand(1000).clamp(-5, 4), grid(-5.0, 4.0, bits=bits)
    assert ((chosen.dequantize(chosen.quantize(r)) - r).abs() <= chosen.scale / 2 + 1.2e-7 * r.abs()).all()


def test_a_range_of_no_width_has_scale_one():
    for symmetric in (False, True):
        assert grid(0.0, 0.0, symmetric=symmetric).scale == 1
    assert grid(torch.zeros(2), torch.tensor([0.0, 255.0])).scale.tolist() == [1, 1]


def test_grids_of_torch_are_the_same():
    x = rand(10_000)
    for a, b in ((-2.0, 3.0), (-0.1, 5.0)):
        chosen = grid(a, b)
        one = torch.fake_quantize_per_tensor_affine(x, chosen.scale.item(), chosen.zero.item(), -128, 127)
        assert ((chosen.fake(x) - one).abs() > 1e-6).sum() <= 2  # torch multiplies by 1 / S: a tie may fall otherwise


@pytest.mark.parametrize("bits", [0, -1, 33, 2.0, True, "8", None, np.float64(8), np.bool_(True)])
def test_bits_outside_1_to_32_are_refused(bits):
    whole = ": a whole number is needed" if type(bits) is not int else ""
    with pytest.raises(ValueError, match=f"^bits must be in 1..32, not {bits}{whole}$"):
        grid(-1.0, 1.0, bits=bits)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8])
def test_bits_may_be_integers_of_numpy(kind):
    ours, numpys = (grid(-1.0, 3.0, bits=bits) for bits in (8, kind(8)))
    assert (ours.scale, ours.zero, ours.low, ours.high) == (numpys.scale, numpys.zero, numpys.low, numpys.high)
    assert type(numpys.low) is int


def test_wrong_ranges_are_refused():
    for a, b in ((1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="must have finite ends, in order"):
            grid(a, b)
    with pytest.raises(ValueError, match=r"2..32, not 1"):
        grid(-1.0, 1.0, bits=1, symmetric=True)


@pytest.mark.parametrize("bits", range(2, 17))
def test_the_values_that_set_a_range_keep_their_gradient(bits):
    """S is rounded to float32, and both ends of the range must not fall out of it."""
    values = (rand(2000, 30, seed=bits) * torch.logspace(-6, 6, 2000)[:, None]).requires_grad_()
    ends = [end(values.detach(), dim=1, keepdim=True) for end in (torch.amin, torch.amax)]
    grid(*ends, bits=bits, symmetric=True).fake(values).sum().backward()
    assert (values.grad == 1).all()
