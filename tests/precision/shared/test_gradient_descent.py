"""Gradient descent in an arithmetic: floats as torch trains them, odd networks on the grid, what is refused."""

import given
import pytest
import torch
from torch import nn

from lib import models
from lib.datasets import Split
from lib.precision.fixed_point import FixedPoint
from lib.precision.shared.arithmetic import Arithmetic, computing
from lib.precision.shared.formats import Format, rounded
from lib.precision.shared.gradient_descent import train


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 40, seed: int = 0, inputs: int = 784) -> Split:
    return Split(torch.rand(n, 1, 1, inputs, generator=seeded(seed)), torch.arange(n) % 10)


def test_floats_train_as_plain_gradient_descent_does():
    ours, theirs, split = models.lenet_300_100(), models.lenet_300_100(), images()
    train(ours, split, arithmetic=Arithmetic(), epochs=3, seed=5, decay=1, batch_size=20)
    order, optimizer = seeded(5), torch.optim.SGD(theirs.parameters(), lr=0.1)
    for batch in [b for _ in range(3) for b in torch.randperm(40, generator=order).split(20)]:
        loss = nn.functional.cross_entropy(theirs(split.images[batch]), split.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours_value, value in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_value, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, groups=1, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 2)
        ),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 4, bias=False)),
    ],
    ids=["bias-free", "grouped", "batch norm", "linear"],
)
def test_odd_networks_and_one_sample_train(build):
    torch.manual_seed(0)
    model, split = build(), Split(torch.rand(3, 1, 3, 3), torch.tensor([0, 1, 0]))
    arithmetic = FixedPoint(Format(4, 12), rounding="stochastic")
    losses = train(model, split, arithmetic=arithmetic, epochs=2, seed=0, batch_size=2)
    assert len(losses) == 2 and all(torch.equal(rounded(p, Format(4, 12)), p) for p in model.parameters())
    with computing(model, arithmetic), torch.no_grad():
        outputs = model(split.images[:1])
    assert torch.equal(rounded(outputs, Format(4, 12)), outputs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": images(0)}, "the split is empty: at least one sample is needed to train on"),
        ({"epochs": -1}, "epochs must be 0 or more"),
        ({"batch_size": 0}, "batch_size 1 or more"),
        ({"learning_rate": 1e30, "arithmetic": Arithmetic()}, "training diverged in epoch"),
    ],
)
def test_training_refuses_what_it_cannot_do_and_leaves_no_hook(change, says):
    model = models.lenet_300_100()
    options = {"split": images(), "arithmetic": FixedPoint(Format(8, 8)), "epochs": 9, "seed": 0} | change
    with pytest.raises(ValueError, match=says):
        train(model, options.pop("split"), **options)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_type_that_cannot_be_rounded_is_refused_by_name(dtype):
    model = models.lenet_300_100(inputs=4).to(dtype)
    split = Split(torch.rand(8, 1, 2, 2), torch.arange(8))
    with given.refused(model, f"fc1.weight cannot be kept: the values to round are {dtype}: accepted are float32"):
        train(model, split, arithmetic=FixedPoint(Format(6, 10)), epochs=1, seed=0)
