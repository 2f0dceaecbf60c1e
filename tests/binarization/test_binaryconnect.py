"""BinaryConnect: signs in both passes, drawn without bias, latent weights between their limits."""

import copy

import given
import pytest
import torch
from given_binarization import snapshot, unchanged
from torch import nn
from torch.nn import functional

from lib import models, storage, training
from lib.binarization import binaryconnect
from lib.binarization.binaryconnect import BinaryConnectWeight, binarize, fit, glorot, hard_sigmoid
from lib.cache import cached
from lib.datasets import Split
from lib.weights import compress, compressed, compressed_form

SHAPES = [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1), (2, 3, 1, 1, 2)]


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    return Split(torch.rand(20, 1, 4, 4, generator=generator), torch.arange(20) % 3)


def small(seed=0):
    return models.mlp(seed, inputs=16, hidden=(12, 8), classes=3)


def binary(layer, **settings):
    return compress(layer, lambda *_: BinaryConnectWeight(**settings))


def latent(layer):
    return compressed_form(layer)[1][0]


def form(layer):
    return compressed_form(layer)[0]


# -- deterministic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_weight_and_file_are_the_sign_with_zero_as_plus_one(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight.view(-1)[0] = 0.0
    for zero in (weight, -weight, weight * 0, -weight * 0):  # -0.0 counts as 0
        binary_form = BinaryConnectWeight()
        stored = binary_form.right_inverse(zero)
        found = binary_form(stored)
        assert torch.equal(found, torch.where(zero >= 0, 1.0, -1.0))
        encoding = binary_form.encode(stored)
        assert encoding.symbols["bit"].max() <= 1 and not encoding.tables
        assert torch.equal(BinaryConnectWeight.decode(encoding, weight.shape), found)
        signs, scales = binary_form.bases(stored)
        assert scales.tolist() == [[1] * len(weight)] and torch.equal(signs, found[None])


def test_forward_is_the_linear_map_of_the_signs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 9, generator=generator)
    layer, dense = nn.Linear(9, 4), torch.randn(4, 9, generator=generator)
    layer.weight.data.copy_(dense)
    signs = torch.where(dense >= 0, 1.0, -1.0)
    assert torch.equal(binary(layer)(x), functional.linear(x, signs, layer.bias))
    images = torch.randn(2, 3, 6, 6, generator=generator)
    convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    signs = torch.where(convolution.weight.detach() >= 0, 1.0, -1.0)
    expected = functional.conv2d(images, signs, convolution.bias, 2, 1)
    assert torch.equal(binary(convolution)(images), expected)


def test_with_whole_numbers_forward_needs_additions_and_subtractions_only():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-99, 99, (3, 20), generator=generator)
    layer = binary(nn.Linear(20, 5, bias=False))
    for row, found in zip(x.tolist(), layer(x.float()).tolist(), strict=True):
        for weights, value in zip(latent(layer).tolist(), found, strict=True):
            total = 0
            for each, w in zip(row, weights, strict=True):
                total = total + each if w >= 0 else total - each
            assert total == value


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_latent_weight_gets_exactly_the_gradient_of_its_sign(stochastic):
    generator = torch.Generator().manual_seed(0)
    layer = binary(nn.Linear(9, 4), limit=1.0, stochastic=stochastic)
    with torch.no_grad():
        latent(layer).copy_(3 * torch.randn(4, 9, generator=generator))  # beyond the limit too: there is no gate
    x, labels = torch.randn(6, 9, generator=generator), torch.arange(6) % 4
    copied = copy.deepcopy(layer)  # it draws what the other draws
    seen = copied.weight.detach().requires_grad_()
    functional.cross_entropy(functional.linear(x, seen, layer.bias), labels).backward()
    functional.cross_entropy(layer(x), labels).backward()
    assert torch.equal(latent(layer).grad, seen.grad) and (seen.grad != 0).all()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(784, 300), (1.5 / 1084) ** 0.5),
        (nn.Conv2d(20, 50, 5), (1.5 / (25 * 70)) ** 0.5),
        (nn.Conv2d(8, 8, 3, groups=8), (1.5 / (9 * 9)) ** 0.5),
    ],
)
def test_the_limit_is_that_of_the_layers_width_or_what_is_asked(layer, expected):
    assert glorot(layer.weight) == pytest.approx(expected, rel=1e-12)
    assert form(binary(copy.deepcopy(layer))).limit == pytest.approx(expected, rel=1e-12)
    layer.weight.data *= 100
    assert (latent(binary(copy.deepcopy(layer))).abs() <= expected).all()
    assert (latent(binary(copy.deepcopy(layer), limit=0.5)).abs() <= 0.5).all()


