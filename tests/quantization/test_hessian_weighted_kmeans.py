"""One codebook for all layers, weighed: the optimum, the floor, and the loss that the weights predict."""

import copy
from itertools import pairwise

import given as toys
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, training
from lib.pruning.magnitude import prune
from lib.quantization import hessian_weighted_kmeans as weighted
from lib.quantization.deep_compression import STARTS
from lib.quantization.optimal_kmeans import lloyd, optimal
from lib.quantization.shared.hessian_diagonal import exact_diagonal
from lib.weights import compressed_form, layers


def split(n, *shape, classes=3, seed=0, dtype=torch.float32):
    return toys.split(n, *shape, classes=classes, seed=seed, dtype=dtype)


def importance_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(layer.weight.shape, generator=generator) for name, layer in layers(model)}


def pooled(model):
    return torch.cat([layer.weight.detach().flatten() for _, layer in layers(model)])


# -- The codebook ------------------------------------------------------------------------------------------------------


def test_importance_of_one_each_is_plain_kmeans_of_all_layers_together():
    model, dense = models.lenet_300_100(), pooled(models.lenet_300_100()).double().numpy()
    ones = {name: torch.full_like(layer.weight, 3.0) for name, layer in layers(model)}
    expected = optimal(dense, 8)
    for given in (None, ones):
        shared = pooled(weighted.share(copy.deepcopy(model), k=8, importance=given))
        np.testing.assert_allclose(shared.numpy(), expected.centroids[expected.codes], rtol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_a_common_factor_changes_nothing(start):
    model = models.lenet_300_100()
    given = importance_of(model)
    scaled = {name: 1024.0 * h for name, h in given.items()}
    first, second = (
        pooled(weighted.share(copy.deepcopy(model), k=5, importance=h, start=start)) for h in (given, scaled)
    )
    assert torch.equal(first, second) and len(first.unique()) <= 5


def test_the_weighted_optimum_is_the_one_of_all_layers_with_their_importance():
    model = prune(models.lenet_300_100(), density=0.1)
    given, weight = importance_of(model), pooled(model).double()
    h = torch.cat([importance.flatten() for importance in given.values()]).double()[weight != 0]
    expected = optimal(weight[weight != 0].numpy(), 6, h.numpy())
    shared = pooled(weighted.share(model, k=6, importance=given, floor=0.0))
    assert (shared[weight == 0] == 0).all()
    np.testing.assert_allclose(
        shared[weight != 0].double().numpy(), expected.centroids[expected.codes], rtol=1e-5, atol=1e-7
    )


def test_whole_importances_are_repeated_points():
    random = np.random.default_rng(0)
    values, times = random.normal(size=60), random.integers(1, 5, size=60)
    once, repeated = optimal(values, 4, times), optimal(np.repeat(values, times), 4)
    np.testing.assert_allclose(once.centroids, repeated.centroids)
    assert once.squared_error == pytest.approx(repeated.squared_error)


def test_weighted_lloyd_never_rises_and_never_ends_below_the_optimum():
    random = np.random.default_rng(1)
    values, h = random.normal(size=500), random.lognormal(sigma=2, size=500)
    begin = np.linspace(values.min(), values.max(), 7)
    errors = [lloyd(values, begin, h, iterations=n).squared_error for n in range(1, 30)]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))
    assert errors[-1] >= optimal(values, 7, h).squared_error * (1 - 1e-12)


def test_where_importance_is_zero_the_floor_is_all_that_counts():
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 1.1, -1.0, -1.1], [5.0, 5.1, 9.0, 9.1]])
    used = {"": torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])}
    without = weighted.share(copy.deepcopy(model), k=4, importance=used, floor=0.0).weight
    assert torch.allclose(without[0], model.weight[0])  # all four centroids go to what matters
    floor = weighted.share(copy.deepcopy(model), k=4, importance=used, floor=1.0).weight
    assert (floor - model.weight).abs().max() < 0.2
    nothing = {"": torch.zeros(2, 4)}
    equal = weighted.share(copy.deepcopy(model), k=4, importance=nothing).weight
    assert torch.equal(equal, weighted.share(copy.deepcopy(model), k=4).weight)


def rank_correlation(seed):
    """How well the predicted rise of the loss orders the measured one, for a network on one draw of data."""
    model, data = toys.perceptron(), split(300, 6, seed=seed, dtype=torch.float64)
    training.minimize(model, data, weight_decay=1e-3)
    h = exact_diagonal(model, data)
    ks, predicted, measured = range(2, 14), [], []
    with torch.no_grad():
        start = nn.functional.cross_entropy(model(data.images), data.labels)
        for k in ks:
            shared = weighted.share(copy.deepcopy(model), k=k, importance={n: v.clamp(min=0) for n, v in h.items()})
            moved = {n: (layer.weight - model.get_submodule(n).weight).square() for n, layer in layers(shared)}
            predicted.append(sum((h[n] * moved[n]).sum() / 2 for n in h).item())
            measured.append((nn.functional.cross_entropy(shared(data.images), data.labels) - start).item())
    return np.corrcoef(np.argsort(np.argsort(predicted)), np.argsort(np.argsort(measured)))[0, 1]


def test_predicted_and_measured_loss_rise_together():
    # Where a minimum lies depends on the processor's rounding, and one draw may be unlucky; the mean of six is not.
    assert np.mean([rank_correlation(seed) for seed in range(6)]) > 0.8


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused_and_the_network_stays():
    model = models.lenet_300_100()
    good = importance_of(model)
    for change, says in (
        ({"k": 0}, "k must be 1 or more, not 0"),
        ({"start": "best"}, "start must be one of linear, density, random, optimal, not 'best'"),
        ({"floor": -1.0}, "floor must be 0 or more, not -1.0"),
        ({"importance": good | {"fc9": torch.ones(1)}}, "no layer 'fc9'"),
        ({"importance": good | {"fc2": torch.ones(3)}}, r"importance of layer 'fc2', of shape \(3,\)"),
        ({"importance": good | {"fc2": -good["fc2"]}}, "not negative"),
        ({"importance": good | {"fc2": good["fc2"] * float("nan")}}, "must be finite"),
    ):
        with pytest.raises(ValueError, match=says):
            weighted.share(model, **{"k": 4, "importance": good} | change)
    with pytest.raises(TypeError, match="'flor'"):
        weighted.share(model, k=4, flor=1.0)
    assert all(compressed_form(layer) is None for _, layer in layers(model))
    with pytest.raises(ValueError, match="no layer with a weight"):
        weighted.share(nn.ReLU(), k=2)
    with pytest.raises(ValueError, match="several types"):
        weighted.share(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), k=2)
    model.fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        weighted.share(model, k=2)
