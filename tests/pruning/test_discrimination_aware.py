"""The greedy choice against matching pursuit by least squares, and the scores on networks of many kinds."""

import copy
import itertools

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, structure
from lib.datasets import Split
from lib.pruning import discrimination_aware
from lib.pruning.discrimination_aware import greedy, owner, scores, select
from lib.vision import torchvision


def split(n=12, shape=(1, 28, 28), classes=10):
    return given.split(n, *shape, classes=classes, labels="in turn")


@pytest.fixture
def regression():
    """Q samples of 6 channels with 2 inputs each, and what a layer with 3 outputs makes of them."""
    generator = np.random.default_rng(0)
    x, trained = generator.normal(size=(40, 12)), generator.normal(size=(3, 12))
    return x, x @ trained.T, trained


def pursued(x, output, channels):
    """Group orthogonal matching pursuit, written with numpy alone."""
    order, residual, losses = [], output, []
    columns = np.arange(x.shape[1]).reshape(channels, -1)
    for _ in range(channels):
        strength = [np.linalg.norm(x[:, columns[k]].T @ residual) if k not in order else -1 for k in range(channels)]
        order.append(int(np.argmax(strength)))
        inside = columns[order].flatten()
        residual = output - x[:, inside] @ np.linalg.lstsq(x[:, inside], output, rcond=None)[0]
        losses.append((residual**2).mean() / 2)
    return order, losses


def exact(x, output):
    """An exact least-squares fit of the weights in A, in the form that greedy wants."""

    def refit(weights, inside):
        columns = inside["layer"][0].bool().numpy()
        fitted = np.zeros((output.shape[1], x.shape[1]))
        fitted[:, columns] = np.linalg.lstsq(x[:, columns], output, rcond=None)[0].T
        return {"layer": torch.from_numpy(fitted)}

    return refit


def test_without_discrimination_and_with_exact_fits_it_is_orthogonal_matching_pursuit(regression):
    x, output, trained = regression
    numbers = owner(nn.Linear(12, 3), torch.arange(12).reshape(6, 2))

    def loss(weights):
        return (torch.from_numpy(output) - torch.from_numpy(x) @ weights["layer"].T).square().mean() / 2

    order, fits = greedy(loss, {"layer": torch.from_numpy(trained)}, {"layer": numbers}, exact(x, output))
    expected, losses = pursued(x, output, 6)
    assert order == expected and sorted(order) == list(range(6))
    measured = [loss(fit).item() for fit in fits]
    np.testing.assert_allclose(measured, losses, atol=1e-12)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(measured))
    for chosen, fit in enumerate(fits, 1):  # what is left over is at a right angle to all that was chosen
        inside = np.arange(12).reshape(6, 2)[order[:chosen]].flatten()
        residual = output - x @ fit["layer"].numpy().T
        np.testing.assert_allclose(x[:, inside].T @ residual, 0, atol=1e-9)


def test_the_first_choice_is_the_channel_with_the_largest_correlation():
    data, model = split(8, (1, 6, 6)), nn.Sequential(nn.Conv2d(1, 5, 3, bias=False), nn.Conv2d(5, 4, 3, bias=False))
    model.extend([nn.Flatten(), nn.Linear(16, 10)]).eval()
    x = model[0](data.images).detach()
    windows = nn.functional.unfold(x, 3).reshape(8, 5, 9, -1)  # (n, channel, k * k, places)
    output = model[1](x).detach().flatten(2)  # (n, out, places)
    correlation = torch.einsum("nckp,nop->cko", windows, output).flatten(1).norm(dim=1)
    found = scores(model, data, discrimination=0, rounds=5, steps=0)
    assert found["0"].argmax() == correlation.argmax()


def test_several_channels_at_once_without_steps_follow_the_first_gradient(regression):
    x, output, trained = regression
    numbers = owner(nn.Linear(12, 3), torch.arange(12).reshape(6, 2))

    def loss(weights):
        return (torch.from_numpy(output) - torch.from_numpy(x) @ weights["layer"].T).square().mean() / 2

    start = {"layer": torch.from_numpy(trained)}
    order, fits = greedy(loss, start, {"layer": numbers}, lambda weights, inside: weights, portion=6)
    strength = np.linalg.norm((x.T @ output).reshape(6, 6), axis=1)
    assert order == np.argsort(-strength).tolist() and len(fits) == 1
    assert torch.equal(fits[0]["layer"], start["layer"])


