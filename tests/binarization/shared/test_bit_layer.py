"""What a layer on bits chooses and hands on; what it computes is tested with whole networks, in test_inference.py."""

import pytest
import torch
from torch import nn

from lib.binarization import abc_net, xnor_net
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import kernels
from lib.binarization.shared.bit_layer import BitLayer
from lib.binarization.shared.inference import convert
from lib.binarization.shared.kernels import LayerShape, Place
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.weights import compress


def reader(layer, **settings):
    return Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation(), **settings).eval()


LAYERS = {
    "linear": (lambda: nn.Linear(9, 4), (3, 9), LayerShape((3, 9), (4, 9))),
    "tokens": (lambda: nn.Linear(9, 4), (2, 3, 9), LayerShape((6, 9), (4, 9))),
    "convolution": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
        (2, 4, 9, 8),
        LayerShape((2, 4, 9, 8), (6, 4, 3, 3), Place((2, 2), (1, 1, 1, 1))),
    ),
    "groups, copies": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"),
        (2, 4, 5, 6),
        LayerShape((2, 4, 7, 8), (6, 2, 3, 3), groups=2),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("wins", [True, False])
def test_a_converted_layer_asks_what_is_faster_for_its_shape(monkeypatch, kind, wins):
    build, shape, expected = LAYERS[kind]
    asked, counted, layer = [], [], reader(build())
    sums = kernels.product if len(shape) < 4 else kernels.convolution
    monkeypatch.setattr(kernels, "bits_win", lambda shape: asked.append(shape) or wins)
    monkeypatch.setattr(kernels, sums.__name__, lambda *a, **o: counted.append(1) or sums(*a, **o))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(convert(layer)(x), layer(x)) and asked == [expected] and bool(counted) == wins


@torch.no_grad()
def test_a_layer_that_is_not_converted_always_counts(monkeypatch):
    monkeypatch.setattr(kernels, "bits_win", lambda *_: pytest.fail("asked"))
    layer, x = reader(nn.Linear(9, 4)), torch.randn(3, 9)
    assert torch.equal(BitLayer(layer)(x), layer(x))
    several = abc_net.binarize(nn.Sequential(nn.Linear(9, 4)), names=["0"], bases=2, activation_bases=1).eval()
    assert convert(several)(x).shape == (3, 4)


def test_layers_that_hand_on_bits_are_told_from_others():
    conv = nn.Conv2d(4, 6, 3)
    for layer, alone in (
        (reader(nn.Linear(9, 4), norm=nn.BatchNorm1d(9)), True),
        (reader(nn.Conv2d(4, 6, 3, padding=1, stride=2)), True),
        (reader(nn.Conv2d(4, 6, 3, groups=2)), False),
        (reader(nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate")), False),
        (reader(nn.Linear(9, 4), norm=nn.LayerNorm(9)), False),
        (reader(conv, input_scale=xnor_net.InputScale(conv)), False),
    ):
        assert BitLayer(layer).alone() == alone


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_values_of_sums_are_what_the_layer_gives(bias):
    for layer, x in (
        (nn.Linear(9, 4, bias=bias), torch.randn(3, 9)),
        (nn.Conv2d(2, 4, 3, bias=bias), torch.randn(3, 2, 5, 5)),
    ):
        bits = BitLayer(reader(layer))
        rows = bits.arranged().filters[0]
        sums = kernels.linear(x, rows, torch.zeros(9)) if x.dim() == 2 else kernels.convolution(x, rows, torch.zeros(2))
        assert torch.equal(bits.values(sums), bits(x))
