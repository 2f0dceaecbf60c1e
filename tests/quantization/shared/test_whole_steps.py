"""Whole steps: the file says them bit for bit, the gradient passes, training ends on the grid, units have no order."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from lib import models, storage
from lib.datasets import Split
from lib.pruning import magnitude
from lib.quantization.shared import whole_steps
from lib.quantization.shared.whole_steps import GridWeight
from lib.vision import torchvision
from lib.weights import compressed_form, layers


def images(n: int = 64, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 28, 28, generator=generator), torch.randint(10, (n,), generator=generator))


@pytest.mark.parametrize("shape", [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1), (0, 3)])
@pytest.mark.parametrize("step", [0.1, 0.37, 3.0])
def test_a_weight_is_whole_steps_and_its_file_says_it(shape, step):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < 0.2] = 0
    form = GridWeight(step)
    rounded = form(form.right_inverse(weight))
    assert ((rounded - weight).abs() <= step / 2 + 1e-6).all() and (rounded[weight == 0] == 0).all()
    back = GridWeight.decode(form.encode(weight), weight.shape)
    assert back.numpy().tobytes() == rounded.numpy().tobytes()  # 0 and -0 differ
    np.testing.assert_allclose(rounded.double() / step, np.round(weight.double().numpy() / step), atol=1e-5)


def test_the_gradient_passes_to_the_survivors_as_if_nothing_were_rounded():
    form, weight = GridWeight(0.5), torch.tensor([[0.0, 0.9, 0.2, -1.3]])
    stored = form.right_inverse(weight).requires_grad_()
    (form(stored) * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert form(stored).tolist() == [[0.0, 1.0, 0.0, -1.5]] and stored.grad.tolist() == [[0.0, 2.0, 3.0, 4.0]]


def test_a_network_on_a_grid_is_found_again_without_its_steps():
    model = whole_steps.to_steps(magnitude.prune(models.lenet5(), density=0.1), step=1.0)
    dense = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    for name, layer in layers(whole_steps.to_steps(model)):
        assert torch.equal(layer.weight, dense[name])


@pytest.mark.parametrize("coder", storage.CODERS)
def test_files_come_back_bit_for_bit(coder, tmp_path):
    model = whole_steps.to_steps(magnitude.prune(models.lenet_300_100(), density=0.03), step=0.7)
    storage.save(model, tmp_path / "x.slim", coder=coder)
    loaded = storage.load(tmp_path / "x.slim", models.lenet_300_100(1))
    for (_, a), (_, b) in zip(layers(loaded), layers(model), strict=True):
        assert a.weight.detach().numpy().tobytes() == b.weight.detach().numpy().tobytes()


def test_a_network_nobody_here_wrote_comes_back(tmp_path):
    def build():
        return torchvision.models.squeezenet1_1(weights=None, num_classes=10).eval()

    model = whole_steps.to_steps(magnitude.prune(build(), density=0.05), step=1.0)
    storage.save(model, tmp_path / "x.slim")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(storage.load(tmp_path / "x.slim", build())(x), model(x))


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(1, 1, 1), nn.Linear(1, 1)],
)
def test_odd_layers(layer):
    for step in (1.0, None):
        weight = whole_steps.to_steps(layer, step=step).weight
        assert weight.shape == layer.weight.shape and weight.count_nonzero()
        storage.loads(storage.dumps(layer, coder="context"), copy.deepcopy(layer))


def test_a_layer_of_zeros_stays_one():
    layer = nn.Linear(5, 4)
    nn.init.zeros_(layer.weight)
    assert whole_steps.to_steps(layer, step=1.0).weight.count_nonzero() == 0
    assert len(storage.dumps(layer)) < 90


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_that_are_none_are_refused(step):
    with pytest.raises(ValueError, match="step must be a finite number above 0"):
        whole_steps.to_steps(nn.Linear(3, 3), step=step)
    for none in (step, 1e-50, 1e50):
        with pytest.raises(ValueError, match="step must be a finite number") if none else contextlib.nullcontext():
            GridWeight(none)


@pytest.mark.parametrize("step", [1e-45, 1e45])
def test_a_step_that_is_none_in_float32_is_refused_by_layer(step):
    model, split = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4)), Split(torch.rand(4, 6), torch.arange(4))
    with pytest.raises(ValueError, match="layer '0' cannot have such steps"):
        whole_steps.to_steps(model, step=step)
    with pytest.raises(ValueError, match="layer '0' cannot have such steps"):
        whole_steps.train(model, split, survivors=10, epochs=1, seed=0, step=step)
    assert not any(compressed_form(layer) for _, layer in layers(model))


@pytest.mark.parametrize("smallest", [1e-5, 1e-10, 1e-18, 1e-20, 1e-30, 1e-38])
def test_weights_more_than_32767_steps_from_zero_are_refused(smallest):
    """2^63 steps and more once became other integers, and the file held zeros."""
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -0.5, smallest]])
    with pytest.raises(ValueError, match=r"steps from zero: at most 32767 are accepted"):
        storage.dumps(whole_steps.to_steps(layer))


def test_steps_that_floats_cannot_count_are_refused():
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -0.5, 1e-44]])
    for step in (None, 1e-44):
        with pytest.raises(ValueError, match=r"cannot have such steps: a weight is too many steps of .* to count"):
            whole_steps.to_steps(layer, step=step)
    assert compressed_form(layer) is None


def test_the_furthest_weight_that_is_accepted_comes_back():
    weight = torch.tensor([[32767.0, -32767.0, 1.0]])
    form = GridWeight(None)
    assert torch.equal(GridWeight.decode(form.encode(form.right_inverse(weight)), weight.shape), weight)


def test_too_fine_a_grid_and_none_cannot_be_stored():
    weight = torch.tensor([[1.0, 1e-6]])
    form = GridWeight(None)
    with pytest.raises(ValueError, match="steps from zero: at most 32767"):
        form.encode(form.right_inverse(weight))
    with pytest.raises(ValueError, match="give a step above 0"):
        GridWeight(0).encode(weight)


# -- Training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_training_ends_with_few_weights_on_a_grid(build):
    model = whole_steps.train(build(), images(), survivors=2000, epochs=8, seed=0, learning_rate=0.01, batch_size=32)
    kept = sum(int(layer.weight.count_nonzero()) for _, layer in layers(model))
    assert 0 < kept <= 2000
    for _, layer in layers(model):
        assert torch.equal(layer.bias * 8, torch.round(layer.bias * 8)) and layer.bias.requires_grad
    before = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    assert all(torch.equal(layer.weight, before[name]) for name, layer in layers(whole_steps.to_steps(model)))


def test_without_a_step_weights_are_pruned_only_and_the_number_is_exact():
    model = whole_steps.train(models.lenet_300_100(), images(), survivors=2000, epochs=4, seed=0, step=None)
    weights = torch.cat([layer.weight.flatten() for _, layer in layers(model)])
    assert int(weights.count_nonzero()) == 2000 and len(weights.unique()) > 1500


def test_the_schedule_is_the_cubic(monkeypatch):
    asked, prune = [], whole_steps._prune
    monkeypatch.setattr(
        whole_steps, "_prune", lambda chains, keep, *how: (asked.append(keep), prune(chains, keep, *how))
    )
    whole_steps.train(models.lenet_300_100(), images(8), survivors=1200, epochs=8, seed=0)
    total = 266_200
    cubic = [round(1200 + (total - 1200) * (1 - t) ** 3) for t in (0.25, 0.5, 0.75, 1)]
    assert asked[:4] == cubic and set(asked[4:]) == {1200}


@pytest.mark.parametrize(("rate", "together"), [(0.0, False), (1.0, True)])
def test_a_rate_keeps_survivors_that_are_cheap_together(rate, together):
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 2))
    split = Split(torch.rand(4, 1, 10, 10), torch.zeros(4).long())
    weight = torch.zeros(2, 10, 10)
    weight[0, 2:5, 2:5] = 1.0  # nine in a square; nine far apart in the other unit are a little larger
    weight[1, ::4, ::4] = 1.1
    model[1].weight.data = weight.flatten(1)
    options = {"epochs": 1, "seed": 0, "learning_rate": 1e-9, "step": None, "pruned": 1.0, "rounded": 1.0, "fixed": 1.0}
    whole_steps.train(model, split, survivors=9, rate=rate, **options)
    assert model[1].weight.count_nonzero(1).tolist() == ([9, 0] if together else [0, 9])


def test_a_layer_that_lost_all_its_weights_stays_empty_at_any_rate():
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 3), nn.Linear(3, 2))
    nn.init.zeros_(model[2].weight)
    split = Split(torch.rand(4, 1, 10, 10), torch.zeros(4).long())
    whole_steps.train(model, split, survivors=9, epochs=2, seed=0, rate=1.0)
    assert not model[2].weight.any() and 0 < model[1].weight.count_nonzero() <= 9


def test_training_depends_on_its_seed_alone():
    options = {"survivors": 999, "epochs": 4, "batch_size": 16, "shift": 1}
    networks = [whole_steps.train(models.lenet_300_100(), images(), seed=seed, **options) for seed in (0, 0, 1)]
    first, again, other = (model.fc1.weight for model in networks)
    assert torch.equal(first, again) and not torch.equal(first, other)


ORDER = "shares must be 0 < pruned <= rounded <= fixed <= 1"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        *(
            (shares, "shares must be 0 < pruned <= rounded <= fixed <= 1")
            for shares in ({"pruned": 0}, {"pruned": 0.8})
        ),
        *(
            (shares, "shares must be 0 < pruned <= rounded <= fixed <= 1")
            for shares in ({"rounded": 0.9}, {"fixed": 1.1})
        ),
        ({"survivors": 0}, "survivors and epochs must be 1 or more, not 0 and 2"),
        ({"epochs": 0}, "survivors and epochs must be 1 or more, not 9 and 0"),
        ({"rate": -1.0}, "rate must be a finite number of 0 or more, not -1.0"),
        ({"rate": float("nan")}, "rate must be a finite number of 0 or more, not nan"),
        ({"balance": float("inf")}, "balance must be a finite number of 0 or more, not inf"),
        ({"step": 0.0}, "step must be a finite number above 0, not 0.0"),
        ({"split": images(0)}, "the split is empty"),
    ],
)
def test_training_that_cannot_be_is_refused(wrong, says):
    model = models.lenet_300_100()
    with pytest.raises(ValueError, match=says):
        whole_steps.train(model, **{"split": images(), "survivors": 9, "epochs": 2, "seed": 0} | wrong)
    assert not hasattr(model.fc1, "parametrizations")


def test_a_misspelt_option_of_training_is_refused_before_anything_is_changed():
    model = models.lenet_300_100()
    with pytest.raises(TypeError, match="there is no option 'learning_rat': accepted are learning_rate, momentum"):
        whole_steps.train(model, images(), survivors=9, epochs=2, seed=0, learning_rat=0.1)
    assert not hasattr(model.fc1, "parametrizations")


# -- Units -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "chain"),
    [(models.lenet_300_100, ["fc1", "fc2", "fc3"]), (models.lenet5, ["conv1", "conv2", "fc1", "fc2"])],
)
def test_reordering_units_changes_the_order_and_not_the_answer(build, chain):
    model = magnitude.prune(build(), density=0.02)
    whole_steps.decompress(model)
    model, x = model.double(), torch.rand(5, 1, 28, 28).double()
    before = model(x)
    kept = [int(layer.weight.count_nonzero()) for _, layer in layers(model)]
    whole_steps.busiest_first(model, chain)
    torch.testing.assert_close(model(x), before)
    assert kept == [int(layer.weight.count_nonzero()) for _, layer in layers(model)]
    first, second = (model.get_submodule(name).weight for name in chain[:2])
    reads = second.reshape(len(second), len(first), -1)
    busy = first.flatten(1).count_nonzero(1) + reads.flatten(2).count_nonzero(2).sum(0)
    assert busy.tolist() == sorted(busy.tolist(), reverse=True)


def test_layers_that_do_not_follow_each_other_are_refused():
    model = models.lenet_300_100()
    before = model.fc1.weight.clone()
    with pytest.raises(ValueError, match="the 100 units of 'fc2' do not divide"):
        whole_steps.busiest_first(model, ["fc1", "fc2", "fc1"][1:])
    with pytest.raises(ValueError, match="has no layer 'fc9' with a weight"):
        whole_steps.busiest_first(model, ["fc1", "fc9"])
    assert torch.equal(model.fc1.weight, before)


def test_a_small_network_in_a_large_one_answers_as_alone():
    small = nn.Sequential()
    for name, layer in models.lenet5().named_children():
        small.add_module(name, layer)
    small.conv1, small.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 7, 5)
    small.fc1, small.fc2 = nn.Linear(7 * 16, 30), nn.Linear(30, 10)
    large, x = whole_steps.embed(small, models.lenet5(1)), torch.rand(6, 1, 28, 28)
    torch.testing.assert_close(large(x), small(x))
    assert large.conv2.weight.shape == (50, 20, 5, 5) and large.fc1.weight[30:].count_nonzero() == 0


def test_a_larger_network_does_not_fit_into_a_smaller_one():
    large = models.lenet_300_100(inputs=99)
    with pytest.raises(ValueError, match=r"'fc1' of shape \(300, 784\) does not fit"):
        whole_steps.embed(models.lenet_300_100(), large)