def test_the_only_channel_that_carries_the_classes_is_chosen_first():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    images = torch.rand(64, 4, 4, 4) * 3
    images[:, 2] = labels[:, None, None].float()  # weak, but the only one that knows
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU())
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)])
    model[0].weight.data = torch.eye(4)[:, :, None, None]
    model[2].weight.data = torch.tensor([0.3, 0.2, 0.1])[:, None, None, None].expand(3, 4, 1, 1).clone()
    model[2].bias.data.fill_(1)
    model[6].weight.data, model[6].bias.data = torch.tensor([[-1.0, 1, 0], [1, -1, 0]]), torch.zeros(2)
    options = {"rounds": 4, "steps": 0, "classifiers": 0, "batch_size": 64}
    discriminative = scores(model, Split(images, labels), reconstruction=0, **options)["0"]
    rebuilding = scores(model, Split(images, labels), discrimination=0, **options)["0"]
    assert rebuilding.argmin() == 2
    assert discriminative.argmax() == 2


def test_owner_of_grouped_weights_and_of_inputs_that_belong_to_others():
    assert (
        owner(nn.Conv2d(4, 6, 1, groups=2), torch.tensor([[3], [0]])).flatten(1).tolist()
        == [[1, -1]] * 3 + [[-1, 0]] * 3
    )
    assert owner(nn.Linear(4, 1), torch.tensor([[0, 1], [2, 3]])).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.lenet5(), (1, 28, 28)),
        (models.resnet8(width=4), (3, 16, 16)),
        (models.lenet_300_100(), (1, 28, 28)),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2)), (1, 4, 4)),
        (
            nn.Sequential(*(nn.Conv2d(a, 4, 3, groups=g, bias=False) for a, g in ((1, 1), (4, 4), (4, 1), (4, 2)))),
            (1, 9, 9),
        ),
    ],
)
def test_every_producer_gets_a_ranking_and_the_model_stays_as_it_was(model, shape):
    model = model if not isinstance(model[-1], nn.Conv2d) else model.extend([nn.Flatten(), nn.Linear(4, 2)])
    data, before, state = split(6, shape, 2), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    found = scores(model, data, rounds=2, steps=1)
    names = {name for group in structure.groups(model, data.images[:1]) for name in group.producers}
    assert set(found) == names
    for name, score in found.items():
        n = len(model.get_submodule(name).weight)
        assert torch.equal(score.sort().values, torch.arange(1, n + 1) / n)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules()) and all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules()) and torch.equal(torch.get_rng_state(), state)
    again = scores(model, data, rounds=2, steps=1)
    assert all(torch.equal(score, again[name]) for name, score in found.items())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_networks_that_nobody_here_wrote(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=3).eval()
    for group in structure.groups(model, torch.zeros(1, 3, 32, 32))[4:]:
        model.get_submodule(group.producers[0]).requires_grad_(False)  # frozen layers are no obstacle
    data = split(2, (3, 32, 32), 3)
    found = scores(model, data, rounds=1, steps=0, batch_size=2)
    small = structure.shrink(
        model, structure.keep(found, fraction=0.5, groups=structure.groups(model, data.images[:1])), data.images[:1]
    )
    assert small(data.images).shape == (2, 3) and all(score.isfinite().all() for score in found.values())


def test_one_sample_is_enough_and_tied_layers_have_the_same_scores():
    model = models.resnet8(width=4)
    found = scores(model, split(1, (3, 16, 16)), rounds=2, steps=1)
    assert torch.equal(found["conv"], found["stage1_1.conv2"])


def test_bad_input_is_refused_in_a_sentence():
    model, data = models.lenet5(), split()
    with pytest.raises(ValueError, match="the split is empty: at least one sample"):
        scores(model, data.first(0))
    with pytest.raises(ValueError, match=r"must be finite, 0 or more and not both 0, not 0\.0 and 0\.0"):
        scores(model, data, discrimination=0.0, reconstruction=0.0)
    for wrong in (
        {"rounds": 0},
        {"steps": -1},
        {"classifiers": -1},
        {"batch_size": 0},
        {"learning_rate": float("nan")},
    ):
        with pytest.raises(ValueError, match="rounds, portion and batch_size must be 1 or more"):
            scores(model, data, **wrong)
    with pytest.raises(ValueError, match="portion and most must be 1 or more, not 0"):  # the loop would never end
        greedy(sum, {}, {}, lambda weights, inside: weights, portion=0)


# -- the whole method --------------------------------------------------------------------------------------------------


def chain(seed=0):
    def build():
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    return given.seeded(build, seed).eval()


