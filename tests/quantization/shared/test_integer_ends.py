"""Real numbers to the integers of a grid, and back."""

import pytest
import torch

from lib.quantization.shared.grids import grid
from lib.quantization.shared.integer_ends import Dequantize, Integers, Quantize


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_numbers_become_integers_and_come_back(bits):
    chosen, r = grid(-1.0, 2.0, bits=bits), torch.linspace(-2, 3, 100)
    q = Quantize(chosen)(r)
    assert q.dtype == torch.int32 and torch.equal(q.long(), chosen.quantize(r))
    assert torch.equal(Dequantize(chosen)(q), chosen.dequantize(q))
    assert Dequantize(chosen, torch.float64)(q).dtype == torch.float64
    with pytest.raises(ValueError, match="the images hold NaN"):
        Quantize(chosen)(torch.tensor([torch.nan]))


@pytest.mark.parametrize("rounding", ["twice", "once"])
def test_a_state_brings_grid_and_rounding(rounding):
    first, other = Integers(grid(-1.0, 2.0, bits=4), rounding=rounding), Integers(grid(0.0, 9.0))
    other.load_state_dict(first.state_dict())
    assert (other.low, other.high, other.z3) == (-8, 7, first.z3) and bool(other.once) == (rounding == "once")
    factor = torch.tensor(2**30), torch.tensor(-1)  # a fourth
    assert torch.equal(other.brought(torch.arange(-90, 90), factor), first.brought(torch.arange(-90, 90), factor))
