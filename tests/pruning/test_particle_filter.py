"""The particle filter against its definition, and against all masks there are."""

import copy
import itertools
import re
from ast import literal_eval

import given_tokens
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, structure, training
from lib.datasets import Split
from lib.pruning.particle_filter import crossed, evaluator, likelihoods, moved, search, systematic
from lib.vision import torchvision


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 50.0])
def test_likelihoods_are_the_tempered_accuracies_and_sum_to_one(temperature):
    errors = torch.tensor([0.0, 0.05, 0.3, 0.9], dtype=torch.float64)
    power = (1 - errors.numpy()) ** (1 / temperature)
    weights = likelihoods(errors, temperature)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.numpy() == pytest.approx(power / power.sum())


def test_networks_that_know_nothing_have_likelihoods_too():
    assert likelihoods(torch.ones(3), 0.02).tolist() == pytest.approx([1 / 3] * 3)
    assert likelihoods(torch.tensor([1.0, 0.5]), 0.02)[1] == pytest.approx(1)


def test_systematic_resampling_is_unbiased_and_copies_are_rounded_up_or_down():
    weights = torch.tensor([0.05, 0.4, 0.11, 0.0, 0.44], dtype=torch.float64)
    offsets = (np.arange(2000) + 0.5) / 2000
    counts = np.array([np.bincount(systematic(weights, u), minlength=5) for u in offsets])
    expected = 5 * weights.numpy()
    assert counts.sum(1).tolist() == [5] * 2000
    assert counts.mean(0) == pytest.approx(expected, abs=1e-3)
    assert ((counts == np.floor(expected)) | (counts == np.ceil(expected))).all()


def test_equal_weights_copy_each_particle_once():
    assert systematic(torch.full((7,), 1 / 7), 0.37).tolist() == list(range(7))


@pytest.mark.parametrize(("kept", "moves"), [(1, 1), (4, 2), (7, 5), (4, 100)])
def test_a_move_exchanges_channels_and_keeps_their_number(kept, moves):
    mask = torch.arange(8) < kept
    for seed in range(20):
        after = moved(mask, moves, generator(seed))
        assert after.sum() == kept
        assert (after ^ mask).sum() == 2 * min(moves, kept, 8 - kept)
    assert mask.sum() == kept  # the argument is not changed


def test_a_child_keeps_what_both_parents_keep_and_nothing_that_neither_does():
    for seed in range(50):
        one, other = (torch.randperm(12, generator=generator(seed + i)) < 5 for i in (0, 1000))
        child = crossed(one, other, generator(seed))
        assert child.sum() == 5
        assert child[one & other].all() and not child[~one & ~other].any()


def table(seed):
    """A rate for each of the 20 masks that keep 3 of 6 channels, with interactions between the channels."""
    random = np.random.default_rng(seed)
    singles, pairs = random.random(6), random.random((6, 6))
    masks = [torch.tensor([i in kept for i in range(6)]) for kept in itertools.combinations(range(6), 3)]
    rates = {}
    for mask in masks:
        m = mask.numpy().astype(float)
        rates[mask.numpy().tobytes()] = float(1 / (1 + np.exp(m @ singles + m @ pairs @ m - 4)))
    return rates


@pytest.mark.parametrize("evolutionary", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_best_of_all_masks(seed, evolutionary):
    rates = table(seed)
    history = search(
        lambda mask: rates[mask.numpy().tobytes()],
        channels=6,
        keep=3,
        seed=seed,
        particles=8,
        iterations=15,
        moves=1,
        evolutionary=evolutionary,
    )
    assert history.best_error == min(rates.values()) == rates[history.best.numpy().tobytes()]
    assert history.evaluations <= 20


@pytest.mark.parametrize("evolutionary", [False, True])
def test_the_masks_keep_their_size_and_the_best_never_gets_worse(evolutionary):
    weights = torch.rand(20, generator=generator())
    calls = []

    def evaluate(mask):
        calls.append(mask)
        return float(1 - weights[mask].sum() / weights.sum())

    history = search(evaluate, channels=20, keep=8, seed=1, particles=12, iterations=9, evolutionary=evolutionary)
    best = history.errors.min(1).values
    assert history.errors.shape == (10, 12) and history.masks.shape == (12, 20)
    assert (history.masks.sum(1) == 8).all()
    assert (best[1:] <= best[:-1]).all() and history.best_error == best[-1]
    assert history.evaluations == len(calls) == len({call.numpy().tobytes() for call in calls})
    assert history.errors[-1].mean() < history.errors[0].mean()  # a sum of weights is an easy hill


def test_the_seed_decides_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    runs = [search(lambda m: m.float() @ torch.arange(9.0) / 36, channels=9, keep=4, seed=s) for s in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0].errors, runs[1].errors) and not torch.equal(runs[0].errors, runs[2].errors)