def test_limits_of_the_layers_width_are_the_papers_larger_steps():
    """Adam with w in [-H, H] and rate r goes as it does with w / H in [-1, 1] and rate r / H."""
    torch.manual_seed(0)
    ours = nn.Linear(30, 20, bias=False).double()
    paper = copy.deepcopy(ours)
    size = glorot(ours.weight)
    paper.weight.data /= size
    binary(ours), binary(paper, limit=1.0)
    updates = [torch.optim.Adam(net.parameters(), lr=rate, eps=0) for net, rate in ((ours, 0.01), (paper, 0.01 / size))]
    for _ in range(12):
        x = torch.randn(8, 30, dtype=torch.float64)
        for net, update in zip((ours, paper), updates, strict=True):
            update.zero_grad()
            net(x).square().mean().backward()
            update.step()
            form(net).clip(latent(net))
        torch.testing.assert_close(latent(ours) / size, latent(paper), rtol=1e-9, atol=1e-9)
    assert (latent(paper).abs() == 1).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("stochastic", [False, True])
def test_other_types_of_float_keep_their_type(dtype, stochastic):
    layer = binary(nn.Linear(5, 5).to(dtype), stochastic=stochastic)
    assert layer.weight.dtype == dtype and set(layer.weight.flatten().tolist()) <= {-1, 1}
    assert layer.eval().weight.dtype == dtype


# -- stochastic --------------------------------------------------------------------------------------------------------


def test_hard_sigmoid_is_equation_3():
    x = torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.25, 1.0, 9.0])
    assert hard_sigmoid(x).tolist() == [0, 0, 0.25, 0.5, 0.625, 1, 1]


@pytest.mark.parametrize("limit", [1.0, 0.05])
def test_a_drawn_sign_is_the_weight_on_average(limit):
    n = 4000
    w = torch.linspace(-1, 1, 41)
    binary_form = BinaryConnectWeight(limit=limit, stochastic=True, seed=3)
    draws = binary_form((w * limit).repeat(n, 1))
    assert set(draws.flatten().tolist()) == {-1, 1}
    deviation = ((1 - w.square()) / n).sqrt()
    assert ((draws.mean(0) - w).abs() <= 4 * deviation + 1e-6).all()
    assert (draws[:, 0] == -1).all() and (draws[:, -1] == 1).all()


@pytest.mark.parametrize(("drawn", "at_end", "expected"), [(0.0, -1.0, -1.0), (1 - 2**-24, 1.0, 1.0)])
def test_at_its_limit_a_weight_has_one_sign_whatever_is_drawn(monkeypatch, drawn, at_end, expected):
    binary_form = BinaryConnectWeight(limit=0.3, stochastic=True)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, drawn))
    stored = binary_form.right_inverse(torch.full((2, 3), at_end))
    assert (binary_form(stored) == expected).all()
    assert binary_form(torch.zeros(2, 2)).tolist() == [[expected * -1] * 2] * 2  # 0: below 1/2 is +1


def test_both_passes_see_the_same_draw_and_the_next_pass_another():
    layer = binary(nn.Linear(40, 30, bias=False), stochastic=True)
    seen = []
    for _ in range(3):
        x = torch.eye(40, requires_grad=True)
        y = layer(x)
        signs = y.detach().T  # what the forward pass multiplied with
        gradient = torch.randint(-9, 9, (40, 30), generator=torch.Generator().manual_seed(0)).float()
        y.backward(gradient)
        assert torch.equal(x.grad, gradient @ signs) and set(signs.flatten().tolist()) == {-1, 1}
        seen.append(signs)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("inference", binaryconnect.INFERENCE)
