"""Adaptive dropout: how often units are kept, what is expected, gradients, work, refusals."""

import pytest
import torch
from given import generator, refused, seeded
from torch import nn

from lib import models
from lib.hashing.shared.adaptive_dropout import AdaptiveLinear, drop_adaptively
from lib.hashing.shared.linear_layers import Work, work


def linear(outputs: int = 40) -> nn.Linear:
    return seeded(lambda: nn.Linear(12, outputs, dtype=torch.float64))


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0), dtype=torch.float64)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (2.0, -1.5), (0.0, 0.5)])
def test_adaptive_dropout_keeps_a_unit_as_often_as_its_output_says(alpha, beta):
    dense, x = linear(outputs=8), inputs(1, 12)
    layer = AdaptiveLinear(dense, alpha=alpha, beta=beta).train()
    outputs = layer(x.expand(20_000, 12))
    p = torch.sigmoid(alpha * dense(x) + beta)
    assert ((layer.masks.double().mean(0) - p).abs() <= 4 * (p * (1 - p) / 20_000).sqrt()).all()
    assert torch.equal(outputs, dense(x.expand(20_000, 12)) * layer.masks)
    assert torch.equal(layer.eval()(x), p * dense(x))  # what is expected
    assert not torch.equal(layer.train()(x.expand(9, 12)), layer(x.expand(9, 12)))


def test_adaptive_dropout_without_slope_is_dropout():
    layer = AdaptiveLinear(linear(), alpha=0.0, beta=0.5)
    dense, x = layer.weight @ torch.ones(12).double() + layer.bias, torch.ones(1, 12).double()
    assert torch.allclose(layer.eval()(x), torch.sigmoid(torch.tensor(0.5)).double() * dense)
    assert torch.sigmoid(torch.tensor(0.5)) > 0.62  # not 0.5, as is sometimes said


def test_the_gradient_of_a_dropped_unit_is_zero():
    layer, x = AdaptiveLinear(linear(), beta=-2.0).train(), inputs(2, 12)
    layer(x).sum().backward()
    dropped = ~layer.masks.any(0)
    assert dropped.any() and not layer.weight.grad[dropped].any() and layer.weight.grad[~dropped].any()


def test_the_work_of_adaptive_dropout_is_the_dense_one():
    dense = models.mlp(hidden=(1000,), batch_norm=False)
    every = 1000 * 784 + 1000 * 10
    assert work(drop_adaptively(dense, ["fc1"]), (1, 28, 28)) == Work(every, 0, every)


def test_draws_leave_other_random_numbers_alone():
    before = torch.get_rng_state()
    drop_adaptively(models.lenet_300_100(), ["fc1"]).train()(inputs(2, 784).float())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([], {}, "name one linear layer or more"),
        (["fc9"], {}, "has no layer 'fc9' with a weight: it has conv1"),
        (["conv1"], {}, "layer 'conv1' must be a plain nn.Linear, not Conv2d"),
        (["fc1"], {"seed": -2}, "layer 'fc1': seed must be 0 or more, not -2"),
        (["fc1"], {"alpha": torch.nan}, "alpha and beta must be finite, not nan and 0.0"),
        (["fc1"], {"beta": torch.inf}, "alpha and beta must be finite, not 1.0 and inf"),
    ],
)
def test_what_makes_no_sense_is_refused_by_adaptive_dropout(layers, options, message):
    model = models.lenet5()
    with refused(model, message):
        drop_adaptively(model, layers, **options)