@pytest.mark.parametrize("tuning", [0, 1])
@pytest.mark.parametrize("choose", ["gradient", "random"])
def test_the_chosen_network_is_the_shrunk_one(tuning, choose):
    model, data = chain(), split(24, (1, 10, 10), 4)
    masks = select(model, data, fraction=0.5, steps=3, batch_size=10, tuning=tuning, choose=choose)
    assert masks.removed == {"0": 3, "3": 4} and not model.training
    small = structure.shrink(model, masks, data.images[:1])
    torch.testing.assert_close(small(data.images), model(data.images))
    assert [small[i].out_channels for i in (0, 3)] == [3, 4]


def test_the_fitted_weights_stay_and_rebuild_better_than_old_ones():
    model, data = chain(), split(40, (1, 10, 10), 4)
    data = Split(10 * data.images, data.labels)  # so that a hundred steps come close to the minimum
    targets, old = model[:4](data.images), model[3].weight.detach().clone()
    options = {"discrimination": 0.0, "tuning": 0, "steps": 200, "learning_rate": 0.003}
    masks = select(model, data, fraction=0.5, **options)
    kept = masks["0"]
    fitted = model[3].weight.detach().clone()
    assert not fitted[:, ~kept].any() and not torch.equal(fitted[:, kept], old[:, kept])

    def error(weight):
        inputs = model[:3](data.images) * kept[:, None, None]
        return (nn.functional.conv2d(inputs, weight, model[3].bias) - targets).square().mean()

    assert error(fitted) < 0.9 * error(old)


def test_layers_are_chosen_in_the_network_that_is_pruned_so_far(monkeypatch):
    model, data, seen = chain(), split(24, (1, 10, 10), 4), []
    greedy_once = discrimination_aware.greedy

    def noting(loss, trained, owners, refit, **options):
        seen.append((next(iter(trained)), int((model[3].weight == 0).all(dim=(0, 2, 3)).sum())))
        return greedy_once(loss, trained, owners, refit, **options)

    monkeypatch.setattr(discrimination_aware, "greedy", noting)
    select(model, data, fraction=0.5, steps=1, tuning=0)
    assert seen == [("3", 0), ("7", 3)], "when the second group is chosen, three inputs of layer 3 are gone"


def test_with_every_channel_kept_and_no_steps_nothing_changes():
    model, data = chain(), split(12, (1, 10, 10), 4)
    masks = select(model, data, fraction=0.0, steps=0, tuning=0)
    assert all(mask.all() for mask in masks.values()) and given.equal(model, chain())


def test_a_loose_stop_keeps_fewer_channels():
    kept = []
    for stop in (0.0, 0.02, 10.0):
        masks = select(chain(), split(24, (1, 10, 10), 4), fraction=0.2, steps=2, tuning=0, stop=stop)
        kept.append(sum(int(mask.sum()) for mask in masks.values()))
    assert kept[0] == 5 + 7 and kept[0] >= kept[1] >= kept[2] == 2, "the loosest stops after the first portion"


def test_only_what_needs_a_gradient_is_tuned():
    model, data = chain(), split(24, (1, 10, 10), 4)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    select(model, data, fraction=0.5, steps=1)
    assert torch.equal(model[0].weight, before) and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("build", [lambda: models.resnet8(width=4), lambda: models.lenet_300_100()])
def test_the_whole_method_on_ties_and_on_features(build):
    model = given.seeded(build).eval()
    shape = (3, 8, 8) if isinstance(model[0] if isinstance(model, nn.Sequential) else model.conv, nn.Conv2d) else (784,)
    data = split(12, shape)
    masks = select(model, data, fraction=0.5, steps=1, portion=8, batch_size=6)
    small = structure.shrink(model, masks, data.images[:1])
    torch.testing.assert_close(small(data.images), model(data.images), rtol=1e-4, atol=1e-5)


def test_bad_input_is_refused_before_anything_changes():
    data = split(12, (1, 10, 10), 4)
    for wrong, says in (
        ({"fraction": 1.0}, r"fraction must be in \[0, 1\)"),
        ({"stop": -1.0}, "stop 0 or more"),
        ({"tuning": -1}, "tuning 0 or more"),
        ({"portion": 0}, "portion and batch_size must be 1 or more"),
        ({"choose": "best"}, "choose must be one of gradient, random"),
        ({"discrimination": 0.0, "reconstruction": 0.0}, "not both 0"),
    ):
        with given.refused(chain(), says):
            select(chain(), data, **{"fraction": 0.5} | wrong)
    with pytest.raises(ValueError, match="the split is empty"):
        select(chain(), data.first(0), fraction=0.5)
