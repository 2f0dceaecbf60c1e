"""Two kernels in place of one: their composition is the kernel."""

import itertools

import pytest
import torch
from given import generator

from lib.morphism.shared.factors import factored, padded


def composed(first, second):
    """Brute force: each pair of taps meets at the sum of their places."""
    size = [a + b - 1 for a, b in zip(first.shape[3:], second.shape[3:], strict=True)]
    whole = torch.zeros(len(first), second.shape[1], first.shape[2], *size, dtype=torch.float64)
    for a in itertools.product(*(range(n) for n in first.shape[3:])):
        for b in itertools.product(*(range(n) for n in second.shape[3:])):
            place = tuple(i + j for i, j in zip(a, b, strict=True))
            whole[(..., *place)] += second[(..., *b)] @ first[(..., *a)]
    return whole


@pytest.mark.parametrize(
    ("shape", "kernels", "width", "sizes"),
    [
        ((1, 3, 2, 3, 3), (3, 3), 9, (3, 3)),  # enough numbers: no zeros are needed
        ((1, 3, 2, 3, 3), (3, 3), 3, (3, 1)),  # algorithm 2: the second becomes smaller
        ((1, 4, 2, 3, 3), (3, 3), 2, (1, 3)),  # as many channels as inputs: the first one
        ((3, 1, 1, 3, 3), (1, 3), 1, (1, 3)),  # depthwise
        ((2, 2, 3, 5), (3, 5), 8, (3, 5)),  # one axis, two groups
        ((1, 2, 2, 3, 3, 3), (3, 1), 2, (3, 1)),  # three axes
        ((1, 4, 3), (1, 1), 5, ()),  # a linear layer
        ((1, 2, 2, 1, 3), (3, 1), 2, (3, 1)),  # an oblong kernel
    ],
)
def test_the_composition_is_the_padded_kernel(shape, kernels, width, sizes):
    weight = torch.randn(shape, generator=generator(), dtype=torch.float64)
    first, second = factored(weight, kernels, width, generator(1))
    for factor, size in zip((first, second), sizes, strict=False):
        assert set(factor.shape[3:]) == {size}
    assert first.shape[:3] == (shape[0], width, shape[2]) and second.shape[:3] == (shape[0], shape[1], width)
    whole = first.shape[-1] + second.shape[-1] - 1 if sizes else 1
    torch.testing.assert_close(composed(first, second), padded(weight, whole), rtol=0, atol=1e-10)
    if sizes:
        full = composed(padded(first, kernels[0]), padded(second, kernels[1]))
        torch.testing.assert_close(full, padded(weight, sum(kernels) - 1), rtol=0, atol=1e-10)


def test_a_kernel_of_low_rank_and_one_of_zeros_have_factors():
    column = torch.randn(1, 4, 1, 3, 3, generator=generator(), dtype=torch.float64)
    for weight in (column * torch.ones(1, 1, 4, 1, 1), torch.zeros(1, 4, 4, 3, 3)):
        first, second = factored(weight, (3, 1), 4, generator())
        torch.testing.assert_close(composed(first, second), weight.double(), rtol=0, atol=1e-10)


def test_too_few_channels_have_no_exact_factors():
    weight = torch.randn(1, 4, 4, 3, 3, generator=generator())
    assert factored(weight, (3, 3), 2, generator()) is None
