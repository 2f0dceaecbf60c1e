"""Discrete states: the space is never left, the transition's mean, no real copy in memory, bits, and the file."""

import copy
import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models, storage, training
from lib.binarization import gxnor_dst
from lib.binarization.gxnor_dst import (
    DERIVATIVES,
    INCREMENTS,
    PROBABILITIES,
    DiscreteStateTransition,
    TernaryActivation,
    TernaryStates,
    gated_operations,
    ternarize,
    ternary_dot,
    transition,
)
from lib.binarization.shared import inference
from lib.binarization.shared.signs import Binarized
from lib.cache import cached
from lib.datasets import Split
from lib.vision import torchvision
from lib.weights import compress, compressed_form, layers

SPACES = range(7)
SHAPES = [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1), (2, 3, 1, 1, 2)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(samples=64, size=6):
    """Two classes that a linear layer can tell apart: the left or the right half of the image is bright."""
    labels = torch.arange(samples) % 2
    images = torch.rand(samples, 1, size, size, generator=seeded()) / 2
    images[labels == 1, :, :, size // 2 :] += 0.5
    images[labels == 0, :, :, : size // 2] += 0.5
    return Split(images, labels)


def network(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten()
        )
        return ternarize(net.extend([nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 2)]), classes=2, **settings)


def in_space(weight, space=1):
    places = (weight.detach().double() + 1) * 2 ** (space - 1)
    return bool(((places == places.round()) & (places >= 0) & (places <= 2**space)).all())


def ternary(*shape, seed=0):
    return torch.randint(-1, 2, shape, generator=seeded(seed)).float()


# -- The space ------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_the_space_is_the_papers(space):
    form = TernaryStates(space)
    wanted = [n / 2 ** (space - 1) - 1 for n in range(2**space + 1)]
    form.states = torch.arange(2**space + 1, dtype=torch.int8)
    assert form(torch.zeros(0)).tolist() == wanted
    assert wanted[0] == -1 and wanted[-1] == 1 and len(wanted) == 2**space + 1


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bases_and_the_file_give_the_same_weight(space, shape):
    form = TernaryStates(space)
    stored = form.right_inverse(torch.randn(shape, generator=seeded()))
    weight = form(stored)
    assert stored.shape == (0,) and weight.shape == shape and in_space(weight, space)
    signs, scales = form.bases(stored)
    assert signs.shape == (2**space, *shape) and scales.shape == (2**space, shape[0])
    assert (signs.abs() == 1).all()
    assert torch.equal((scales.reshape(*scales.shape, *[1] * (len(shape) - 1)) * signs).sum(0), weight)
    encoding = form.encode(stored)
    assert encoding.symbols["state"].min() >= 0 and encoding.symbols["state"].max() <= 2**space
    assert torch.equal(TernaryStates.decode(encoding, weight.shape), weight)


def test_a_ternary_weight_is_half_of_each_of_two_matrices_of_signs():
    form = TernaryStates()
    weight = ternary(5, 9)
    signs, scales = form.bases(form.right_inverse(weight))
    at_least, above = (torch.where(each, 1.0, -1.0) for each in (weight >= 0, weight > 0))
    assert torch.equal(signs, torch.stack([at_least, above])) and (scales == 0.5).all()


def test_a_dense_weight_goes_to_the_nearest_state_in_units_of_its_mean_size():
    weight = torch.randn(40, 30, generator=seeded()) * 0.03
    for space in SPACES:
        form = TernaryStates(space)
        near = form(form.right_inverse(weight))
        scaled = weight / weight.abs().mean()
        states = torch.arange(2**space + 1) * form.step - 1
        best = (scaled[..., None] - states).abs().argmin(-1) * form.step - 1
        assert torch.equal(near, best)


@pytest.mark.parametrize("layer", [nn.Linear(784, 300), nn.Conv2d(20, 50, 5), nn.Conv2d(64, 64, 3, groups=64)])
def test_the_default_initial_weights_give_a_mix_of_all_three(layer):
    compress(layer, lambda name, layer: TernaryStates())
    for value in (-1, 0, 1):
        assert 0.15 < (layer.weight == value).float().mean() < 0.5


@pytest.mark.parametrize("space", SPACES)
def test_a_weight_of_the_space_enters_as_it_is(space):
    weight = torch.randint(0, 2**space + 1, (6, 7), generator=seeded()) * 2.0 ** (1 - space) - 1
    form = TernaryStates(space)
    assert torch.equal(form(form.right_inverse(weight)), weight)
    assert torch.equal(form(form.right_inverse(weight / 3)), weight) or space > 1  # a scale alone changes nothing


def test_the_scale_of_a_dense_weight_does_not_matter_however_small():
    weight = torch.randn(40, 30, generator=seeded())
    for space in SPACES:
        form = TernaryStates(space)
        found = [form(form.right_inverse(weight * 2.0**-k)) for k in (0, 40, 100)]
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(("space", "state"), [(0, 1.0), (1, 0.0), (3, 0.0)])
def test_zeros_enter(space, state):
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert compress(layer, lambda name, layer: TernaryStates(space)).weight.unique().tolist() == [state]


# -- The transition -------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_the_transition_is_the_equations_weight_by_weight(space, probability):
    step = 2.0 ** (1 - space)
    states = torch.randint(0, 2**space + 1, (400,), generator=seeded(1)).to(torch.int8)
    increment = torch.randn(400, generator=seeded(2)) * 1.5 * step
    drawn = torch.rand(400, generator=seeded(3)).tolist()
    new = transition(states, increment, space=space, generator=seeded(3), probability=probability)
    for n, change, u, found in zip(states.tolist(), increment.tolist(), drawn, new.tolist(), strict=True):
        w = n * step - 1
        rho = min(1 - w, change) if change >= 0 else max(-1 - w, change)
        kappa = np.fix(rho / step)
        nu = rho - kappa * step
        chance = np.tanh(3 * abs(nu) / step) if probability == "tanh" else abs(nu) / step
        assert abs(u - chance) > 1e-6, "a draw on the edge: take another seed"
        assert found * step - 1 == w + kappa * step + np.sign(rho) * step * (u < chance)
    assert new.dtype == torch.int8


@pytest.mark.parametrize("space", [0, 1, 2])
def test_at_the_rail_an_outward_increment_never_moves(space):
    outward = torch.rand(10_000, generator=seeded()) * 5
    for state, increment in ((2**space, outward), (0, -outward)):
        states = torch.full((10_000,), state, dtype=torch.int8)
        for seed in range(5):
            assert torch.equal(transition(states, increment, space=space, generator=seeded(seed)), states)


def test_no_increment_is_no_transition():
    states = torch.arange(3, dtype=torch.int8).repeat(1000)
    for probability in PROBABILITIES:
        assert torch.equal(transition(states, torch.zeros(3000), probability=probability, generator=seeded()), states)


@pytest.mark.parametrize("change", [-0.9, -0.3, -0.05, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("space", [1, 2])
def test_a_linear_probability_is_unbiased_and_tanh_moves_too_far(change, space):
    n, step = 100_000, 2.0 ** (1 - space)
    states = torch.full((n,), 2 ** (space - 1), dtype=torch.int8)  # W = 0
    mean, moved = {}, {}
    for probability in PROBABILITIES:
        new = transition(states, torch.full((n,), change), space=space, probability=probability, generator=seeded())
        change_in_steps = (new - states).double()
        mean[probability] = change_in_steps.mean().item() * step
        moved[probability] = change_in_steps.unique()
    rest = abs(change) / step % 1
    sigma = step * (rest * (1 - rest) / n) ** 0.5
    assert abs(mean["linear"] - change) <= 4 * sigma
    for probability in PROBABILITIES:
        assert np.sign(mean[probability]) == np.sign(change)
        assert (moved[probability] * np.sign(change) >= 0).all()  # no weight ever moves the other way
    chance = np.tanh(3 * rest)
    expected = np.sign(change) * (abs(change) // step + chance) * step
    assert abs(mean["tanh"] - expected) <= 4 * step * (chance * (1 - chance) / n) ** 0.5
    assert abs(mean["tanh"]) > abs(change) + 4 * sigma


def test_draws_depend_on_the_generator_alone_and_not_on_the_layout():
    states = torch.ones(4, 5, 3, 3, dtype=torch.int8)
    increment = torch.rand(4, 5, 3, 3, generator=seeded()) - 0.5
    one = transition(states, increment, generator=seeded(1))
    last = [each.to(memory_format=torch.channels_last) for each in (states, increment)]
    assert torch.equal(transition(*last, generator=seeded(1)), one)
    assert not torch.equal(transition(states, increment, generator=seeded(2)), one)


# -- The optimizer --------------------------------------------------------------------------


@pytest.mark.parametrize("increment", INCREMENTS)
@pytest.mark.parametrize("space", [0, 1, 3])
def test_every_weight_is_in_the_space_after_every_step(increment, space):
    model, split, steps = network(space=space), tiny(), []
    before = [layer.weight.clone() for _, layer in layers(model)]

    def check():
        steps.append(all(in_space(layer.weight, space) for _, layer in layers(model)))

    training.fit(
        model,
        split,
        epochs=3,
        seed=0,
        batch_size=16,
        learning_rate=0.3,
        loss="squared_hinge",
        optimizer=lambda groups: DiscreteStateTransition(model, groups, lr=0.3, increment=increment),
        after_step=check,
    )
    assert steps == [True] * 12
    assert not all(torch.equal(old, layer.weight) for old, (_, layer) in zip(before, layers(model), strict=True))


@pytest.mark.parametrize("increment", INCREMENTS)
def test_a_step_is_the_transition_with_the_optimizers_increment(increment):
    x = torch.randn(9, 5, generator=seeded())
    layer = compress(nn.Linear(5, 4, bias=False), lambda name, layer: TernaryStates())
    form = compressed_form(layer)[0]
    optimizer = DiscreteStateTransition(layer, lr=0.4, increment=increment, seed=7)
    dense = nn.Parameter(torch.zeros(4, 5))
    adam, draws = torch.optim.Adam([dense], lr=0.4), seeded(7)
    for turn in range(3):
        weight = layer.weight.detach().clone().requires_grad_()
        (functional.linear(x, weight) ** 2).sum().backward()
        states, dense.grad = form.states.clone(), weight.grad
        at = dense.detach().clone()
        adam.step()
        change = {"adam": dense.detach() - at, "sgd": -0.4 * weight.grad, "sign": -0.4 * weight.grad.sign()}[increment]
        optimizer.zero_grad()
        (layer(x) ** 2).sum().backward()
        torch.testing.assert_close(form.gradient, weight.grad)
        optimizer.step()
        assert torch.equal(form.states, transition(states, change, generator=draws)), turn
        assert form.gradient is None


def test_other_parameters_are_moved_by_ordinary_adam():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.ternary, self.real = nn.Linear(3, 3, bias=False), nn.Linear(3, 2)

    model = Both()
    twin = copy.deepcopy(model.real)
    compress(model, lambda name, layer: TernaryStates() if name == "ternary" else None)
    how = {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.1}
    optimizer, adam = DiscreteStateTransition(model, **how), torch.optim.Adam(twin.parameters(), **how)
    for turn in range(5):
        x = torch.randn(6, 3, generator=seeded(turn))
        for layer, update in ((model.real, optimizer), (twin, adam)):
            update.zero_grad()
            (layer(x) ** 2).sum().backward()
            update.step()
    torch.testing.assert_close(list(model.real.parameters()), list(twin.parameters()), rtol=1e-5, atol=1e-7)


def test_a_layer_that_is_used_twice_adds_up_its_gradients_and_zero_grad_drops_them():
    layer = compress(nn.Linear(4, 4), lambda name, layer: TernaryStates())
    form, x = compressed_form(layer)[0], torch.randn(5, 4, generator=seeded())
    weight = layer.weight.detach().clone().requires_grad_()
    functional.linear(functional.linear(x, weight, layer.bias), weight, layer.bias).square().sum().backward()
    layer(layer(x)).square().sum().backward()
    torch.testing.assert_close(form.gradient, weight.grad)
    optimizer = DiscreteStateTransition(layer)
    optimizer.zero_grad()
    assert form.gradient is None
    states, bias = form.states.clone(), layer.bias.detach().clone()
    optimizer.step()  # nothing to do
    assert torch.equal(form.states, states) and torch.equal(layer.bias, bias)


def test_schedulers_closures_frozen_layers_and_saved_moments_work():
    model = compress(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), lambda name, layer: TernaryStates())
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    optimizer = DiscreteStateTransition(model, lr=0.5, seed=1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    x = torch.randn(5, 4, generator=seeded())

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        assert optimizer.step(closure) > 0
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0
    assert torch.equal(model[0].weight, frozen)
    states = compressed_form(model[1])[0].states.clone()
    optimizer.step(closure)
    assert torch.equal(compressed_form(model[1])[0].states, states)  # a rate of 0 moves nothing
    again = DiscreteStateTransition(model, seed=1)
    again.load_state_dict(optimizer.state_dict())
    stored = compressed_form(model[1])[1][0]
    assert again.state[stored]["step"] == 3
    assert torch.equal(again.state[stored]["exp_avg"], optimizer.state[stored]["exp_avg"])


# -- Memory ---------------------------------------------------------------------------------


def reachable(*roots):
    """Every tensor that can be reached from the objects, through modules, optimizers, lists and dictionaries."""
    seen, todo, found = set(), list(roots), []
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found += [item] + ([] if item.grad is None else [item.grad])
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            todo += item
        elif hasattr(item, "__dict__"):
            todo += vars(item).values()
    return found


@pytest.mark.parametrize("increment", INCREMENTS)
def test_between_steps_there_is_no_real_value_for_each_weight_but_adams_moments(increment):
    shapes = {(37, 29), (41, 37), (43, 41)}  # that no other test has
    net = nn.Sequential(nn.Linear(29, 37), nn.ReLU(), nn.Linear(37, 41), nn.ReLU(), nn.Linear(41, 43))
    model = ternarize(net, classes=43)
    optimizer = DiscreteStateTransition(model, increment=increment)
    images = torch.rand(16, 29, generator=seeded())
    for _ in range(3):
        optimizer.zero_grad()
        loss = training.squared_hinge(model(images), torch.arange(16))
        loss.backward()
        held = [t for t in reachable(model) if t.is_floating_point() and tuple(t.shape) in shapes]
        assert len(held) == 3  # between backward and step: the gradients
        del held
        optimizer.step()
        gc.collect()
        everywhere = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
        for tensors in (reachable(model, optimizer), everywhere):
            real = {id(t) for t in tensors if t.is_floating_point() and tuple(t.shape) in shapes}
            moments = {id(s.get(k)) for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")} - {id(None)}
            assert real <= moments
            assert len(real) == (6 if increment == "adam" else 0)
            states = [t for t in tensors if tuple(t.shape) in shapes and not t.is_floating_point()]
            assert {(t.dtype, tuple(t.shape)) for t in states} == {(torch.int8, shape) for shape in shapes}


def test_the_trained_parameter_is_empty():
    model = ternarize(models.lenet_300_100())
    assert all(stored[0].shape == (0,) for _, layer in layers(model) for stored in [compressed_form(layer)[1]])
    assert all(parameter.dim() == 1 for parameter in model.parameters())


# -- The activation -------------------------------------------------------------------------

X = [-9.0, -1.0, -0.75, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 9.0]


@pytest.mark.parametrize("r", [0.0, 0.3, 0.5, 1.0])
def test_the_activation_and_its_bases_are_exact(r):
    edge = torch.tensor([r, -r] * 40)
    x = torch.cat([torch.tensor(X), torch.randn(1000, generator=seeded()), edge])
    x = torch.cat([x, *(torch.nextafter(edge, torch.full((80,), far)) for far in (-9.0, 9.0))])
    form = TernaryActivation(r)
    limit = edge[0].item()
    wanted = [1.0 if v > limit else -1.0 if v < -limit else 0.0 for v in x.tolist()]
    assert form(x).tolist() == wanted
    assert [factor for _, factor in form.bases()] == [0.5, 0.5]
    assert torch.equal(sum(b * torch.where(x >= t, 1.0, -1.0) for t, b in form.bases()), form(x))
    assert set(form(x.double()).tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(("r", "a"), [(0.5, 0.5), (1.0, 0.5), (0.5, 0.25), (0.0, 1.0)])
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_the_derivative_is_the_published_one(r, a, derivative):
    x = torch.tensor(X, requires_grad=True)
    (TernaryActivation(r, a, derivative)(x) * 3).sum().backward()
    for value, found in zip(X, x.grad.tolist(), strict=True):
        if derivative == "rectangular":
            assert found == 3 * (1 / (2 * a) if r - a <= abs(value) <= r + a else 0)
        else:
            assert found == 3 * max(0.0, 1 - abs(abs(value) - r) / a) / a


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_each_jump_gets_the_area_one(derivative):
    x = torch.linspace(-3, 3, 60_001, dtype=torch.float64, requires_grad=True)
    TernaryActivation(1.0, 0.5, derivative)(x).sum().backward()
    assert x.grad.sum().item() * 1e-4 == pytest.approx(2, abs=1e-3)  # from -1 to 1


# -- Networks -------------------------------------------------------------------------------


def test_a_network_reads_ternary_values_behind_its_first_layer():
    model = ternarize(models.lenet5())
    readers = {name: m for name, m in model.named_modules() if isinstance(m, Binarized)}
    assert list(readers) == ["conv2", "fc1", "fc2"]
    assert all(isinstance(m.norm, nn.BatchNorm1d | nn.BatchNorm2d) for m in readers.values())
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert all(in_space(layer.weight) for _, layer in layers(model))
    seen = []
    model.fc2.activation.register_forward_hook(lambda _, __, out: seen.append(out))
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert set(seen[0].unique().tolist()) <= {-1, 0, 1}


def test_a_network_with_batch_norm_gets_none_before_its_layers_and_one_behind_its_output_where_it_is_asked_for():
    own = ternarize(models.mlp(hidden=(8, 8)))
    assert all(isinstance(m.norm, nn.Identity) for m in own.modules() if isinstance(m, Binarized))
    assert len(own) == len(models.mlp(hidden=(8, 8)))
    assert isinstance(ternarize(models.lenet_300_100(), classes=10)[1], nn.BatchNorm1d)


def test_only_the_named_layers_are_ternary_and_other_rectifiers_stay():
    dense, model = models.mlp(hidden=(8, 8, 8)), ternarize(models.mlp(hidden=(8, 8, 8)), names=["fc3"])
    assert in_space(model.fc3.layer.weight) and isinstance(model.fc3, Binarized)
    assert all(torch.equal(getattr(model, n).weight, getattr(dense, n).weight) for n in ("fc1", "fc2", "fc4"))
    assert [type(getattr(model, f"relu{i}")) for i in (1, 2, 3)] == [nn.ReLU, nn.Identity, nn.ReLU]
    twice = ternarize(ternarize(models.lenet_300_100(), names=["fc2"]), names=["fc1", "fc3"])
    assert isinstance(twice.fc3.norm, nn.BatchNorm1d) and not isinstance(twice.fc1, Binarized)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_alone_and_odd_networks_work():
    assert in_space(ternarize(nn.Linear(5, 1, bias=False)).weight)
    odd = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, groups=3))
    model = ternarize(odd).eval()
    assert model(torch.rand(1, 1, 5, 5)).shape == (1, 3, 3, 3)
    with_empty = nn.Sequential(nn.Linear(3, 2), nn.Linear(0, 2))
    ternarize(with_empty)
    assert not hasattr(with_empty[1], "parametrizations") and in_space(with_empty[0].weight)


def test_other_types_of_float_keep_their_type():
    for dtype in (torch.float64, torch.float16):
        layer = ternarize(nn.Linear(5, 5).to(dtype))
        assert layer.weight.dtype == dtype and in_space(layer.weight)
        assert compressed_form(layer.float())[0].states.dtype == torch.int8 and layer.weight.dtype == torch.float32


def test_copies_are_independent_and_states_are_saved_and_loaded():
    model = network()
    twin = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gxnor_dst.fit(twin, tiny(), epochs=2, seed=0, batch_size=16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in twin.state_dict().items() if "states" in name)
    model.load_state_dict(twin.state_dict())
    images = tiny().images
    assert torch.equal(model.eval()(images), twin(images))
    assert not any("gradient" in name for name in before)
    assert sum("states" in name for name in before) == 4


def test_a_layer_takes_another_weight():
    layer, weight = ternarize(nn.Linear(4, 3)), ternary(3, 4, seed=1)
    layer.weight = weight
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("space", [0, 1, 3])
def test_a_network_of_torchvision_is_written_and_read_back(tmp_path, space):
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    names = [name for name, _ in layers(net)]
    ternarize(net, names=names, space=space).eval()
    size = storage.save(net, tmp_path / "net.slim", coder="fixed")
    fresh = ternarize(torchvision.models.shufflenet_v2_x0_5(num_classes=10), names=names, space=space)
    fresh = storage.load(tmp_path / "net.slim", fresh).eval()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(fresh(image), net(image))
    weights = sum(layer.weight.numel() for _, layer in layers(net))
    plain = sum(t.numel() * t.element_size() for t in fresh.state_dict().values()) - 4 * weights
    bits = (2**space).bit_length()
    assert 0 <= size - bits * weights / 8 - plain < 70 * len(names) + 300
    states = [compressed_form(layer)[0].states.clone() for _, layer in layers(net)]
    compress(fresh, lambda name, layer: TernaryStates(space))  # a dense weight of the space: training can go on
    assert all(torch.equal(a, compressed_form(b)[0].states) for a, (_, b) in zip(states, layers(fresh), strict=True))


@pytest.mark.parametrize("make", [models.lenet5, lambda: models.mlp(hidden=(70, 70))])
def test_counted_in_bits_a_network_gives_the_very_same_answers(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ternarize(make())
        images = torch.rand(20, 1, 28, 28)
        model(images)  # batch norm sees values
    with torch.no_grad():
        assert torch.equal(inference.convert(model)(images), model.eval()(images))


# -- Training -------------------------------------------------------------------------------


@pytest.mark.parametrize("increment", ["adam", "sign"])
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_training_reduces_the_loss(increment, probability):
    losses = gxnor_dst.fit(
        network(), tiny(), epochs=15, seed=0, batch_size=16, increment=increment, probability=probability
    )
    assert len(losses) == 15 and losses[-1] < losses[0]


@pytest.mark.parametrize("increment", INCREMENTS)
def test_states_and_real_parameters_have_rates_of_their_own(increment):
    for rates, moves in (((0.5, 0.0), {True: False, False: True}), ((0.0, 0.5), {True: True, False: False})):
        model = network()
        before = copy.deepcopy(model.state_dict())
        how = {"learning_rate": rates[0], "real_learning_rate": rates[1], "increment": increment}
        gxnor_dst.fit(model, tiny(), epochs=2, seed=0, batch_size=16, **how)
        real = {name for name, _ in model.named_parameters()}
        for kind, names in ((True, real), (False, {name for name in before if name.endswith("states")})):
            assert moves[kind] != all(torch.equal(before[name], model.state_dict()[name]) for name in names)


def test_training_depends_on_the_seed_alone_and_can_be_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    how = {"split": tiny(), "epochs": 2, "batch_size": 16}
    found = []
    for seed in (0, 0, 1):
        torch.rand(1)  # what else draws does not matter
        found.append(cached(gxnor_dst.fit, network(), seed=seed, **how).state_dict())
        trained = network()
        gxnor_dst.fit(trained, seed=seed, **how)
        assert all(torch.equal(value, found[-1][name]) for name, value in trained.state_dict().items())
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    same = [all(torch.equal(found[0][name], other[name]) for name in other) for other in found[1:]]
    assert same == [True, False]
    cached(gxnor_dst.fit, network(r=0.25), seed=0, **how)  # another setting, another entry
    cached(gxnor_dst.fit, network(space=2), seed=0, **how)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_one_sample_is_enough_without_batch_norm():
    layer = ternarize(nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False)))
    assert len(gxnor_dst.fit(layer, tiny(1), epochs=2, seed=0)) == 2
    assert in_space(layer[1].weight)


# -- Bits and gates -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7, 63, 64, 65, 127, 200, 1001])
def test_the_product_on_two_planes_of_bits_is_that_of_floats(length):
    a, w = ternary(5, length), ternary(4, length, seed=1)
    products, active = ternary_dot(a, w)
    assert torch.equal(products.float(), a @ w.T)
    assert torch.equal(active.float(), (a != 0).float() @ (w != 0).float().T)


def test_nothing_times_nothing_is_nothing():
    for n, m, length in ((0, 3, 5), (3, 0, 5), (2, 3, 0)):
        assert [each.shape for each in ternary_dot(torch.zeros(n, length), torch.zeros(m, length))] == [(n, m)] * 2
    assert ternary_dot(torch.zeros(2, 70), ternary(3, 70))[1].abs().sum() == 0


def test_of_uniform_ternary_values_five_ninths_of_the_operations_rest():
    every = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0]))
    _, active = ternary_dot(every[:, :1], every[:, 1:])
    assert 1 - active.diagonal().float().mean().item() == pytest.approx(5 / 9)
    a, w = ternary(300, 400), ternary(50, 400, seed=1)
    share = ternary_dot(a, w)[1].double().mean().item() / 400
    assert share == pytest.approx(4 / 9, abs=0.01)


