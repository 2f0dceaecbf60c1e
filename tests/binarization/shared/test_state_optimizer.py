"""The optimizer of discrete states: its steps are transitions, all else is Adam, and it keeps no real weights."""

import copy
import gc

import given
import pytest
import torch
from given_binarization import in_space, ternary_network, two_halves
from torch import nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from lib import models, training
from lib.binarization.gxnor_dst import ternarize
from lib.binarization.shared.state_optimizer import INCREMENTS, DiscreteStateTransition
from lib.binarization.shared.states import TernaryStates, transition
from lib.weights import compress, compressed_form, layers

# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("increment", INCREMENTS)
@pytest.mark.parametrize("space", [0, 1, 3])
def test_every_weight_is_in_the_space_after_every_step(increment, space):
    model, split, steps = ternary_network(space=space), two_halves(), []
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
    x = torch.randn(9, 5, generator=given.generator())
    layer = compress(nn.Linear(5, 4, bias=False), lambda name, layer: TernaryStates())
    form = compressed_form(layer)[0]
    optimizer = DiscreteStateTransition(layer, lr=0.4, increment=increment, seed=7)
    dense = nn.Parameter(torch.zeros(4, 5))
    adam, draws = torch.optim.Adam([dense], lr=0.4), given.generator(7)
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
    options = {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.1}
    optimizer, adam = DiscreteStateTransition(model, **options), torch.optim.Adam(twin.parameters(), **options)
    for turn in range(5):
        x = torch.randn(6, 3, generator=given.generator(turn))
        for layer, update in ((model.real, optimizer), (twin, adam)):
            update.zero_grad()
            (layer(x) ** 2).sum().backward()
            update.step()
    torch.testing.assert_close(list(model.real.parameters()), list(twin.parameters()), rtol=1e-5, atol=1e-7)


def test_a_layer_that_is_used_twice_adds_up_its_gradients():
    layer = compress(nn.Linear(4, 4), lambda name, layer: TernaryStates())
    form, x = compressed_form(layer)[0], torch.randn(5, 4, generator=given.generator())
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
    x = torch.randn(5, 4, generator=given.generator())

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
    again = DiscreteStateTransition(model, seed=2)
    with pytest.raises(ValueError, match="has no 'generator' of the draws"):
        again.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())
    again.load_state_dict(optimizer.state_dict())
    stored = compressed_form(model[1])[1][0]
    assert again.state[stored]["step"] == 3
    assert torch.equal(again.state[stored]["exp_avg"], optimizer.state[stored]["exp_avg"])
    assert torch.equal(torch.rand(9, generator=again.generator), torch.rand(9, generator=optimizer.generator))


# -- memory ------------------------------------------------------------------------------------------------------------


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
def test_between_steps_only_adams_moments_are_real_weight_shaped_values(increment):
    shapes = {(37, 29), (41, 37), (43, 41)}  # that no other test has
    net = nn.Sequential(nn.Linear(29, 37), nn.ReLU(), nn.Linear(37, 41), nn.ReLU(), nn.Linear(41, 43))
    model = ternarize(net, classes=43)
    optimizer = DiscreteStateTransition(model, increment=increment)
    images = torch.rand(16, 29, generator=given.generator())
    for _ in range(3):
        optimizer.zero_grad()
        loss = training.squared_hinge(model(images), torch.arange(16))
        loss.backward()
        held = [t for t in reachable(model) if t.is_floating_point() and tuple(t.shape) in shapes]
        assert len(held) == 3  # between backward and step: the gradients
        del held
        optimizer.step()
        gc.collect()
        everywhere = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor) and not is_lazy(item)]
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


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"increment": "adamw"}, "increment must be one of adam, sgd, sign, not 'adamw'"),
        ({"probability": "square"}, "probability must be one of tanh, linear, not 'square'"),
        ({"lr": -0.1}, "lr must be a finite number of 0 or more, not -0.1"),
        ({"lr": float("nan")}, "lr must be a finite number of 0 or more, not nan"),
        ({"m": 0.0}, "m must be a finite number above 0, not 0.0"),
        ({"betas": (0.9, 1.0)}, r"betas must be from 0 to below 1, not \(0.9, 1.0\)"),
    ],
)
def test_an_optimizer_with_such_settings_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiscreteStateTransition(ternary_network(), **settings)


def test_an_optimizer_needs_a_model_in_states():
    with pytest.raises(ValueError, match="Sequential has no weights in discrete states: ternarize it first"):
        DiscreteStateTransition(models.lenet_300_100())


@pytest.mark.parametrize("part", ["states", "bias"])
def test_a_gradient_that_is_not_finite_is_refused_and_nothing_moves(part):
    model = ternary_network()
    optimizer = DiscreteStateTransition(model, lr=1.0)
    training.squared_hinge(model(two_halves().images), two_halves().labels).backward()
    if part == "states":
        compressed_form(model[0][7].layer)[0].gradient[0, 0] = float("nan")
    else:
        model[0][7].layer.bias.grad[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"the gradient of a parameter of shape \(.*\) holds NaN or infinity"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state
