"""Two thin matrices against the theorem of Eckart and Young, factorized networks against those they replace."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from torch import nn
from torch.nn.utils import parametrize

from lib import measure, models, storage, training, weights
from lib.cache import cached
from lib.datasets import Split
from lib.factorization import low_rank
from lib.pruning import magnitude
from lib.vision import torchvision


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 5), (1, 6), (6, 1)])
def test_squared_error_is_that_of_the_singular_values_cut(shape):
    matrix = drawn(*shape)
    sigma = np.linalg.svd(matrix.numpy(), compute_uv=False)
    errors = []
    for rank in range(1, min(shape) + 1):
        left, right = low_rank.split(matrix, rank)
        assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
        errors.append((matrix - left @ right).square().sum().item())
        assert errors[-1] == pytest.approx((sigma[rank:] ** 2).sum(), abs=1e-12)
    assert errors == sorted(errors, reverse=True)


def test_no_product_of_the_same_rank_is_nearer():
    matrix = drawn(9, 14)
    left, right = low_rank.split(matrix, 3)
    mine = (matrix - left @ right).square().sum()
    other = TruncatedSVD(3, algorithm="arpack").fit(matrix.numpy())
    theirs = other.inverse_transform(other.transform(matrix.numpy()))
    assert torch.allclose(left @ right, torch.from_numpy(theirs), atol=1e-8)
    for seed in range(20):  # least squares onto any other three directions
        right = drawn(3, 14, seed=seed)
        left = torch.linalg.lstsq(right.T, matrix.T).solution.T
        assert (matrix - left @ right).square().sum() > mine


def test_both_factors_carry_the_root_of_the_singular_values():
    left, right = low_rank.split(drawn(6, 8), 4)
    gram = left.T @ left
    assert torch.allclose(gram, right @ right.T, atol=1e-12)
    assert torch.allclose(gram, gram.diag().diag(), atol=1e-12)


LAYERS = [
    (nn.Linear(11, 7), (5, 11)),
    (nn.Linear(4, 9, bias=False), (2, 3, 4)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    (nn.Conv2d(3, 8, (3, 5), stride=(1, 2), padding=(1, 2), dilation=(2, 1), bias=False), (2, 3, 11, 9)),
    (nn.Conv2d(4, 6, 4, padding="same", padding_mode="circular"), (1, 4, 8, 8)),
    (nn.Conv2d(5, 3, 1), (1, 5, 1, 1)),
    (nn.Conv3d(2, 5, 2, padding=1), (1, 2, 4, 4, 4)),
    (nn.Linear(1, 1), (1, 1)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_full_rank_computes_what_the_layer_does(layer, shape):
    matrix = layer.weight.flatten(1)
    factors = low_rank.factorize(layer, min(matrix.shape))
    x = drawn(*shape).float()
    assert len(factors) == 2 and factors[0].bias is None and (factors[1].bias is None) == (layer.bias is None)
    assert torch.allclose(factors(x), layer(x), atol=1e-5)
    rank = min(matrix.shape)
    assert sum(part.weight.numel() for part in factors) == rank * sum(matrix.shape)


def test_a_lower_rank_computes_with_the_product():
    layer, x = nn.Conv2d(3, 8, 3, stride=2, padding=1), drawn(2, 3, 9, 9).float()
    left, right = low_rank.split(layer.weight.detach().double().flatten(1), 4)
    whole = copy.deepcopy(layer)
    whole.weight.data = (left @ right).reshape(layer.weight.shape).float()
    assert torch.allclose(low_rank.factorize(layer, 4)(x), whole(x), atol=1e-5)


def test_energy_is_the_smallest_rank_that_holds_it():
    layer = nn.Linear(4, 4)
    layer.weight.data = torch.diag(torch.tensor([4.0, 2, 2, 1]))  # squares 16, 4, 4, 1 of 25
    assert [low_rank.rank_for(layer, share / 25) for share in (16, 16.1, 20, 24, 24.1, 25)] == [1, 2, 2, 3, 4, 4]
    nn.init.zeros_(layer.weight)
    assert low_rank.rank_for(layer, 0.9) == 1


def test_ranks_by_layer_by_energy_and_a_layer_alone():
    model = models.lenet_300_100()
    small, report = low_rank.factorize_model(model, rank={"fc2": 7})
    assert [(row.layer, row.ranks) for row in report] == [("fc2", (7,))]
    assert isinstance(small.fc1, nn.Linear)
    _, report = low_rank.factorize_model(model, energy=0.5, layers=["fc1"])
    assert report[0].ranks == (low_rank.rank_for(model.fc1, 0.5),)
    alone, _ = low_rank.factorize_model(nn.Linear(50, 50), rank=2)
    assert isinstance(alone, nn.Sequential)


def test_global_random_state_is_not_touched():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    low_rank.factorize_model(models.lenet5(), rank=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_pruned_layer_is_factorized_as_it_computes():
    layer = magnitude.prune(nn.Linear(12, 9), density=0.4)
    x = drawn(3, 12).float()
    assert parametrize.is_parametrized(layer)
    assert torch.allclose(low_rank.factorize(layer, 9)(x), layer(x), atol=1e-5)
    network = magnitude.prune(models.lenet_300_100(), density=0.1)
    small, report = low_rank.factorize_model(network, rank=10)
    assert [row.after < row.before for row in report] == [True, True, False]
    assert parametrize.is_parametrized(network.fc1) and parametrize.is_parametrized(small.fc3)


def test_a_factorized_network_trains_is_stored_and_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    split = Split(torch.rand(32, 1, 28, 28), torch.randint(0, 10, (32,)))
    small, _ = low_rank.factorize_model(models.lenet_300_100(), rank=4)
    before = small.fc1[0].weight.detach().clone()
    tuned = cached(training.fit, small, split=split, epochs=1, seed=0)
    assert not torch.equal(tuned.fc1[0].weight, before)
    n_bytes = storage.save(tuned, tmp_path / "small.slim")
    assert n_bytes < 0.1 * measure.dense_bytes(models.lenet_300_100())
    blank, _ = low_rank.factorize_model(models.lenet_300_100(1), rank=4)
    again = storage.load(tmp_path / "small.slim", blank)
    assert torch.equal(again(split.images), tuned(split.images))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_models_that_we_did_not_write(name):
    model = getattr(torchvision.models, name)(num_classes=10).eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels < 100]
    for layer in layers[:3]:
        weight = model.get_submodule(layer).weight
        factors = low_rank.factorize(model.get_submodule(layer), min(weight.flatten(1).shape))
        assert torch.allclose(weights.replace(copy.deepcopy(model), layer, factors)(x), model(x), atol=1e-3)
    small, report = low_rank.factorize_model(model, rank=4, layers=layers)
    assert small(x).shape == (1, 10) and measure.parameters(small) < measure.parameters(model)
    assert measure.parameters(model) - measure.parameters(small) == sum(row.before - row.after for row in report)


def test_bad_input_is_one_sentence():
    depthwise, model = nn.Conv2d(4, 4, 3, groups=4), models.lenet_300_100()
    broken = nn.Linear(3, 3)
    broken.weight.data[0, 0] = torch.nan
    for call, says in (
        (lambda: low_rank.factorize(depthwise, 1), "cannot be factorized: it is a convolution of 4 groups"),
        (
            lambda: low_rank.factorize(nn.ConvTranspose2d(2, 2, 3), 1),
            "it is ConvTranspose2d, accepted are Linear, Conv1d",
        ),
        (lambda: low_rank.factorize(nn.Linear(2, 0), 1), r"its weight of shape \(0, 2\) is empty"),
        (lambda: low_rank.factorize(nn.Linear(5, 3), 4), "the rank must be a whole number from 1 to 3, not 4"),
        (lambda: low_rank.factorize(nn.Linear(5, 3), 0), "from 1 to 3, not 0"),
        (lambda: low_rank.factorize(nn.Linear(5, 3), 2.5), "from 1 to 3, not 2.5"),
        (lambda: low_rank.factorize(broken, 1), "hold NaN or infinity"),
        (lambda: low_rank.rank_for(nn.Linear(5, 3), 1.5), r"energy must be in \(0, 1\], not 1.5"),
        (lambda: low_rank.factorize_model(model), "give exactly one of rank and energy"),
        (lambda: low_rank.factorize_model(model, rank=2, energy=0.5), "give exactly one of rank and energy"),
        (lambda: low_rank.factorize_model(model, rank=0), "from 1 to 300, not 0"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