def test_the_operations_of_a_network_are_those_counted_one_by_one():
    model = network().eval()
    images = tiny(3).images
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, Binarized):
            module.activation.register_forward_hook(lambda _, __, out, n=name: seen.__setitem__(n, out))
    counts = gated_operations(model, images)
    assert list(counts) == ["0.2", "0.5", "0.7"]
    values, weight = seen["0.5"], model[0][5].layer.weight.detach()
    assert counts["0.5"] == (ternary_dot(values, weight)[1].sum().item(), 3 * 16 * 7)
    values, weight = seen["0.2"], model[0][2].layer.weight.detach()  # one input channel a filter
    patches = functional.unfold(values, 3).unflatten(1, (4, 9))  # (n, channels, 9, places)
    active = sum(((patches[:, c] != 0) & (weight[c].flatten() != 0)[:, None]).sum().item() for c in range(4))
    assert counts["0.2"] == (active, 3 * 4 * 9 * 4)
    assert not any(isinstance(m, Binarized) and len(m.activation._forward_hooks) > 1 for m in model.modules())


def test_a_border_of_zeros_has_no_operations():
    model = ternarize(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)))
    counts = gated_operations(model, torch.rand(1, 1, 3, 3))
    assert counts["1"][1] == 4 * 4 + 4 * 6 + 9  # corners, edges, the middle


