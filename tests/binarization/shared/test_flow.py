"""Bounds of values, which activations are replaced by signs, what lies before and after a layer."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.binarization.shared import flow
from lib.binarization.shared.graphs import Step, steps

INF = math.inf
ACTIVATIONS = {  # bounds of the values, whether a sign takes their place
    "relu": (nn.ReLU(), (0, INF), True),
    "relu6": (nn.ReLU6(), (0, 6), True),
    "sigmoid": (nn.Sigmoid(), (0, 1), True),
    "hardsigmoid": (nn.Hardsigmoid(), (0, 1), True),
    "softplus": (nn.Softplus(), (0, INF), True),
    "logsigmoid": (nn.LogSigmoid(), (-INF, 0), True),
    "one side": (nn.Hardtanh(0, 3), (0, 3), True),
    "silu": (nn.SiLU(), (-0.2785, INF), True),
    "gelu": (nn.GELU(), (-0.17, INF), True),
    "hardswish": (nn.Hardswish(), (-0.375, INF), True),
    "mish": (nn.Mish(), (-0.309, INF), True),
    "elu": (nn.ELU(), (-1, INF), True),
    "selu": (nn.SELU(), (-1.758, INF), True),
    "celu": (nn.CELU(0.5), (-0.5, INF), True),
    "leaky": (nn.LeakyReLU(), (-INF, INF), True),
    "prelu": (nn.PReLU(3), (-INF, INF), True),
    "threshold": (nn.Threshold(0.1, 20.0), (0.1, INF), True),
    "tanh": (nn.Tanh(), (-1, 1), False),
    "hardtanh": (nn.Hardtanh(), (-1, 1), False),
    "softsign": (nn.Softsign(), (-1, 1), False),
    "hardshrink": (nn.Hardshrink(), (-INF, INF), False),
    "softshrink": (nn.Softshrink(), (-INF, INF), False),
    "tanhshrink": (nn.Tanhshrink(), (-INF, INF), False),
    "prelu of slope 1": (nn.PReLU(init=1.0), (-INF, INF), False),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_bounds_of_activations_are_known_and_odd_ones_stay(kind):
    module, bounds, replaced = ACTIVATIONS[kind]
    some = steps(nn.Sequential(nn.Linear(3, 3), module, nn.Dropout()))[0]
    found = flow.bounds(some)
    assert found[1] == (-INF, INF) and found[2] == found[3]
    assert found[2] == pytest.approx(bounds, abs=2e-3)
    assert flow.replaceable(some[2]) == replaced
    assert flow.bounds(some, ["1"])[3] == (-INF, INF)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.gain = function, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(x, self)


FUNCTIONS = {
    "hard sigmoid": (lambda x, _: functional.relu6(x + 3) / 6, (0, 1)),
    "square": (lambda x, _: x * x, (0, INF)),
    "power": (lambda x, _: -(x**2), (-INF, 0)),
    "absolute": (lambda x, _: abs(x).neg() + 2, (-INF, 2)),
    "clamp": (lambda x, _: x.clamp(min=-0.25), (-0.25, INF)),
    "two branches": (lambda x, _: x.relu() + torch.sigmoid(x), (0, INF)),
    "difference": (lambda x, _: x.relu() - x.tanh(), (-1, INF)),
    "gate": (lambda x, _: x.tanh() * x.sigmoid(), (-1, 1)),
    "concatenation": (lambda x, _: torch.cat([x.relu(), x.sigmoid() - 0.5], 1), (-0.5, INF)),
    "pieces": (lambda x, _: functional.adaptive_avg_pool1d(x.relu(), 2).flatten(1)[:, None].chunk(2, 2)[0], (0, INF)),
    "parameter": (lambda x, own: x.relu() * own.gain, (-INF, INF)),
    "layer": (lambda x, own: functional.linear(x.relu(), own.gain.reshape(1, 1)), (-INF, INF)),
    "size": (lambda x, _: x.relu().view(x.size(0), -1), (0, INF)),
    "norm": (lambda x, _: functional.layer_norm(x.relu(), (4,)), (-INF, INF)),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_bounds_follow_functions_too(kind):
    function, bounds = FUNCTIONS[kind]
    some = steps(Function(function))[0]
    assert flow.bounds(some)[-2] == pytest.approx(bounds, abs=1e-6)


def test_what_batch_norm_gives_is_normalized_until_a_layer():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1))
    some = steps(model.append(nn.BatchNorm2d(2)).append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()))[0]
    assert flow.normalized(some) == [False, False, True, True, True, False, True, False, False, False]


class Gated(nn.Module):
    """A layer that reads one activation times a gate of another layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.relu, self.gate = nn.ReLU(), nn.Sigmoid()

    def forward(self, x):
        y = self.relu(self.one(x))
        return self.three(y * self.gate(self.two(y))) + y


def test_a_gate_is_not_before_a_layer_what_passes_is():
    some = steps(Gated())[0]
    place = {step.module: i for i, step in enumerate(some)}
    assert [some[i].module for i in flow.before(some, place["three"])] == ["relu"]
    assert [some[i].module for i in flow.before(some, place["three"], ["relu"])] == ["one"]
    assert sorted(str(some[i].module) for i in flow.after(some, place["relu"])) == ["None", "three", "two"]
    assert {some[i].kind for i in flow.after(some, place["three"])} == {"output"}


def test_only_first_layers_read_what_no_layer_has_touched():
    some = steps(nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 3)))[0]
    assert flow.untouched(some) == [True, True, True, False, False, False]


def test_a_step_that_needs_more_than_numbers_can_give_anything():
    broken = Step("relu", "a", (0,), lambda x: 1 / 0)
    assert flow.bounds([Step("input", None, ()), broken])[1] == (-INF, INF) and flow.replaceable(broken)
