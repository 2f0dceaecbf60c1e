"""Steps of a network: traced and seen in a run they are the same, and the network is left as it was."""

import given
import pytest
import torch
from given_binarization import snapshot, unchanged
from torch import nn
from torch.nn import functional

from lib import models
from lib.binarization.shared.graphs import Step, steps
from lib.vision import torchvision


class Everything(nn.Module):
    """Modules, functions and methods, in place or not, a parameter, a question about the shape."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.drop, self.relu, self.scale = nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Parameter(torch.ones(4))

    def forward(self, x, mask=None):
        x = self.relu(self.norm(self.first(x)))
        x = torch.cat([x, functional.relu(x).relu_()], 0)[: x.size(0)]
        x = x.mean((2, 3)) * self.scale
        if mask is not None:
            x = x * mask
        return self.second(self.drop(x.view(x.size(0), -1)))


class Branching(nn.Module):
    """What torch.fx cannot follow: the way depends on the values."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(3, 3), nn.Linear(3, 2), nn.ReLU()

    def forward(self, x):
        return self.b(self.relu(self.a(x)) if x.sum() > -1e9 else x)


def texts(some):
    asked = ("input", "constant", "size", "getitem", "assertisnone")
    return [(step.kind, step.module) for step in some if step.kind not in asked]


def test_steps_are_named_alike_for_modules_functions_and_methods():
    training, _ = steps(Everything())
    assert [(s.kind, s.module) for s in training if s.kind in ("relu", "conv2d", "batchnorm", "mul", "mean")] == [
        *(("conv2d", "first"), ("batchnorm", "norm"), ("relu", "relu"), ("relu", None), ("relu", None)),
        *(("mean", None), ("mul", None)),
    ]
    view = next(s for s in training if s.kind == "view")
    assert len(view.reads) == 1  # the values, not the size
    assert training[-1] == Step("output", None, (len(training) - 2,))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (Everything, (2, 1, 5, 5)),
        (models.lenet5, (2, 1, 28, 28)),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=4), (2, 3, 32, 32)),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Tanh())), (2, 3)),
    ],
)
def test_a_run_shows_the_steps_that_tracing_gives(build, shape):
    model = given.seeded(build)
    for traced, seen in zip(steps(model), steps(model, torch.rand(shape)), strict=True):
        assert texts(traced) == texts(seen) and traced[-1].kind == seen[-1].kind == "output"


def test_a_network_that_cannot_be_traced_needs_an_example():
    model = Branching()
    with pytest.raises(ValueError, match=r"^Branching cannot be traced by torch.fx .*give an example") as error:
        steps(model)
    assert "\n" not in str(error.value)
    seen, _ = steps(model, torch.rand(2, 3))
    assert [step.kind for step in seen] == ["input", "sum", "gt", "linear", "relu", "linear", "output"]
    assert seen[5].reads == (4,) and seen[3].reads == (0,)
    with pytest.raises(ValueError, match="Branching does not take images of shape"):
        steps(model, torch.rand(2, 4))


@pytest.mark.parametrize("example", [None, torch.rand(2, 1, 5, 5)])
def test_the_network_and_the_random_state_stay(example):
    model = given.seeded(Everything)
    model.norm.eval()
    before, modes, state = snapshot(model), [m.training for m in model.modules()], torch.get_rng_state()
    steps(model, example)
    assert unchanged(model, before) and [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_alone_is_one_step_between_input_and_output():
    for example in (None, torch.rand(2, 3)):
        assert [(s.kind, s.module, s.reads) for s in steps(nn.Linear(3, 2), example)[1]] == [
            *(("input", None, ()), ("linear", "", (0,)), ("output", None, (1,)))
        ]


def test_what_happens_inside_of_attention_is_not_seen():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for example in (None, torch.rand(2, 3, 8)):
        for some in steps(nn.Sequential(layer, nn.Linear(8, 2)), example):
            assert [s.module for s in some if s.module] == ["0", "1"]


def test_a_step_of_one_value_can_be_applied():
    training, _ = steps(nn.Sequential(nn.Hardtanh(-0.5, 2), nn.Flatten()))
    assert training[1].apply(torch.tensor([-3.0, 1.0, 9.0])).tolist() == [-0.5, 1.0, 2.0]

    class Arithmetic(nn.Module):
        def forward(self, x):
            return (functional.relu6(x + 3) / 6).clamp(max=0.75)

    x = torch.tensor([-9.0, 0.0, 9.0])
    for example in (None, x):
        value = x
        for step in steps(Arithmetic(), example)[0]:
            value = step.apply(value) if step.apply else value
        assert value.tolist() == [0.0, 0.5, 0.75]