# -- Refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": 7}, "space must be a whole number from 0 to 6, not 7"),
        ({"space": -1}, "from 0 to 6, not -1"),
        ({"space": 0.5}, "from 0 to 6, not 0.5"),
        ({"r": -0.5}, "r must be 0 or more and a above 0, both finite, not -0.5 and 0.5"),
        ({"a": 0.0}, "both finite, not 0.5 and 0.0"),
        ({"r": float("nan")}, "both finite, not nan"),
        ({"a": float("inf")}, "both finite, not 0.5 and inf"),
        ({"derivative": "round"}, "derivative must be one of rectangular, triangular, not 'round'"),
        ({"names": ["fc9"]}, "no layer 'fc9'"),
        ({"names": []}, "no layer to binarize"),
    ],
)
def test_settings_that_make_no_sense_are_refused_and_change_nothing(settings, message):
    model = models.lenet_300_100()
    text, before = str(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        ternarize(model, **settings)
    assert str(model) == text and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_and_weights_that_cannot_be_ternary_are_refused_and_stay_as_they_were():
    with pytest.raises(ValueError, match="no layer to binarize"):
        ternarize(nn.ReLU())
    done = ternarize(models.lenet_300_100())
    text = str(done)
    with pytest.raises(ValueError, match=r"no layer 'fc2.layer' to binarize"):
        ternarize(done)
    assert str(done) == text
    model = models.lenet_300_100()
    model.fc2.weight.data[0, 0] = float("nan")
    text = str(model)
    with pytest.raises(ValueError, match="'fc2' hold NaN or infinity"):
        ternarize(model)
    shared = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    shared[2].weight = shared[0].weight
    with pytest.raises(ValueError, match="share one weight"):
        ternarize(shared)
    assert str(model) == text and isinstance(shared[1], nn.ReLU)
    layer = ternarize(nn.Linear(2, 2))
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="a weight holds NaN or infinity"):
        layer.weight = torch.full((2, 2), float("inf"))
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"increment": "adamw"}, "increment must be one of adam, sgd, sign, not 'adamw'"),
        ({"probability": "square"}, "probability must be one of tanh, linear, not 'square'"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"m": 0.0}, "m is 0.0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
    ],
)
def test_an_optimizer_with_such_settings_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiscreteStateTransition(network(), **settings)


