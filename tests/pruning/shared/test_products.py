"""Products of what depends on the input: their factors by hand, and which of them is a gate."""

import given
import given_tokens
import torch
from torch import nn

from lib.pruning.shared.products import products

LAYERS = ("first", "second", "squeeze", "excite", "head")


def test_squeeze_and_excitation_is_a_gate_made_by_its_last_layer():
    model, images = given_tokens.gated(), given.split(7, 2, 5, 5, dtype=torch.float64).images
    (product,) = products(model, images, LAYERS, batch_size=3)
    with torch.no_grad():
        maps = model.first(images).relu()
        gate = model.gate(maps)
    assert product.gate == 1 and product.layers == {"excite"}
    torch.testing.assert_close(product.sizes[0], maps.mean(0, keepdim=True))
    torch.testing.assert_close(product.sizes[1], gate.mean(0, keepdim=True))
    assert not any(module._forward_hooks for module in model.modules()) and not hasattr(images, "origin")


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 4), nn.Linear(3, 4), function

    def forward(self, x):
        return self.function(self.a(x), self.b(x))


def test_only_a_factor_that_is_computed_from_the_other_is_a_gate():
    def entries(function):
        return [entry and (entry.gate, sorted(entry.layers)) for entry in products(model(function), x, ["a", "b"])]

    def model(function):
        return given.seeded(lambda: Function(function))

    x = torch.rand(5, 3)
    assert entries(lambda a, b: a + b) == []
    assert entries(lambda a, b: 3 * a + b * torch.ones(4)) == [None, None]
    assert entries(lambda a, b: a * b.sigmoid()) == [(None, [])]  # two branches: neither is computed from the other
    assert entries(lambda a, b: a * a.sigmoid()) == [(1, [])]  # no layer makes this gate
    assert entries(lambda a, b: a.mul_((a + b).sigmoid())) == [(1, ["b"])]
    assert entries(lambda a, b: (a.detach().relu_() + b).sigmoid() * a) == [(0, ["b"])]
    assert entries(lambda a, b: a * a) == [(None, [])]


def test_a_norm_has_one_over_the_deviation_as_its_gate():
    x = torch.randn(5, 4, 6, generator=given.generator())
    inverse = (x.var(2, correction=0, keepdim=True) + 0.1).rsqrt()
    (entry,) = products(nn.LayerNorm(6, eps=0.1), x, [])
    torch.testing.assert_close(entry.sizes[1], inverse.double().mean(0, keepdim=True))
    (entry,) = products(nn.GroupNorm(4, 4, eps=0.1), x, [])
    torch.testing.assert_close(entry.sizes[1], inverse.double().mean(0, keepdim=True))
    (entry,) = products(nn.RMSNorm(6, eps=0.1), x, [])
    inverse = (x.square().mean(2, keepdim=True) + 0.1).rsqrt()
    torch.testing.assert_close(entry.sizes[1], inverse.double().mean(0, keepdim=True))
