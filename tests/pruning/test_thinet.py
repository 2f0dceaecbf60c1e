"""The greedy search against brute force, and the factors against a second least-squares solver."""

from itertools import combinations

import given
import numpy as np
import pytest
import torch

from lib import models, structure
from lib.datasets import Split
from lib.pruning import thinet
from lib.pruning.shared import patches, reconstruction


def matrix(channels, seed, rows=30):
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, x.T @ x


def split(*shape, seed=0):
    return given.split(*shape, seed=seed, labels="zero", dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_each_step_of_the_search_is_the_best_by_brute_force(seed):
    x, gram = matrix(9, seed)
    order, gone = thinet.removal_order(gram).tolist(), []
    for j in order:
        errors = {k: float((x[:, [*gone, k]].sum(1) ** 2).sum()) for k in range(9) if k not in gone}
        assert errors[j] == pytest.approx(min(errors.values()))
        gone.append(j)
        assert thinet.objective(gram, torch.tensor(gone)) == pytest.approx(errors[j])
    assert sorted(order) == list(range(9))


@pytest.mark.parametrize("seed", range(5))
def test_the_search_is_best_of_all_sets_for_the_first_pick(seed):
    _, gram = matrix(8, seed)
    order = thinet.removal_order(gram)
    for size in range(1, 9):
        best = min(thinet.objective(gram, torch.tensor(each)) for each in combinations(range(8), size))
        assert best <= thinet.objective(gram, order[:size]) + 1e-9
        if size in (1, 8):
            assert thinet.objective(gram, order[:size]) == pytest.approx(best)


def test_a_dead_channel_goes_first_and_costs_nothing():
    x, _ = matrix(6, 0)
    x[:, 4] = 0
    order = thinet.removal_order(x.T @ x)
    assert order[0] == 4 and thinet.objective(x.T @ x, order[:1]) == 0


def test_channels_that_cancel_go_one_after_the_other():
    x, _ = matrix(6, 0)
    x[:, 5] = -x[:, 2]
    gram, order = x.T @ x, thinet.removal_order(x.T @ x).tolist()
    assert abs(order.index(2) - order.index(5)) == 1
    assert thinet.objective(gram, torch.tensor([2, 5])) == pytest.approx(0, abs=1e-9)


def test_keep_removes_exactly_what_the_search_has_removed():
    model, data = given.two_convolutions(), split(8, 1, 8, 8)
    found = structure.groups(model, data.images[:1])
    scores, matrices = thinet.scores(model, data), reconstruction.grams(model, data)
    assert scores.keys() == {"0", "2"} == {name for group in found for name in group.producers}
    for fraction in (0.2, 0.5, 0.7):
        masks = structure.keep(scores, fraction=fraction, groups=found)
        for name, mask in masks.items():
            gone = thinet.removal_order(matrices[name])[: int(fraction * len(mask) + 1e-9)]
            assert sorted(gone.tolist()) == (~mask).nonzero().flatten().tolist()


def test_a_filter_that_no_one_hears_has_the_lowest_score():
    model, data = given.two_convolutions(), split(8, 1, 8, 8)
    model[2].weight.data[:, 3] = 0
    model[5].weight.data.view(4, 5, 16)[:, 1] = 0
    scores = thinet.scores(model, data)
    assert scores["0"][3] == 0 and scores["2"][1] == 0


def test_factors_are_the_least_squares_of_numpy():
    model, data = given.two_convolutions(), split(8, 1, 8, 8)
    masks = {"0": torch.tensor([True, False, True, True, False, True])}
    scaled = thinet.rescale(model, masks, data, places=99)
    (_, read, answers) = next(patches.sampled(model, ["2"], data, places=99))
    kept = masks["0"]
    each = reconstruction.contributions(read[:, kept], patches.kernels(model[2])[:, kept])
    w, *_ = np.linalg.lstsq(each.flatten(0, 1).numpy(), answers.flatten().numpy())
    torch.testing.assert_close(scaled[2].weight[:, kept], model[2].weight[:, kept] * torch.tensor(w)[:, None, None])
    assert torch.equal(scaled[5].weight, model[5].weight)


def test_factors_after_a_flatten_are_one_for_each_map():
    model, data = given.two_convolutions(), split(30, 1, 8, 8)
    masks = {"2": torch.tensor([True, False, True, True, False])}
    scaled = thinet.rescale(model, masks, data)
    ratio = (scaled[5].weight / model[5].weight).view(4, 5, 16)[:, masks["2"]]
    factors = ratio[0, :, 0]
    torch.testing.assert_close(ratio, factors[:, None].expand_as(ratio))
    assert len(factors.unique()) == 3


@pytest.mark.parametrize("seed", range(3))
def test_factors_never_increase_the_sampled_error_of_a_layer(seed):
    model, data = given.two_convolutions(seed), split(8, 1, 8, 8, seed=seed)
    for name, consumer, count in (("0", 2, 6), ("2", 5, 5)):
        masks = {name: torch.arange(count) % 2 == 0}
        plain, scaled = structure.mask(model, masks, data.images[:1]), thinet.rescale(model, masks, data, places=99)
        (_, read, _), (_, _, wanted) = (next(patches.sampled(m, [str(consumer)], data)) for m in (plain, model))
        before, after = (
            ((reconstruction.contributions(read, patches.kernels(m[consumer])).sum(2) - wanted) ** 2).sum()
            for m in (plain, scaled)
        )
        assert after < before


@pytest.mark.parametrize("build", ["resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_networks_of_others(build):
    model, data, found = given.of_torchvision(build)
    scores = thinet.scores(model, data, places=2, outputs=4)
    assert scores.keys() == {name for group in found for name in group.producers}
    masks = structure.keep(scores, fraction=0.5, groups=found)
    assert all(len(score.unique()) == len(score) for score in scores.values())
    assert all(masks.removed[name] == len(score) // 2 for name, score in scores.items())


def test_tied_layers_have_the_same_scores_and_parameters_keep_their_gradients():
    model, data = models.resnet8(width=4), Split(split(3, 3, 16, 16).images.float(), torch.zeros(3, dtype=torch.long))
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    scores = thinet.scores(model, data)
    assert torch.equal(scores["conv"], scores["stage1_1.conv2"])
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight)) and model.fc.weight.grad is None


def test_an_empty_split_is_refused():
    model, data = given.two_convolutions(), split(2, 1, 8, 8)
    with given.refused(model, "the split is empty"):
        thinet.scores(model, data.first(0))
    with given.refused(model, "the split is empty"):
        thinet.rescale(model, {"0": torch.ones(6, dtype=torch.bool)}, data.first(0))
    with pytest.raises(ValueError, match="no filters that can go"):
        thinet.rescale(model, {"5": torch.ones(4, dtype=torch.bool)}, data)