def test_an_optimizer_needs_a_model_in_states():
    with pytest.raises(ValueError, match="Sequential has no weights in discrete states: ternarize it first"):
        DiscreteStateTransition(models.lenet_300_100())
    model = models.lenet_300_100()
    with pytest.raises(ValueError, match="ternarize it first"):
        gxnor_dst.fit(model, tiny(), epochs=1, seed=0)
    with pytest.raises(ValueError, match="training split is empty"):
        gxnor_dst.fit(network(), tiny(0), epochs=1, seed=0)


@pytest.mark.parametrize("part", ["states", "bias"])
def test_a_gradient_that_is_not_finite_is_refused_and_nothing_moves(part):
    model = network()
    optimizer = DiscreteStateTransition(model, lr=1.0)
    training.squared_hinge(model(tiny().images), tiny().labels).backward()
    if part == "states":
        compressed_form(model[0][7].layer)[0].gradient[0, 0] = float("nan")
    else:
        model[0][7].layer.bias.grad[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"the gradient of a parameter of shape \(.*\) holds NaN or infinity"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state


def test_products_of_other_values_and_lengths_are_refused():
    for values in (0.5, float("nan"), -2.0):
        with pytest.raises(ValueError, match=f"{values:g} is not ternary: accepted are -1, 0 and 1"):
            ternary_dot(torch.tensor([[1.0, values]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"rows of one length are multiplied, not \(1, 3\) and \(1, 2\)"):
        ternary_dot(torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="has no layer that reads ternary values"):
        gated_operations(models.lenet_300_100(), torch.rand(1, 1, 28, 28))
    model = network()
    with pytest.raises(ValueError, match="does not take images of shape"):
        gated_operations(model, torch.rand(1, 3, 6, 6))
    assert not any(m._forward_hooks for m in model.modules())
