"""One link between layers against the modules that it skips."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import bit_images, kernels
from lib.binarization.shared.bit_images import Window
from lib.binarization.shared.bit_layer import BitLayer
from lib.binarization.shared.chains import Link, image_filters
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.weights import compress


def bit_layer(layer, norm=None):
    return BitLayer(Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation(), norm).eval())


def turned(norm):
    """Its slopes have both signs, and some are 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator))
        norm.weight[::4] = 0
        norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator))
        norm.running_mean.copy_(3 * torch.randn(norm.bias.shape, generator=generator))
    return norm.eval()


@torch.no_grad()
@pytest.mark.parametrize("window", [None, Window((2, 2), (2, 2))])
@pytest.mark.parametrize("kind", ["linear", "convolution", "flattened"])
def test_every_sum_becomes_the_bit_that_the_skipped_modules_give(kind, window):
    if kind == "linear" and window:
        return
    image = kind != "linear"
    source = bit_layer(nn.Conv2d(3, 20, 2) if image else nn.Linear(12, 20))
    size = (1, 1) if not image else (5, 5)
    places = 1 if not image else 4 if window else 16
    to = nn.Linear(20 * places, 4) if kind == "flattened" else nn.Conv2d(20, 4, 1) if image else nn.Linear(20, 4)
    norm = turned(
        nn.BatchNorm2d(20) if kind == "convolution" else nn.BatchNorm1d(20 * (places if kind == "flattened" else 1))
    )
    link = Link(bit_layer(to, norm), source, [nn.ReLU()], [], window, kind == "flattened", 0)
    cuts, last = link.cuts(size)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(50, 3, *size, generator=draw) if image else torch.randn(50, 12, generator=draw)
    values = source(x).relu()
    pooled = values if window is None else nn.functional.max_pool2d(values, 2)
    expected = norm(pooled.flatten(1) if kind == "flattened" else pooled).reshape(pooled.shape) >= 0
    channels = x.shape[1]
    images = bit_images.pack(x, torch.zeros(channels), torch.zeros(channels, dtype=torch.bool))
    found = bit_images.bits(images, image_filters(source), source.place, cuts)
    found = found if window is None else bit_images.pool(found, window, last)
    rows = expected.reshape(50, 20, -1).transpose(1, 2).reshape(-1, 20)
    assert rows.float().mean(0).unique().numel() > 3
    assert np.array_equal(found.words.reshape(-1, 1), kernels.pack(rows * 2.0 - 1).words)


@pytest.mark.parametrize("channels", [1, 50, 64, 70])
def test_filters_of_flattened_images_meet_the_bits_as_they_lie(channels):
    draw = torch.Generator().manual_seed(0)
    reader = bit_layer(nn.Linear(channels * 6, 5))
    link = Link(reader, bit_layer(nn.Conv2d(2, channels, 1)), flat=True)
    signs = torch.randn(3, channels, 2, 3, generator=draw).sign()
    words = bit_images.pack(signs, torch.zeros(channels), torch.zeros(channels, dtype=torch.bool)).words
    filters = link.filters((2, 3, channels))
    sums = kernels.sums(words.reshape(3, 1, 1, -1), filters, reader.place).flatten(1)
    assert torch.equal(sums, kernels.linear(signs.flatten(1), reader.arranged().filters[0]))


@torch.no_grad()
def test_floats_are_compared_with_thresholds_on_both_sides():
    norm, reader = turned(nn.BatchNorm2d(20)), bit_layer(nn.Conv2d(20, 4, 1))
    link = Link(reader, None, [], [norm], Window((2, 2), (2, 2)))
    x = 4 * torch.randn(9, 20, 6, 6, generator=torch.Generator().manual_seed(0))
    t, below, last = link.thresholds()
    up, finite = torch.tensor(torch.inf), t.where(t.isfinite(), torch.zeros(()))
    for row, edge in enumerate((finite, torch.nextafter(finite, up), torch.nextafter(finite, -up))):
        x[:, :, 2 * row : 2 * row + 2, :2] = edge[:, None, None]  # whole windows at a threshold and next to it
    found = bit_images.pool(bit_images.pack(x, t, below), link.window, last)
    expected = norm(nn.functional.max_pool2d(x, 2)) >= 0
    rows = expected.permute(0, 2, 3, 1).reshape(-1, 20)
    assert np.array_equal(found.words.reshape(-1, 1), kernels.pack(rows * 2.0 - 1).words)
    assert last[0, 0] > 0 and len(t.unique()) > 10
