"""What a survivor costs: the equation by hand, and the bytes that the real code saves when one is taken away."""

import math

import numpy as np
import pytest
import torch

from lib.coding import context
from lib.quantization.shared.rate import ANSWERS, VALUE_BITS, survivor_bits


def coded(mask: torch.Tensor, width: int) -> int:
    return len(context.context_code(mask.long().flatten().numpy(), rows=len(mask), width=width))


def planted(rows: int = 60, side: int = 28) -> torch.Tensor:
    """Units that read one patch each, and as many survivors that lie anywhere."""
    random, mask = np.random.default_rng(0), torch.zeros(rows, side, side)
    for image in mask:
        y, x = random.integers(0, side - 6, 2)
        image[y : y + 6, x : x + 5] = 1
    scattered = torch.from_numpy(random.random(mask.shape) < 30 / side**2)
    return (mask + scattered).clamp(max=1).reshape(rows, side * side)


def test_the_equation_by_hand():
    mask = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    share = 2 / 10
    row, column = (2 + ANSWERS * share) / (5 + ANSWERS), (1 + ANSWERS * share) / (2 + ANSWERS)
    odds = share / (1 - share) * (row / share) * (column / share)
    assert survivor_bits(mask)[0, 0].item() == pytest.approx(-math.log2(odds) + VALUE_BITS, rel=1e-5)


def test_neighbors_are_those_of_the_picture():
    mask = torch.zeros(1, 36)
    mask[0, 14] = 1  # in the third line of six: its neighbors are 7, 8, 9, 13, 15, 19, 20 and 21
    bits, straight = survivor_bits(mask, (1, 6, 6))[0], survivor_bits(mask)[0]
    near = {i for i in range(36) if bits[i] < bits.max() - 1e-4}
    assert near == {7, 8, 9, 13, 14, 15, 19, 20, 21} and straight[13] == straight[35]


def test_channels_do_not_run_into_each_other():
    mask = torch.zeros(1, 50)
    mask[0, 24] = 1  # the last place of the first of two channels of 5 x 5
    bits = survivor_bits(mask, (2, 5, 5))[0]
    assert bits[25:].unique().numel() == 1 and bits[23] < bits[25]


def test_the_code_saves_more_without_the_dearest_survivors():
    mask = planted()
    bits = survivor_bits(mask, (1, 28, 28)).where(mask > 0, torch.nan).flatten()
    order = bits.nan_to_num(nan=-1).argsort(descending=True)[: int(mask.sum())]
    cheap, dear = mask.flatten().clone(), mask.flatten().clone()
    dear[order[:500]] = 0
    cheap[order[-500:]] = 0
    saved = [coded(mask, 28) - coded(left.reshape(mask.shape), 28) for left in (dear, cheap)]
    assert saved[0] > 100 > 0 > saved[1]  # a hole among others costs more than the survivor that it takes away


def test_the_sum_is_near_the_bits_of_the_code():
    mask = planted()
    empty = len(mask.flatten()) / 8 * -math.log2(1 - mask.mean().item())  # zeros of that share, in bytes
    estimate = (survivor_bits(mask, (1, 28, 28)) - VALUE_BITS)[mask > 0].sum().item() / 8
    assert 0.5 < (estimate + empty) / coded(mask, 28) < 2


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (3, 784), (4, 3, 5, 5), (6, 1, 1, 1)])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_any_shape_and_any_share(shape, fill):
    bits = survivor_bits(torch.full(shape, fill), (1, 28, 28))
    assert bits.shape == shape and bits.isfinite().all() and (bits >= VALUE_BITS).all()


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0)])
def test_no_weights_are_refused(shape):
    with pytest.raises(ValueError, match="mask must have one row or more"):
        survivor_bits(torch.zeros(shape))
