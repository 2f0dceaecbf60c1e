"""Gradients of single samples against autograd on each sample alone, and padding against what the layers do."""

import pytest
import torch
from torch import nn

from lib.pruning.shared import per_sample


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "linear over places": (lambda: nn.Linear(5, 4), (3, 2, 6, 5)),
    "signals": (lambda: nn.Conv1d(4, 6, 3, stride=2, groups=2), (3, 4, 9)),
    "images": (lambda: nn.Conv2d(2, 4, (3, 2), padding=(1, 0), dilation=2), (3, 2, 8, 7)),
    "depthwise, replicated": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1, padding_mode="replicate"), (3, 3, 5, 5)),
    "volumes of the same size": (lambda: nn.Conv3d(2, 2, 2, padding="same"), (3, 2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), (3, 2, 3, 3)),
    "a layer of its own": (lambda: Cubed(5, 4), (3, 5)),
}


class Cubed(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight**3, self.bias)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("at_once", [1, 10**9])
def test_gradients_are_those_of_each_sample_alone(name, at_once, monkeypatch):
    build, shape = LAYERS[name]
    layer, x = build().double(), drawn(*shape)
    deltas = drawn(*layer(x).shape, seed=1)
    alone = torch.stack(
        [torch.autograd.grad(layer(x[i : i + 1]), layer.weight, deltas[i : i + 1])[0] for i in range(len(x))]
    )
    torch.testing.assert_close(per_sample.gradient_by_sample(layer, x, deltas), alone)
    monkeypatch.setattr(per_sample, "AT_ONCE", at_once)
    for parts, expected in (
        ([(x, deltas)], alone.square().sum(dim=0)),
        ([(x, deltas), (x, deltas)], (2 * alone).square().sum(dim=0)),  # two uses add up before they are squared
        ([], torch.zeros_like(alone[0])),
    ):
        total = torch.ones_like(layer.weight)
        per_sample.add_squares(total, layer, parts)
        torch.testing.assert_close(total - 1, expected)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [0, (2, 1), "same", "valid"])
def test_padding_is_that_of_the_layer(mode, padding):
    layer, x = nn.Conv2d(2, 3, (2, 4), padding=padding, padding_mode=mode).double(), drawn(2, 2, 5, 6)
    by_hand = nn.functional.conv2d(per_sample.padded(layer, x), layer.weight, layer.bias)
    torch.testing.assert_close(by_hand, layer(x))
