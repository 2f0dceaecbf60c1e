"""Shared weights: the optimal codebook of each layer, its gradient, its file, its formula."""

import numpy as np
import pytest
import torch
from torch import nn

from lib import models
from lib.quantization.optimal_kmeans import optimal
from lib.quantization.scalar_kmeans import SharedWeight, compression_rate, share
from lib.weights import layers


@pytest.mark.parametrize("shape", [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1)])
@pytest.mark.parametrize("bits", [1, 3, 16])
def test_a_layer_gets_the_optimal_values_and_its_file_says_them_all(shape, bits):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = weight.double().flatten().numpy()
    expected = optimal(values, min(2**bits, len(values)))
    form = SharedWeight(lambda v: optimal(v, min(2**bits, len(v))))
    centroids = form.right_inverse(weight)
    np.testing.assert_array_equal(
        form(centroids).flatten().numpy(), expected.centroids[expected.codes].astype(np.float32)
    )
    assert torch.equal(SharedWeight.decode(form.encode(centroids), weight.shape), form(centroids))


def test_a_layer_of_fewer_weights_than_values_is_unchanged():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    assert torch.equal(share(layer, bits=8).weight, before)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_each_layer_has_at_most_2_to_the_bits_values(bits):
    model = share(models.lenet5(), bits=bits)
    assert [layer.weight.unique().numel() for _, layer in layers(model)] == [2**bits] * 4


def test_a_mapping_shares_the_layers_it_names_alone():
    model, dense = share(models.lenet_300_100(), bits={"fc1": 2, "fc3": 1}), models.lenet_300_100()
    assert model.fc1.weight.unique().numel() == 4 and model.fc3.weight.unique().numel() == 2
    assert torch.equal(model.fc2.weight, dense.fc2.weight)


def test_gradient_of_a_centroid_is_the_sum_over_its_cluster():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)
    share(layer, bits=2)
    plain = nn.Conv2d(4, 6, 3, groups=2)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    for network in (layer, plain):
        network(x).square().sum().backward()
    codes = layer.parametrizations.weight[0].codes
    expected = torch.zeros(4, dtype=torch.float64).index_add(0, codes, plain.weight.grad.double().flatten())
    torch.testing.assert_close(layer.parametrizations.weight.original.grad.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_layer_has_one_value():
    layer = nn.Linear(9, 5)
    nn.init.constant_(layer.weight, 0.25)
    assert share(layer, bits=4).weight.unique().tolist() == [0.25]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_of_float_keep_their_type(dtype):
    assert share(nn.Linear(5, 5).to(dtype), bits=2).weight.dtype == dtype


def test_rate_is_the_formula():
    assert compression_rate(1_000_000, 4) == 32e6 / (4e6 + 512)
    assert compression_rate(10**9, 2) == pytest.approx(16, rel=1e-6)


@pytest.mark.parametrize("bits", [0, -1, 17])
def test_bits_outside_1_to_16_are_refused(bits):
    for asked in (bits, {"fc1": bits}):
        with pytest.raises(ValueError, match=rf"1..16, not {bits}"):
            share(models.lenet_300_100(), bits=asked)


def test_unknown_layers_missing_weights_and_weights_not_finite_are_refused():
    with pytest.raises(ValueError, match="has no layer 'fc9' with a weight: it has fc1, fc2, fc3"):
        share(models.lenet_300_100(), bits={"fc9": 2})
    with pytest.raises(ValueError, match="no layer with a weight"):
        share(nn.ReLU(), bits=2)
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinity"):
        share(layer, bits=1)
