"""The bipolar penalty: its value and gradient, where it moves weights, and signs for what earlier signs leave."""

import copy
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from given_binarization import snapshot, unchanged
from scipy import integrate, stats
from torch import nn

from lib import models, training
from lib.binarization import binaryconnect, bipolar_regularizer, bwn
from lib.binarization.bipolar_regularizer import flips, forms, mean_size, penalty, push, residual_signs, signs
from lib.cache import cached
from lib.datasets import Split
from lib.weights import compress

RATE = 0.01
SPLIT = Split(torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)


def network(seed: int = 0, **settings: object) -> nn.Module:
    return binaryconnect.binarize(models.mlp(seed, inputs=4, hidden=(8, 8), classes=3), **settings)


def latents(model):
    return torch.cat([(latent / limit).flatten() for _, latent, limit in forms(model)])


def test_the_penalty_is_that_of_the_formula_in_units_of_the_limit():
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[0.5, -0.25], [0.0, 0.5]])
    compress(layer, lambda *_: binaryconnect.BinaryConnectWeight(limit=0.5))
    assert penalty(layer).item() == (0 + 0.75 + 1 + 0) / 2
    assert mean_size(layer) == (1 + 0.5 + 0 + 1) / 4


@pytest.mark.parametrize(("value", "each"), [(0.0, 0.5), (1.0, 0.0), (-1.0, 0.0)])
def test_it_is_largest_at_0_and_nothing_at_the_limits(value, each):
    model = network()
    with torch.no_grad():
        for _, latent, limit in forms(model):
            latent.fill_(value * limit)
    assert penalty(model).item() == each * latents(model).numel()
    assert mean_size(model) == abs(value)


def test_weights_with_a_scale_have_limit_1_others_do_not_count():
    model = bwn.binarize(models.mlp(inputs=4, hidden=(8, 8), classes=3))
    inner = model.get_submodule(next(name for name, each in model.named_modules() if hasattr(each, "parametrizations")))
    weight = inner.parametrizations.weight.original
    assert len(forms(model)) == 1 and forms(model)[0][1] is weight
    torch.testing.assert_close(penalty(model), (1 - weight.square()).sum() / 2)


