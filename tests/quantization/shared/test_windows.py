"""Sums over windows against torch's poolings, whatever their windows."""

import itertools

import pytest
import torch
from torch import nn

from lib.quantization.shared.operations import Mean
from lib.quantization.shared.windows import windows


def drawn(*shape):
    return torch.randint(-300, 300, shape, generator=torch.Generator().manual_seed(sum(shape)))


def same(layer, q):
    total, count = windows(layer, q)
    mean = layer(q.double())
    assert total.dtype == count.dtype == torch.int64 and total.shape == mean.shape
    torch.testing.assert_close(total.double() / count, mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_windows_of_one_size_are_those_of_torch(kernel):
    choices = itertools.product((1, 2, 3), range(kernel // 2 + 1), (False, True), (False, True), (None, 7))
    for stride, padding, ceil, border, divisor in choices:
        for size in (5, 6, 8):
            same(nn.AvgPool2d(kernel, stride, padding, ceil, border, divisor), drawn(2, 3, size, 7))
        same(nn.AvgPool1d(kernel, stride, padding, ceil, border), drawn(2, 3, 9))
    same(nn.AvgPool2d((kernel, 2), (1, 2)), drawn(1, 2, 6, 6))
    same(nn.AvgPool3d(kernel, padding=kernel // 2, count_include_pad=False), drawn(1, 2, 6, 5, 7))


@pytest.mark.parametrize("outputs", [1, 2, 3, 7, 12])
def test_adaptive_windows_are_those_of_torch(outputs):
    for size in (1, 2, 5, 7, 9):
        same(nn.AdaptiveAvgPool2d(outputs), drawn(2, 3, size, 4))
        same(nn.AdaptiveAvgPool2d((outputs, None)), drawn(3, size, 4))
        same(nn.AdaptiveAvgPool1d(outputs), drawn(2, 3, size))
    same(nn.AdaptiveAvgPool3d(outputs), drawn(2, 3, 4, 5, 6))


@pytest.mark.parametrize("dims", [(2, 3), (-1,), (1,), (0, 2)])
def test_means_over_dimensions_are_those_of_torch(dims):
    for keepdim in (False, True):
        same(Mean(dims, keepdim), drawn(2, 3, 4, 5))
