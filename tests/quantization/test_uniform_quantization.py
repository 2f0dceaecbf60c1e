"""Cells of one width: their means, their entropy, and the theory of a Gaussian source."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from lib import models, storage
from lib.coding import coders
from lib.pruning.magnitude import prune
from lib.quantization import uniform_quantization as uniform
from lib.weights import compressed_form, decompress, layers

GAUSS = np.random.default_rng(0).normal(size=200_000)
FEW = np.random.default_rng(1).normal(size=300)


@pytest.mark.parametrize("step", [0.01, 0.3, 1.0, 20.0])
def test_each_value_lies_in_the_cell_around_its_threshold_center(step):
    book = uniform.codebook(FEW, step)
    centers = np.array([np.rint(FEW[book.codes == j][0] / step) for j in range(len(book.centroids))]) * step
    assert (np.abs(FEW - centers[book.codes]) <= step / 2 * (1 + 1e-9)).all()
    assert (np.abs(book.centroids - centers) <= step / 2 * (1 + 1e-9)).all()
    assert (np.diff(centers) >= step * (1 - 1e-9)).all() and set(book.codes) == set(range(len(centers)))


def test_centroids_are_weighted_means_and_only_lower_the_error():
    h = np.random.default_rng(2).lognormal(size=300)
    h[FEW > 1] = 0
    book = uniform.codebook(FEW, 0.4, h)
    for j, c in enumerate(book.centroids):
        mine = book.codes == j
        assert c == pytest.approx(np.average(FEW[mine], weights=h[mine]) if h[mine].sum() else FEW[mine].mean())
    assert book.squared_error <= (h * (FEW - np.rint(FEW / 0.4) * 0.4) ** 2).sum()
    assert book.squared_error == pytest.approx((h * (FEW - book.centroids[book.codes]) ** 2).sum())


@pytest.mark.parametrize("step", [0.5, 0.25, 0.1])
def test_rate_and_error_of_a_gaussian_source_are_those_of_theory(step):
    book = uniform.codebook(GAUSS, step)
    assert uniform.rate(book.codes) == pytest.approx(0.5 * np.log2(2 * np.pi * np.e) - np.log2(step), abs=0.03)
    assert book.squared_error / len(GAUSS) == pytest.approx(step**2 / 12, rel=0.03)


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25])
def test_distance_to_the_rate_distortion_bound_is_a_quarter_of_a_bit(step):
    book = uniform.codebook(GAUSS, step)
    edges = (np.arange(-60, 61) - 0.5) * step
    p = np.diff(norm.cdf(edges))
    assert uniform.rate(book.codes) == pytest.approx(-(p[p > 0] * np.log2(p[p > 0])).sum(), abs=0.01)
    bound = 0.5 * np.log2(GAUSS.var() / (book.squared_error / len(GAUSS)))
    assert uniform.rate(book.codes) - bound == pytest.approx(0.5 * np.log2(2 * np.pi * np.e / 12), abs=0.02)
    table = coders.shares(np.bincount(book.codes))
    content = coders.range_code(book.codes, table)
    assert 8 * len(content) / len(GAUSS) == pytest.approx(uniform.rate(book.codes), abs=0.01)
    assert np.array_equal(coders.unrange(content, len(GAUSS), table), book.codes)


def test_entropy_falls_as_cells_grow():
    rates = [uniform.rate(uniform.codebook(GAUSS, step).codes) for step in np.geomspace(0.02, 20, 30)]
    assert all(b <= a * 1.01 for a, b in pairwise(rates)) and rates[-1] == 0


@pytest.mark.parametrize("bits", [0.3, 1.0, 2.5, 7.0])
def test_the_step_for_a_rate_is_found(bits):
    book = uniform.codebook(GAUSS, uniform.step_for(GAUSS, bits))
    assert bits - 0.01 < uniform.rate(book.codes) <= bits


def test_rate_of_codes_is_their_entropy():
    assert uniform.rate(np.array([0, 1, 2, 3])) == 2 and uniform.rate(np.array([7, 7])) == 0
    assert uniform.rate(np.array([], dtype=np.int64)) == 0 == uniform.rate(np.array([2**40]))
    assert uniform.rate(np.array([0, 2**40])) == 1


# -- Networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [1.0, 0.1])
def test_all_layers_together_with_zeros_kept_and_read_back(tmp_path, density):
    model = decompress(prune(models.lenet_300_100(), density=density))
    before = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    uniform.share(model, step=0.02)
    values = torch.cat([layer.weight.flatten() for _, layer in layers(model)])
    kept = torch.cat([w.flatten() for w in before.values()])
    expected = uniform.codebook(kept[kept != 0].double().numpy(), 0.02)
    np.testing.assert_allclose(
        values[kept != 0].detach().double(), expected.centroids[expected.codes], rtol=1e-5, atol=1e-8
    )
    assert all((layer.weight[before[name] == 0] == 0).all() for name, layer in layers(model))
    storage.save(model, tmp_path / "model.slim")
    again = storage.load(tmp_path / "model.slim", models.lenet_300_100(1))
    assert all(torch.equal(again.get_submodule(name).weight, layer.weight) for name, layer in layers(model))


def test_importance_moves_centroids_and_not_cells():
    model = models.lenet5()
    h = {name: layer.weight.detach().abs() for name, layer in layers(model)}
    plain = uniform.share(copy.deepcopy(model), step=0.05)
    uniform.share(model, step=0.05, importance=h)
    for name, layer in layers(model):
        forms = [compressed_form(network.get_submodule(name))[0] for network in (plain, model)]
        assert torch.equal(forms[0].codes, forms[1].codes)
        assert not torch.equal(layer.weight, plain.get_submodule(name).weight)


def test_a_network_gets_the_bits_it_is_given():
    model = uniform.share(prune(models.lenet_300_100(), density=0.2), bits=2.0)
    codes = torch.cat([compressed_form(layer)[0].codes for _, layer in layers(model)]).numpy()
    assert 1.9 < uniform.rate(codes) <= 2.0


def test_a_torchvision_network_and_odd_layers():
    from lib.vision import torchvision

    model = uniform.share(torchvision.models.shufflenet_v2_x0_5(num_classes=3), step=0.03)
    assert all(compressed_form(layer) for _, layer in layers(model))
    for layer in (nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(1, 1, 1), nn.Embedding(4, 2)):
        form, stored = compressed_form(uniform.share(layer, step=0.2))
        assert torch.equal(form.decode(form.encode(*stored), layer.weight.shape), layer.weight)
    constant = nn.Linear(3, 3)
    nn.init.constant_(constant.weight, 0.7)
    assert uniform.share(constant, step=0.2).weight.unique().tolist() == [pytest.approx(0.7)]


def test_bad_arguments_are_refused():
    for step in (0.0, -1.0, float("nan"), float("inf"), 1e-300):
        with pytest.raises(ValueError, match="step must be positive and fit the values"):
            uniform.codebook(FEW, step)
    with pytest.raises(ValueError, match=r"makes .* cells: at most 65535"):
        uniform.codebook(GAUSS, 1e-7)
    for values in ([], [np.nan], [np.inf, 1]):
        with pytest.raises(ValueError, match="must be finite numbers, one or more"):
            uniform.codebook(np.array(values), 1.0)
    for weights in (-np.ones(300), np.ones(3), np.full(300, np.nan)):
        with pytest.raises(ValueError, match="one finite weight that is not negative"):
            uniform.codebook(FEW, 1.0, weights)
    for bits in (0, -1, 30, float("nan")):
        with pytest.raises(ValueError, match="bits must lie between 0 and"):
            uniform.step_for(FEW, bits)
    with pytest.raises(ValueError, match=r"between 0 and 0.000"):
        uniform.step_for(np.ones(5), 1)
    for both in ({}, {"step": 1.0, "bits": 1.0}):
        with pytest.raises(ValueError, match="either step or bits must be given"):
            uniform.share(models.lenet_300_100(), **both)