def test_in_evaluation_stochastic_networks_and_files_are_real_or_signs(tmp_path, inference):
    model = binarize(small(), stochastic=True, inference=inference).eval()
    x = torch.rand(5, 1, 4, 4)
    for layer in (model.fc1, model.fc2, model.fc3):
        w = latent(layer)
        assert torch.equal(layer.weight, w / form(layer).limit if inference == "real" else torch.where(w >= 0, 1.0, -1))
        assert (layer.weight.abs() <= 1).all() and torch.equal(layer.weight, layer.weight)
    storage.save(model, tmp_path / "net.slim")
    assert torch.equal(storage.load(tmp_path / "net.slim", small()).eval()(x), model(x))
    assert set(model.train().fc1.weight.flatten().tolist()) == {-1, 1}


def test_each_layer_has_its_own_seed_which_fixes_its_draws():
    def twins(seed):
        model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20))
        for layer in model:
            nn.init.zeros_(layer.weight)  # every sign is a fair coin
        return binarize(model, stochastic=True, seed=seed)

    model = twins(5)
    assert [form(layer).seed for layer in model] == [5, 6, 7]
    first = [layer.weight for layer in model]
    torch.manual_seed(0)  # the global state does not matter
    again = [layer.weight for layer in twins(5)]
    other = [layer.weight for layer in twins(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    assert torch.equal(first[1], other[0]) and not torch.equal(first[0], other[0])


def test_a_copy_draws_on_from_where_the_original_stands():
    layer = binary(nn.Linear(30, 30), stochastic=True)
    first = layer.weight
    copied = copy.deepcopy(layer)
    a, b = layer.weight, copied.weight
    assert torch.equal(a, b) and not torch.equal(a, first)
    assert torch.equal(copied.weight, layer.weight)  # and each has its own state
    with torch.no_grad():
        latent(copied).neg_()
    assert not torch.equal(latent(copied), latent(layer))


def test_settings_show_in_the_text_of_a_model():
    settings = [
        {},
        {"limit": 0.5},
        {"stochastic": True},
        {"stochastic": True, "seed": 1},
        {"stochastic": True, "inference": "sign"},
    ]
    texts = [str(binarize(small(), **each)) for each in settings]
    assert len(set(texts)) == len(settings)
    assert "BinaryConnectWeight(limit=0.5, stochastic=False, seed=0, inference=real)" in texts[1]


# -- fit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"limit": 0.02}, {"stochastic": True}])
def test_latent_weights_keep_their_limits_after_every_step(monkeypatch, split, settings):
    model = binarize(small(), **settings)
    outside, inside = [], []

    def watched(net):
        sizes = [(latent(layer).abs().max(), form(layer).limit) for layer in (net.fc1, net.fc2, net.fc3)]
        outside.append(any(size > limit for size, limit in sizes))
        clip(net)
        inside.append(all((latent(layer).abs() <= form(layer).limit).all() for layer in (net.fc1, net.fc2, net.fc3)))

    clip = binaryconnect.clip
    monkeypatch.setattr(binaryconnect, "clip", watched)
    fit(model, split, epochs=3, seed=0, learning_rate=0.1, batch_size=8)
    assert len(inside) == 9 and all(inside) and any(outside)


def test_fit_is_the_one_training_loop_with_adam_and_the_squared_hinge(split):
    ours, plain = binarize(small()), binarize(small())
    options = {"epochs": 2, "seed": 4, "learning_rate": 0.01, "batch_size": 8}
    losses = fit(ours, split, **options)
    options |= {"optimizer": "adam", "loss": "squared_hinge", "weight_decay": 0.0}
    assert losses == training.fit(plain, split, after_step=lambda: binaryconnect.clip(plain), **options)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    shifted = fit(binarize(small()), split, epochs=2, seed=4, shift=1, weight_decay=0.1, loss="cross_entropy")
    assert losses != shifted and len(shifted) == 2


def test_a_step_of_training_draws_each_weight_once(split):
    model = binarize(small(), stochastic=True)
    expected = [copy.deepcopy(form(layer).generator) for layer in (model.fc1, model.fc2, model.fc3)]
    fit(model, split, epochs=2, seed=0, batch_size=8)  # 3 steps each
    for layer, generator in zip((model.fc1, model.fc2, model.fc3), expected, strict=True):
        for _ in range(6):
            torch.rand(latent(layer).shape, generator=generator)
        assert torch.equal(form(layer).generator.get_state(), generator.get_state())


def test_draws_go_on_in_copies_and_from_a_state():
    model, other = binarize(small(), stochastic=True).train(), binarize(small(), stochastic=True, seed=9).train()
    x = torch.rand(5, 16)
    model(x)
    twin = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    answers = [model(x) for _ in range(3)]
    for same in (twin, other):
        assert all(torch.equal(same(x), answer) for answer in answers)
    assert not any("drawn" in name for name in binarize(small()).state_dict())
    assert sum("drawn" in name for name in model.state_dict()) == 3


def test_a_cached_training_comes_back(tmp_path, monkeypatch, split):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    arguments = {"split": split, "epochs": 1, "seed": 0, "batch_size": 8}
    first, second = (cached(fit, binarize(small(), stochastic=True), **arguments) for _ in range(2))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    cached(fit, binarize(small()), **arguments)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit must be a number above 0, or None, not 0$"),
        ({"limit": -1.0}, "limit must be a number above 0, or None, not -1.0$"),
        ({"limit": float("nan")}, "limit must be a number above 0, or None, not nan$"),
        ({"inference": "mean"}, "inference must be one of real, sign, not 'mean'$"),
    ],
)
def test_unknown_settings_are_refused_and_change_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        BinaryConnectWeight(**settings)
    model = small()
    with given.refused(model, message):
        binarize(model, **settings)


