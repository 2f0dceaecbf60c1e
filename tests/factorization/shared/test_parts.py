"""Small layers in a row: their values, how they move over their input, and what of the large layer they keep."""

import pytest
import torch
from torch import nn

from lib.factorization import cp, low_rank, tucker
from lib.factorization.shared import parts
from lib.quantization import scalar_kmeans


def test_mode_type_and_frozen_weights_stay():
    layer = nn.Linear(6, 5).double().eval().requires_grad_(False)
    factors = low_rank.factorize(layer, 2)
    assert not factors.training and not factors[0].weight.requires_grad and factors[1].weight.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype):
    layer = nn.Linear(6, 5).to(dtype)
    factors = low_rank.factorize(layer, 5)
    assert {p.dtype for p in factors.parameters()} == {dtype}
    x = torch.rand(2, 6, dtype=dtype)
    assert torch.allclose(factors(x), layer(x), atol=0.05)


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_what_is_frozen_in_the_layer_is_frozen_in_its_factors(weight, bias, compressed):
    layer = nn.Conv2d(4, 4, 3)
    layer.weight.requires_grad_(weight)
    layer.bias.requires_grad_(bias)
    layer = scalar_kmeans.share(layer, bits=3) if compressed else layer
    with torch.no_grad():
        rows = [
            low_rank.factorize(layer, 2),
            cp.factorize(layer, 2, sweeps=1),
            tucker.factorize(layer, (2, 2), sweeps=0),
        ]
    for row in rows:
        for name, parameter in row.named_parameters():
            assert parameter.requires_grad == (bias if "bias" in name else weight)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(2, 4, (3, 2), padding=(2, 1), dilation=(2, 1), padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv3d(2, 3, 2),
    ],
)
def test_a_convolution_is_made_again_from_its_values_and_geometry(layer):
    again = parts.convolution(layer.weight, layer.bias, groups=layer.groups, **parts.geometry(layer))
    x = torch.rand(2, layer.in_channels, *[7] * (layer.weight.dim() - 2))
    assert type(again) is type(layer) and torch.equal(again(x), layer(x))


@pytest.mark.parametrize("padding", [(2, 1), "same"])
def test_the_halves_of_a_separable_layer_move_as_it_does(padding):
    stride = (1, 1) if padding == "same" else (2, 3)
    layer = nn.Conv2d(1, 1, (3, 5), stride=stride, padding=padding, dilation=(1, 2), bias=False)
    column, line = torch.rand(1, 1, 3, 1), torch.rand(1, 1, 1, 5)
    layer.weight.data = column * line
    down, across = parts.apart(layer)
    pair = nn.Sequential(parts.convolution(column, **down), parts.convolution(line, **across))
    x = torch.rand(1, 1, 11, 12)
    assert torch.allclose(pair(x), layer(x), atol=1e-5)
