"""Which calls of layers are seen, and where their samples are."""

import pytest
import torch
from torch import nn

from lib.pruning.shared import uses


class Turned(nn.Module):
    """Reads samples first, then second."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x).transpose(0, 1)).mean(dim=0)


def of(model, x):
    layers = uses.watchable(model)
    with uses.recorded(layers) as seen:
        logits = model(x)
    return layers, seen, logits


@pytest.mark.parametrize(("n", "expected"), [(2, [0, 1]), (5, [0, 1]), (1, [None, None])])
def test_the_axis_of_the_samples_is_found(n, expected):
    model, x = Turned(), torch.rand(n, 5, 3)
    layers, seen, _ = of(model, x)
    assert [use.name for use in seen] == ["first", "second"]
    axes = uses.sample_axes(model, layers, seen, x)
    assert axes == expected
    deltas = [use.output for use in seen]
    for name, features in (("first", 3), ("second", 4)):
        ((inputs, delta),) = uses.by_sample(name, seen, deltas, axes)
        assert len(inputs) == len(delta) == n and inputs.shape[-1] == features


def test_a_use_on_which_nothing_depends_is_left_out():
    model, x = Turned(), torch.rand(2, 5, 3)
    _, seen, _ = of(model, x)
    assert uses.by_sample("first", seen, [None, None], [0, 1]) == []


def test_hooks_go_even_when_the_network_fails():
    model = Turned()
    with pytest.raises(RuntimeError):
        of(model, torch.rand(2, 5, 4))
    assert not any(module._forward_hooks for module in model.modules())


def test_every_use_behind_the_logits_is_seen():
    model = Turned()
    layers, seen, logits = of(model, torch.rand(2, 5, 3))
    uses.check(layers, seen, logits)
    with pytest.raises(ValueError, match="weight of layer 'first' is also read outside of the layer"):
        uses.check(layers, seen, logits + model.first.weight.sum())


def test_only_layers_that_are_there_can_be_watched():
    assert list(uses.watchable(Turned(), ["second"])) == ["second"]
    with pytest.raises(ValueError, match="Turned has no layer 'third' with a weight: it has first, second"):
        uses.watchable(Turned(), ["third"])
    with pytest.raises(ValueError, match="layers must name one layer or more, of first, second"):
        uses.watchable(Turned(), [])
    with pytest.raises(ValueError, match="has no layer with a weight: there is nothing to prune"):
        uses.watchable(nn.ReLU())