def test_weights_that_are_not_finite_and_models_without_weights_are_refused(split):
    model = small()
    model.fc3.weight.data[0, 0] = float("inf")
    with given.refused(model, "the weights of layer 'fc3' hold NaN or infinity"):
        binarize(model)
    with pytest.raises(ValueError, match="ReLU has no layer with a weight"):
        binarize(nn.ReLU())
    with pytest.raises(ValueError, match=r"loss must be one of .*, not 'hinge'"):
        fit(binarize(small()), split, epochs=1, seed=0, loss="hinge")
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to train on"):
        fit(binarize(small()), split.first(0), epochs=1, seed=0)


def test_an_unknown_argument_is_refused_and_changes_nothing():
    model = small()
    before = snapshot(model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'limits'"):
        binarize(model, limits=1.0)
    assert unchanged(model, before)


@pytest.mark.parametrize("name", ["optimizer", "momentum", "learnin_rate", "after_step"])
def test_an_option_that_training_does_not_take_is_refused_first(split, name):
    model = binarize(small()).train()
    before = snapshot(model)
    with pytest.raises(TypeError, match=f"there is no option '{name}': accepted are weight_decay, "):
        fit(model, split.first(0), epochs=1, seed=0, **{name: "sgd"})
    assert unchanged(model, before) and model.training


def test_a_form_that_saw_no_weight_has_no_limit():
    drawn = BinaryConnectWeight(stochastic=True)
    with pytest.raises(ValueError, match="limit comes from a layer's weight: store one in this form first"):
        drawn(torch.zeros(2, 2))


def test_training_keeps_packed_weights_between_their_limits():
    split = given.split(20, 1, 28, 28)
    model = binarize(given.seeded(given.Sequences))
    limits = {name: form.limit for name, form, _ in compressed(model)}
    assert limits["recurrent.weight_ih_l0"] == glorot(torch.zeros(24, 8)) and len(limits) == 10
    fit(model, split, epochs=2, seed=0, learning_rate=1.0)  # far beyond the limits in one step
    for name, _, (latent,) in compressed(model):
        assert latent.abs().max().item() == pytest.approx(limits[name]), name
