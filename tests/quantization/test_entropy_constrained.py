"""Entropy-constrained quantization: its objective falls, its limits are known, and it beats what knows no rate."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lib import models, storage
from lib.pruning.magnitude import prune
from lib.quantization import entropy_constrained as ecsq
from lib.quantization import uniform_quantization as uniform
from lib.quantization.optimal_kmeans import lloyd, optimal
from lib.weights import compressed_form, decompress, layers

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(size=3000)
H = RANDOM.lognormal(sigma=2, size=3000)
GAUSS = RANDOM.normal(size=50_000)


def brute_assignment(values, weights, centroids, prices):
    cost = weights[:, None] * (values[:, None] - centroids) ** 2 + prices
    return cost.argmin(axis=1)


@pytest.mark.parametrize("penalty", [0.0, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("weights", [np.ones(3000), H, np.where(H > 1, H, 0)])
def test_the_assignment_is_the_cheapest_of_all(penalty, weights):
    centroids, codes = np.sort(RANDOM.normal(size=40)), np.empty(3000, dtype=np.int64)
    prices = -penalty * np.log2(RANDOM.dirichlet(np.ones(40)) + 1e-12)
    ecsq.assign(VALUES, weights, centroids, prices, codes)
    assert np.array_equal(codes, brute_assignment(VALUES, weights, centroids, prices))


@pytest.mark.parametrize("weights", [None, H])
@pytest.mark.parametrize("penalty", [1e-3, 0.03, 0.5])
def test_the_objective_never_rises(penalty, weights):
    start = np.linspace(-3, 3, 64)
    books = [ecsq.codebook(VALUES, penalty, weights, start=start, iterations=n) for n in range(25)]
    objectives = [ecsq.objective(book, penalty) for book in books]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(objectives))
    given = np.ones(3000) if weights is None else weights
    for book in books:
        assert book.squared_error == pytest.approx((given * (VALUES - book.centroids[book.codes]) ** 2).sum())
        assert (np.diff(book.centroids) >= 0).all() and set(book.codes) == set(range(len(book.centroids)))


@pytest.mark.parametrize("weights", [None, H])
def test_bits_that_cost_nothing_leave_lloyds_iteration(weights):
    start = np.linspace(-2, 2, 9)
    for n in (1, 2, 5):
        mine = ecsq.codebook(VALUES, 0.0, weights, start=start, iterations=n)
        np.testing.assert_allclose(mine.centroids, lloyd(VALUES, start, weights, iterations=n + 1).centroids)
    assert ecsq.objective(mine, 0.0) >= optimal(VALUES, 9, weights).squared_error / 3000 * (1 - 1e-12)


@pytest.mark.parametrize("weights", [None, H])
def test_bits_beyond_price_leave_one_cluster(weights):
    book = ecsq.codebook(VALUES, 1e9, weights)
    assert book.centroids == pytest.approx([np.average(VALUES, weights=weights)]) and (book.codes == 0).all()


@pytest.mark.parametrize("weights", [None, H])
def test_entropy_falls_as_the_price_rises(weights):
    rates = [uniform.rate(ecsq.codebook(VALUES, penalty, weights).codes) for penalty in np.geomspace(1e-4, 3, 15)]
    assert all(b <= a + 0.1 for a, b in pairwise(rates)) and rates[-1] < 0.6 < 4 < rates[0]


@pytest.mark.parametrize("bits", [1.0, 2.0, 3.0])
def test_a_gaussian_loses_less_than_in_uniform_cells(bits):
    plain = uniform.codebook(GAUSS, uniform.step_for(GAUSS, bits))
    rate = uniform.rate(plain.codes)
    # At the price at which a bit quarters the error uniform cells are nearly stationary: J must not be above theirs.
    penalty = 2 * np.log(2) * plain.squared_error / len(GAUSS)
    book = ecsq.codebook(GAUSS, penalty)
    assert ecsq.objective(book, penalty) <= ecsq.objective(plain, penalty) * (1 + 1e-4)
    distortion = book.squared_error / len(GAUSS) / GAUSS.var()
    assert uniform.rate(book.codes) >= 0.5 * np.log2(1 / distortion) and abs(uniform.rate(book.codes) - rate) < 0.2


def test_of_two_equal_values_the_important_one_keeps_the_rarer_centroid():
    values = np.array([0.0] * 90 + [1.0] * 6 + [0.6, 0.6])
    weights = np.array([1.0] * 96 + [1e3, 1e-3])
    book = ecsq.codebook(values, 0.05, weights, start=np.array([0.0, 1.0]), iterations=3)
    assert book.codes[96] == 1 and book.codes[97] == 0


def test_constant_single_and_unimportant_values():
    for values, weights in ((np.full(50, 0.3), None), (np.array([0.3]), None), (np.full(3, 0.3), np.zeros(3))):
        book = ecsq.codebook(values, 0.1, weights)
        assert book.centroids == pytest.approx([0.3]) and book.squared_error == pytest.approx(0)


# -- Networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_a_network_is_quantized_together_and_comes_back_from_its_file(tmp_path, density):
    model = decompress(prune(models.lenet_300_100(), density=density))
    zero = {name: layer.weight == 0 for name, layer in layers(model)}
    h = {name: torch.rand(layer.weight.shape) for name, layer in layers(model)}
    ecsq.share(model, penalty=1e-4, importance=h)
    assert all((layer.weight[zero[name]] == 0).all() for name, layer in layers(model))
    assert len({id(layer.parametrizations.weight.original0) for _, layer in layers(model)}) == 1
    storage.save(model, tmp_path / "model.slim")
    again = storage.load(tmp_path / "model.slim", models.lenet_300_100(1))
    assert all(torch.equal(again.get_submodule(name).weight, layer.weight) for name, layer in layers(model))


def test_a_torchvision_network_and_odd_layers():
    from lib.vision import torchvision

    model = ecsq.share(torchvision.models.shufflenet_v2_x0_5(num_classes=3), penalty=0.05)
    assert all(compressed_form(layer) for _, layer in layers(model))
    for layer in (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(1, 1, 1), nn.Embedding(4, 2)):
        form, stored = compressed_form(ecsq.share(layer, penalty=1e-3))
        assert torch.equal(form.decode(form.encode(*stored), layer.weight.shape), layer.weight)


def test_bad_arguments_are_refused():
    for penalty in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="penalty must be 0 or more and finite"):
            ecsq.codebook(VALUES, penalty)
        with pytest.raises(ValueError, match="penalty must be 0 or more and finite"):
            ecsq.share(models.lenet_300_100(), penalty=penalty)
    for start in ([], [np.nan], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="centroids to start from must be finite"):
            ecsq.codebook(VALUES, 0.1, start=np.array(start))
    with pytest.raises(ValueError, match="must be finite numbers"):
        ecsq.codebook(np.array([]), 0.1)
    with pytest.raises(ValueError, match="one finite weight that is not negative"):
        ecsq.codebook(VALUES, 0.1, -H)
