"""Pruned and shared weights: starts, clusters, gradients, gaps, and the file."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lib import models, training
from lib.coding import coders, gaps
from lib.datasets import Split
from lib.pruning.magnitude import prune
from lib.quantization.deep_compression import (
    LLOYD_STARTS,
    STARTS,
    PrunedSharedWeight,
    cluster,
    set_gap_bits,
    share_survivors,
    starting_points,
)
from lib.quantization.optimal_kmeans import optimal
from lib.weights import compressed_form, layers

VALUES = np.random.default_rng(0).normal(size=2000)


def layer_with(places, size=12_000):
    layer = nn.Linear(size, 1, bias=False)
    layer.weight.data.zero_()
    layer.weight.data[0, list(places)] = torch.arange(1.0, len(places) + 1)
    return layer


def encoded(layer):
    form, stored = compressed_form(layer)
    return form.encode(*(s.detach() for s in stored))


# -- Starts ------------------------------------------------------------------------------------------------------------


def test_linear_start_is_evenly_spaced_from_least_to_largest():
    begin = starting_points(VALUES, 9, start="linear")
    assert begin[0] == VALUES.min() and begin[-1] == VALUES.max()
    np.testing.assert_allclose(np.diff(begin), np.diff(begin)[0])


def test_density_start_has_as_many_values_between_any_two():
    begin = starting_points(np.random.default_rng(0).permutation(1000), 10, start="density")
    assert np.histogram(np.arange(1000), begin)[0].tolist() == [100] * 9


def test_random_start_is_drawn_from_the_values_without_replacement():
    begin = starting_points(VALUES, 50, start="random", seed=3)
    assert len(set(begin)) == 50 and set(begin) <= set(VALUES)
    assert np.array_equal(begin, starting_points(VALUES, 50, start="random", seed=3))
    assert not np.array_equal(begin, starting_points(VALUES, 50, start="random", seed=4))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("k", [1, 2, 31])
def test_no_start_ends_below_the_optimum(start, k):
    book, best = cluster(VALUES, k, start=start), optimal(VALUES, k)
    assert book.squared_error >= best.squared_error * (1 - 1e-12)
    assert (start == "optimal") <= (book.squared_error == best.squared_error)


@pytest.mark.parametrize("start", STARTS)
def test_fewer_values_than_clusters_lose_nothing(start):
    assert cluster(np.array([3.0, -1, 2]), 31, start=start).squared_error == 0


# -- Survivors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_survivors_share_values_and_zeros_stay_zero(start):
    model = prune(models.lenet5(), density=0.1)
    zero = {name: layer.weight == 0 for name, layer in layers(model)}
    share_survivors(model, bits=3, start=start)
    for name, layer in layers(model):
        assert (layer.weight[zero[name]] == 0).all()
        assert layer.weight[~zero[name]].unique().numel() <= 7


def test_gradient_of_a_centroid_is_the_sum_over_its_cluster():
    torch.manual_seed(0)
    layer, x = prune(nn.Linear(30, 20), density=0.4), torch.randn(8, 30)
    share_survivors(layer, bits=3)
    plain = nn.Linear(30, 20)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    for network in (layer, plain):
        network(x).square().sum().backward()
    form, (centroids,) = compressed_form(layer)
    dense = plain.weight.grad.double().flatten()
    for k in range(len(centroids)):
        expected = dense[form.places[form.codes == k]].sum().item()
        assert centroids.grad[k].item() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_training_moves_centroids_and_neither_zeros_nor_clusters():
    model = share_survivors(prune(models.lenet_300_100(), density=0.05), bits=3)
    before = {
        name: (compressed_form(layer)[0].codes.clone(), layer.weight.detach().clone()) for name, layer in layers(model)
    }
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.rand(40, 1, 28, 28, generator=generator), torch.arange(40) % 10)
    training.fit(model, split, epochs=2, seed=0, learning_rate=1e-3, weight_decay=0.1)
    for name, layer in layers(model):
        codes, weight = before[name]
        assert torch.equal(compressed_form(layer)[0].codes, codes)
        assert torch.equal(layer.weight == 0, weight == 0) and not torch.equal(layer.weight, weight)
        assert layer.weight.unique().numel() <= 8


# -- The two streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap_bits", [None, 1, 2, 5, 8, 16])
@pytest.mark.parametrize(
    "places",
    [[], [0], [11_999], [0, 11_999], [10_000], [3, 4, 5], [0, 32], [0, 33], [0, 256, 513, 10_513], list(range(50))],
)
def test_the_file_alone_gives_the_same_weight(places, gap_bits):
    layer = share_survivors(layer_with(places), bits=4, gap_bits=gap_bits)
    assert layer.weight.flatten().nonzero().flatten().tolist() == places
    assert torch.equal(PrunedSharedWeight.decode(encoded(layer), layer.weight.shape), layer.weight)


@pytest.mark.parametrize(("gap", "fillers"), [(1, 0), (32, 0), (33, 1), (64, 1), (65, 2), (10_000, 312)])
def test_fillers_carry_code_0_and_bridge_gaps_beyond_2_to_the_g(gap, fillers):
    symbols = encoded(share_survivors(layer_with([0, gap]), bits=2, gap_bits=5)).symbols
    assert (symbols["code"] == 0).sum() == fillers and len(symbols["code"]) == len(symbols["gap"]) == 2 + fillers
    assert (symbols["gap"][symbols["code"] == 0] == 31).all()
    assert gaps.positions(symbols["gap"].numpy())[symbols["code"].numpy() > 0].tolist() == [0, gap]


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_codes_fit_their_bits_with_the_fillers_included(bits):
    model = share_survivors(prune(models.lenet_300_100(), density=0.02), bits=bits, gap_bits=2)
    for _, layer in layers(model):
        encoding = encoded(layer)
        assert encoding.symbols["code"].max() < 2**bits and encoding.symbols["gap"].max() < 4
        assert len(encoding.tables["centroid"]) <= 2**bits - 1


def test_a_chosen_gap_width_is_never_beaten_by_much():
    model = prune(models.lenet_300_100(), density=0.08)

    def bits_of_streams(g):
        streams = encoded(share_survivors(prune(models.lenet_300_100(), density=0.08), bits=5, gap_bits=g).fc1).symbols
        return sum(coders.entropy_bits(np.bincount(s.numpy())) for s in streams.values())

    chosen = encoded(share_survivors(model, bits=5).fc1).symbols
    cost = sum(coders.entropy_bits(np.bincount(s.numpy())) for s in chosen.values())
    assert cost <= 1.02 * min(bits_of_streams(g) for g in (4, 5, 6, 8))


def test_a_layer_pruned_to_nothing_is_kept_and_trains_on():
    model = models.lenet_300_100()
    model.fc2.weight.data.zero_()
    share_survivors(model, bits=3)
    split = Split(torch.rand(6, 1, 28, 28), torch.arange(6))
    training.fit(model, split, epochs=1, seed=0, learning_rate=1e-3)
    assert model.fc2.weight.count_nonzero() == 0
    assert torch.equal(PrunedSharedWeight.decode(encoded(model.fc2), model.fc2.weight.shape), model.fc2.weight)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(1, 1, 1), nn.Embedding(5, 3)])
def test_depthwise_single_and_embedding_layers_share(layer):
    share_survivors(layer, bits=2, start="optimal")
    assert layer.weight.unique().numel() <= 3
    assert torch.equal(PrunedSharedWeight.decode(encoded(layer), layer.weight.shape), layer.weight)


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused_with_what_is_accepted():
    model = models.lenet_300_100()
    for call in (lambda: share_survivors(model, bits=2, start="best"), lambda: cluster(VALUES, 3, start="best")):
        with pytest.raises(ValueError, match="start must be one of linear, density, random, optimal, not 'best'"):
            call()
    for bits, gap in itertools.product((0, 17), (None, 5)):
        with pytest.raises(ValueError, match=rf"bits must be in 1..16, not {bits}"):
            share_survivors(model, bits=bits, gap_bits=gap)
    for gap in (0, 17, -1):
        with pytest.raises(ValueError, match=rf"gap_bits must be in 1..16, not {gap}"):
            share_survivors(model, bits=2, gap_bits=gap)
    with pytest.raises(ValueError, match="no layer 'fc9'"):
        share_survivors(model, bits={"fc9": 2})
    with pytest.raises(ValueError, match="no layer with a weight"):
        share_survivors(nn.ReLU(), bits=2)


@pytest.mark.parametrize(("call", "listed"), [(cluster, STARTS), (starting_points, LLOYD_STARTS)])
def test_the_error_lists_the_starts_that_are_accepted(call, listed):
    for start in STARTS:
        if start in listed:
            call(VALUES, 3, start=start)
        else:
            with pytest.raises(ValueError, match=f"start must be one of {', '.join(listed)}, not '{start}'"):
                call(VALUES, 3, start=start)


def test_a_gap_width_that_is_refused_changes_none():
    model = share_survivors(models.lenet_300_100(), bits=2, gap_bits=5)
    with pytest.raises(ValueError, match=r"gap_bits must be in 1..16, not 17"):
        set_gap_bits(model, 17)
    assert model.fc1.parametrizations.weight[0].gap_bits == 5
