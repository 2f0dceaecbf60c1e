"""A column and a row convolution against the kernel that they make up."""

import copy

import pytest
import torch
from torch import nn

from lib import measure, models
from lib.factorization import low_rank, spatial
from lib.vision import torchvision


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kernel(factors):
    """The kernels of a pair: sum over k of h[o, k, x] v[k, i, y]."""
    return torch.einsum("kiya,okax->oiyx", factors[0].weight, factors[1].weight)


LAYERS = [
    nn.Conv2d(3, 8, 5),
    nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 3), dilation=(1, 2)),
    nn.Conv2d(2, 7, (5, 3), padding="same", bias=False),
    nn.Conv2d(3, 3, 3, stride=2, padding=1, padding_mode="reflect"),
    nn.Conv2d(3, 3, 3, padding=(2, 1), padding_mode="circular"),
    nn.Conv2d(5, 4, 1),
    nn.Conv2d(1, 1, (1, 3)),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_full_rank_computes_what_the_layer_does(layer):
    c_out, c_in, height, width = layer.weight.shape
    rank = min(c_in * height, c_out * width)
    factors = spatial.factorize(layer, rank)
    x = drawn(2, c_in, 13, 11)
    assert torch.allclose(factors(x), layer(x), atol=1e-5)
    assert [part.kernel_size for part in factors] == [(height, 1), (1, width)]
    assert sum(part.weight.numel() for part in factors) == rank * (c_in * height + c_out * width)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_pair_convolves_with_the_kernel_it_makes_up(layer):
    factors, x = spatial.factorize(layer, 1), drawn(2, layer.in_channels, 13, 11)
    whole = copy.deepcopy(layer)
    whole.weight.data = kernel(factors).detach()
    assert torch.allclose(factors(x), whole(x), atol=1e-5)


def test_squared_error_is_what_was_cut_and_falls_with_the_rank():
    layer = nn.Conv2d(4, 6, 3)
    sigma = torch.linalg.svdvals(spatial.matrix(layer.weight.detach()))
    errors = []
    for rank in range(1, 13):
        errors.append((kernel(spatial.factorize(layer, rank)) - layer.weight).square().sum().item())
        assert errors[-1] == pytest.approx(sigma[rank:].square().sum().item(), abs=1e-5)
    assert errors == sorted(errors, reverse=True)


def test_the_matrix_pairs_inputs_with_rows_and_outputs_with_columns():
    weight = drawn(5, 3, 2, 4)
    matrix = spatial.matrix(weight)
    assert matrix.shape == (3 * 2, 5 * 4)
    assert matrix[2 * 2 + 1, 3 * 4 + 2] == weight[3, 2, 1, 2]


def test_separable_kernels_need_one_term():
    layer = nn.Conv2d(1, 1, 3, bias=False)
    layer.weight.data[0, 0] = torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([1.0, 0, -1])
    assert spatial.rank_for(layer, 1.0) == 1
    assert torch.allclose(kernel(spatial.factorize(layer, 1)), layer.weight, atol=1e-6)
    layer.weight.data[0, 0] = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    assert spatial.rank_for(layer, 1.0) == 2


def test_a_square_kernel_is_smaller_where_the_formula_says():
    model = models.lenet5()
    small, report = spatial.factorize_model(model, rank=14)
    assert [(row.layer, row.ranks, row.before, row.after) for row in report] == [
        ("conv1", (5,), 520, 520),
        ("conv2", (14,), 25_050, 14 * 5 * (20 + 50) + 50),
    ]
    assert isinstance(small.fc1, nn.Linear)
    inner = 14 * 8 * 12 * 20 * 5 + 50 * 8 * 8 * 14 * 5
    dense = 50 * 8 * 8 * 20 * 25
    assert measure.multiply_adds(model, (1, 28, 28)) - measure.multiply_adds(small, (1, 28, 28)) == dense - inner


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_models_that_we_did_not_write(name):
    model = getattr(torchvision.models, name)(num_classes=10).eval()
    x = drawn(1, 3, 64, 64)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels < 100]
    small, report = spatial.factorize_model(model, rank=3, layers=names)
    assert small(x).shape == (1, 10) and [row.layer for row in report] == names
    assert measure.parameters(model) - measure.parameters(small) == sum(row.before - row.after for row in report) > 0
    first = next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    layer = model.get_submodule(first)
    inputs = drawn(1, layer.in_channels, 9, 9)
    full = min(spatial.matrix(layer.weight).shape)
    assert layer.groups > 1 or torch.allclose(spatial.factorize(layer, full)(inputs), layer(inputs), atol=1e-4)


def test_a_pointwise_convolution_is_low_rank():
    layer, x = nn.Conv2d(6, 9, 1), drawn(1, 6, 4, 4)
    assert torch.allclose(spatial.factorize(layer, 2)(x), low_rank.factorize(layer, 2)(x), atol=1e-5)


def test_bad_input_is_one_sentence():
    for call, says in (
        (lambda: spatial.factorize(nn.Linear(3, 3), 1), "it is Linear, accepted are Conv2d"),
        (lambda: spatial.factorize(nn.Conv2d(4, 4, 3, groups=2), 1), "a convolution of 2 groups"),
        (lambda: spatial.factorize(nn.Conv2d(1, 2, 3), 4), "the rank must be a whole number from 1 to 3, not 4"),
        (lambda: spatial.factorize_model(models.lenet5()), "give exactly one of rank and energy"),
        (lambda: spatial.factorize_model(models.lenet5(), energy=0.0), r"energy must be in \(0, 1\], not 0.0"),
        (lambda: spatial.factorize_model(models.lenet_300_100(), rank=1), "Sequential has no layer to factorize"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