def test_no_iterations_are_a_random_search():
    history = search(lambda mask: mask[0].item() / 2, channels=5, keep=2, seed=0, particles=90, iterations=0)
    assert history.errors.shape == (1, 90) and history.best_error == 0 and history.evaluations == 10


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1"])
def test_the_rate_of_a_mask_is_that_of_the_physically_smaller_network(layer):
    model = models.lenet5()
    split = Split(torch.rand(64, 1, 28, 28, generator=generator()), torch.arange(64) % 10)
    before = copy.deepcopy(model.state_dict())
    evaluate, channels = evaluator(model.train(), layer, split)
    mask = torch.rand(channels, generator=generator(1)) < 0.3
    small = structure.shrink(model, {layer: mask}, split.images[:1])
    assert evaluate(mask) == training.error_pct(small, split) / 100
    assert evaluate(torch.ones(channels, dtype=torch.bool)) == training.error_pct(model, split) / 100
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("patch", [2, 8])  # 64 tokens and 4, of 16 features
@pytest.mark.parametrize("kind", [nn.Sequential, given_tokens.AsConvolutions])
def test_the_rate_of_units_of_tokens_is_that_of_the_smaller_network(kind, patch):
    model, split = kind(given_tokens.mixer(patch)), given_tokens.patches()
    layer = "0.fc1" if kind is nn.Sequential else "fc1"
    evaluate, channels = evaluator(model, layer, split)
    assert channels == 16
    for seed in range(4):
        mask = torch.rand(channels, generator=generator(seed)) < 0.3
        small = structure.shrink(model, {layer: mask}, split.images[:1])
        assert evaluate(mask) == training.error_pct(small, split) / 100
    assert evaluate(torch.arange(16) != 3) == training.error_pct(model, split) / 100  # unit 3 is dead


def test_masks_measure_a_network_of_another_type():
    model = models.lenet5().bfloat16()
    split = Split(torch.rand(8, 1, 28, 28, generator=generator()).bfloat16(), torch.arange(8))
    evaluate, channels = evaluator(model, "conv1", split)
    assert evaluate(torch.ones(channels, dtype=torch.bool)) == training.error_pct(model, split) / 100


def test_numbers_of_numpy_are_accepted():
    numbers = {"channels": 9, "keep": 4, "seed": 3, "particles": 5, "iterations": 2, "moves": 1}
    one, other = (
        search(lambda m: m.float() @ torch.arange(9.0) / 36, **{name: kind(n) for name, n in numbers.items()})
        for kind in (int, np.int64)
    )
    assert torch.equal(one.errors, other.errors)


def test_networks_that_others_wrote():
    split = Split(torch.rand(2, 3, 64, 64, generator=generator()), torch.tensor([0, 1]))
    for name, layer in (("resnet18", "layer1.0.conv1"), ("squeezenet1_1", "features.3.squeeze")):
        model = getattr(torchvision.models, name)(num_classes=2).train()
        evaluate, channels = evaluator(model, layer, split)
        assert evaluate(torch.arange(channels) < channels // 2) in (0, 0.5, 1)
        assert model.training and not any(module._forward_pre_hooks for module in model.modules())


def test_bad_arguments_are_one_sentence():
    def evaluate(mask):
        return 0.0

    for options, message in (
        ({"channels": 4, "keep": 4}, "between 1 and 3 of 4 channels, not 4"),
        ({"channels": 4, "keep": 0}, "keep must be 1 or more, not 0"),
        ({"channels": 1, "keep": 1}, "channels must be 2 or more, not 1"),
        ({"channels": 4, "keep": 2, "particles": 0}, "particles must be 1 or more, not 0"),
        ({"channels": 4, "keep": 2, "moves": 0.5}, "moves must be a whole number, 1 or more, not 0.5"),
        ({"channels": 4, "keep": 2, "iterations": -1}, "iterations must be 0 or more, not -1"),
        ({"channels": 4, "keep": 2, "temperature": 0}, "temperature must be above 0, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            search(evaluate, seed=0, **options)
    for rate in (float("nan"), 1.5, -0.1):
        with pytest.raises(ValueError, match="misclassification rates must be numbers in"):
            search(lambda mask, rate=rate: rate, channels=4, keep=2, seed=0)


def test_evaluators_without_data_or_layer_are_refused():
    split = Split(torch.rand(4, 1, 28, 28), torch.arange(4))
    with pytest.raises(ValueError, match="empty"):
        evaluator(models.lenet5(), "conv1", split.first(0))
    for name in ("'fc2'", "'conv9'", "['conv1']"):  # an output, nothing, and a list
        message = f"layer must be one whose filters can go (conv1, conv2, fc1), not {name}"
        with pytest.raises(ValueError, match=re.escape(message)):
            evaluator(models.lenet5(), literal_eval(name), split)
    evaluate, _ = evaluator(models.lenet5(), "conv1", split)
    with pytest.raises(ValueError, match="must be 20 truth values"):
        evaluate(torch.ones(20))


def test_hooks_go_away_when_the_network_fails():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    split = Split(torch.rand(4, 1, 8, 8), torch.arange(4) % 3)
    evaluate, _ = evaluator(model, "0", split)
    model[3].in_features, weight = 7, model[3].weight
    model[3].weight = nn.Parameter(weight[:, :7].detach())
    with pytest.raises(ValueError, match="does not take images"):
        evaluate(torch.tensor([True, False, True, True]))
    assert model.training and not model[3]._forward_pre_hooks