@pytest.mark.parametrize("limit", [1.0, 0.3])
def test_the_gradient_is_that_of_loss_and_penalty(limit):
    model, twin = network(limit=limit).double(), network(limit=limit).double()
    for each in (model, twin):
        training.squared_hinge(each(SPLIT.images.double()), SPLIT.labels).backward()
    push(model, 0.01)
    for (_, latent, _), (_, other, _) in zip(forms(model), forms(twin), strict=True):
        (gradient,) = torch.autograd.grad(0.01 * penalty(twin), other)  # with respect to the latent: w = latent / c
        torch.testing.assert_close(latent.grad, other.grad + limit * gradient, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(latent.grad, other.grad - 0.01 * other.detach() / limit, rtol=1e-12, atol=1e-15)
    others = [(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True) if a.dim() == 1]
    assert others and all(torch.equal(a.grad, b.grad) for a, b in others)


def test_the_first_step_moves_every_weight_outward_and_decay_moves_it_inward():
    # the first step of Adam is the learning rate times the gradient's sign, here that of the penalty
    before = network()
    sizes = [latent.abs() for _, latent, _ in forms(before)]
    for strength, direction in ((1e4, 1), (-1e4, -1)):
        model = copy.deepcopy(before)
        bipolar_regularizer.fit(model, SPLIT, strength=strength, epochs=1, seed=0, learning_rate=RATE)
        for size, (_, latent, limit) in zip(sizes, forms(model), strict=True):
            clear = size > 0.02  # elsewhere the loss has a say, and inward means beyond 0
            assert clear.sum() > size.numel() / 2
            moved = (size + direction * RATE).clamp(max=limit)
            torch.testing.assert_close(latent.abs()[clear], moved[clear], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [network, lambda: bwn.binarize(models.mlp(inputs=4, hidden=(8, 8), classes=3))])
def test_each_step_moves_weights_to_their_limits_and_decay_to_0(make):
    for strength in (1e4, -1e4):
        model, sizes = make(), []
        note = partial(lambda model, sizes, epoch: sizes.append(mean_size(model)), model, sizes)
        bipolar_regularizer.fit(model, SPLIT, strength=strength, epochs=6, seed=0, before_epoch=note)
        sizes.append(mean_size(model))
        assert len(sizes) == 7 and all((a < b) == (strength > 0) and a != b for a, b in pairwise(sizes))


def test_limits_hold_for_weights_that_no_form_clips():
    model = bwn.binarize(models.mlp(inputs=4, hidden=(8, 8), classes=3))
    bipolar_regularizer.fit(model, SPLIT, strength=1e4, epochs=60, seed=0, learning_rate=0.1)
    assert latents(model).abs().max() == 1 and mean_size(model) > 0.9


@pytest.mark.parametrize("settings", [{}, {"stochastic": True}])
def test_without_strength_it_is_binaryconnect_to_the_last_bit(settings):
    model, twin = network(**settings), network(**settings)
    found = bipolar_regularizer.fit(model, SPLIT, strength=0.0, epochs=2, seed=1, batch_size=5, shift=1)
    assert found == binaryconnect.fit(twin, SPLIT, epochs=2, seed=1, batch_size=5, shift=1)
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_strength_below_0_is_the_weight_decay_of_adam():
    model, twin = network(limit=1.0), network(limit=1.0)  # with limit 1 the units are the same
    bipolar_regularizer.fit(model, SPLIT, strength=-0.02, epochs=3, seed=1)
    binaryconnect.fit(twin, SPLIT, weight_decay=0.02, epochs=3, seed=1)
    for (_, a, _), (_, b, _) in zip(forms(model), forms(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_it_is_trained_once_for_each_strength(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    options = {"split": SPLIT, "epochs": 2, "seed": 0, "learning_rate": RATE}
    a, b, c = (cached(bipolar_regularizer.fit, network(), strength=s, **options) for s in (1e3, 1e3, -1e3))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert torch.equal(latents(a), latents(b)) and not torch.equal(latents(a), latents(c))


def test_flips_are_the_share_of_signs_that_changed():
    model = network()
    before = signs(model)
    assert all(set(each.unique().tolist()) == {-1, 1} for each in before)
    assert flips(before, signs(model)) == 0
    (_, first, _), *_ = forms(model)
    with torch.no_grad():
        first[0, 0] *= -1
        first[1] *= -1
    assert flips(before, signs(model)) == (1 + first.shape[1]) / latents(model).numel()
    with torch.no_grad():
        for _, latent, _ in forms(model):
            latent.mul_(-1)
    assert flips(signs(model), [-each for each in signs(model)]) == 1


def test_signs_are_those_that_the_layer_computes_with():
    layer = nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[1.0, 3.0]])
    assert signs(compress(copy.deepcopy(layer), lambda *_: bwn.BinaryWeight()))[0].tolist() == [[1, 1]]
    assert signs(compress(layer, lambda *_: bwn.BinaryWeight(centered=True)))[0].tolist() == [[-1, 1]]


@pytest.mark.parametrize("shape", [(1,), (50,), (7, 3, 4, 4)])
def test_each_further_sign_takes_its_scale_squared_off_the_squared_distance(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales, matrices = residual_signs(x, 6)
    assert scales.shape == (6,) and matrices.shape == (6, *shape) and set(matrices.unique().tolist()) <= {-1, 1}
    distance = x.square().sum()
    for count in range(1, 7):
        terms = scales[:count].reshape(-1, *[1] * x.dim()) * matrices[:count]
        found = (x - terms.sum(0)).square().sum()
        torch.testing.assert_close(found, distance - x.numel() * scales[count - 1] ** 2, rtol=1e-9, atol=1e-12)
        assert found < distance or x.numel() == 1  # one value is reached at once
        distance = found


def test_the_first_scale_is_the_best():
    x = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (scale,), (matrix,) = residual_signs(x, 1)
    best = (x * matrix).sum() / 100
    torch.testing.assert_close(scale, best)


def test_what_one_two_and_three_signs_leave_of_a_gaussian():
    def mean(rest, corners):  # over a Gaussian, of a function of |x| that has corners
        return integrate.quad(lambda x: rest(x) * 2 * stats.norm.pdf(x), 0, 12, points=corners)[0]

    first = math.sqrt(2 / math.pi)
    second = mean(lambda x: abs(x - first), [first])
    third = mean(lambda x: abs(abs(x - first) - second), [first - second, first, first + second])
    expected = torch.tensor([first, second, third], dtype=torch.float64)
    x = torch.from_numpy(stats.norm.ppf((np.arange(400000) + 0.5) / 400000))
    scales, _ = residual_signs(x, 3)
    torch.testing.assert_close(scales, expected, rtol=0, atol=1e-4)
    left = 1 - expected.square().cumsum(0)  # of the squared distance
    torch.testing.assert_close(left, torch.tensor([0.36338, 0.13045, 0.05839]).double(), rtol=0, atol=1e-5)


def test_a_matrix_of_one_size_is_exact_with_one_sign():
    x = torch.tensor([0.5, -0.5, 0.5])
    scales, matrices = residual_signs(x, 2)
    assert torch.equal(scales[0] * matrices[0], x) and scales[1] == 0
    assert residual_signs(torch.zeros(3), 1)[0].item() == 0


def test_bad_input_is_refused():
    dense = models.mlp(inputs=4, hidden=(8, 8), classes=3)
    for ask in (penalty, mean_size, signs):
        with pytest.raises(ValueError, match="has no BinaryConnectWeight or BinaryWeight"):
            ask(dense)
    with pytest.raises(ValueError, match="has no BinaryConnectWeight or BinaryWeight"):
        bipolar_regularizer.fit(dense, SPLIT, strength=1e-4, epochs=1, seed=0)
    with pytest.raises(ValueError, match="strength must be a finite number, not nan"):
        bipolar_regularizer.fit(network(), SPLIT, strength=math.nan, epochs=1, seed=0)
    with pytest.raises(ValueError, match="before and after must have equal shapes: they have 3 and 1 layers"):
        flips(signs(network()), [torch.ones(2)])
    for x, count in ((torch.ones(3), 0), (torch.zeros(0), 1), (torch.tensor([math.inf]), 1)):
        with pytest.raises(ValueError, match="count must be 1 or more and x finite and not empty, not "):
            residual_signs(x, count)


def test_an_unknown_option_is_refused_and_changes_nothing():
    model = network()
    before = snapshot(model)
    for name in ("learnin_rate", "optimizer", "after_step"):
        with pytest.raises(TypeError, match=f"there is no option '{name}': accepted are weight_decay, "):
            bipolar_regularizer.fit(model, SPLIT, strength=0.1, epochs=1, seed=0, **{name: None})
    assert unchanged(model, before)


def test_packed_weights_are_pushed_as_well():
    model = binaryconnect.binarize(nn.Sequential(nn.GRU(3, 2), nn.Linear(2, 2)))
    assert len(forms(model)) == 3 and penalty(model) <= (3 * 6 + 2 * 6 + 4) / 2
    latent = forms(model)[0][1]
    latent.grad = torch.zeros_like(latent)
    push(model, strength=2.0)
    assert torch.allclose(latent.grad, -2 * latent.detach() / forms(model)[0][2])
