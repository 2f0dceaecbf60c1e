"""Convolutions of neighbors against a dense one with a band, interleaving against a transposed convolution."""

import itertools

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.supergraphs.shared.convolutions import Interleaved, Neighbors, normalized


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_normalized_convolution_pads_and_has_no_bias(kernel, stride):
    layers = given.seeded(lambda: normalized(2, 4, kernel=kernel, stride=stride)).double()
    x = torch.rand(3, 2, 7, 8, generator=given.generator()).double()
    convolution, norm = layers
    maps = functional.conv2d(x, convolution.weight, stride=stride, padding=kernel // 2)
    assert convolution.bias is None and isinstance(norm, nn.BatchNorm2d)
    assert maps.shape == (3, 4, -(-7 // stride), -(-8 // stride))
    mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(layers(x), (maps - mean) / (variance + norm.eps).sqrt())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sparse_layer_is_a_dense_one_with_a_band(stride):
    layer = given.seeded(lambda: Neighbors(6, stride).double())
    dense = torch.zeros(6, 6, 3, 3, dtype=torch.float64)
    for c, offset in itertools.product(range(6), (-1, 0, 1)):
        if 0 <= c + offset < 6:
            dense[c, c + offset] = layer.conv.weight[c, offset + 1].detach()
    x = torch.rand(2, 6, 8, 8, generator=given.generator()).double()
    torch.testing.assert_close(layer(x), functional.conv2d(x, dense, stride=stride, padding=1))


def test_reading_a_coarser_scale_is_a_transposed_convolution():
    x = torch.rand(2, 3, 4, 5, generator=given.generator()).double()
    weight = torch.rand(6, 3, 3, 3, generator=given.generator(1)).double()
    turned = weight.flip(2, 3).transpose(0, 1)
    expected = functional.conv_transpose2d(x, turned, stride=2, padding=1, output_padding=1)
    torch.testing.assert_close(functional.conv2d(Interleaved()(x), weight, padding=1), expected)


def test_interleaving_puts_zeros_after_pixels_and_rows():
    x = torch.rand(2, 3, 4, 5, generator=given.generator())
    y = Interleaved()(x)
    assert y.shape == (2, 3, 8, 10) and torch.equal(y[:, :, ::2, ::2], x) and y.count_nonzero() == x.count_nonzero()
