"""Skips that add and skips that join: nothing at first, and then they learn."""

import pytest
import torch
from given import refused
from given_morphism import crossing, difference, images
from torch import nn

from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.skips import add_concat, add_skip

ADDED = [("stem", "a"), ("stem", "grouped"), ("b", "depthwise"), ("a", "hidden"), ("hidden", "head"), ("b", "head")]
JOINED = [("stem", "a"), ("stem", "b"), ("hidden", "head")]


@pytest.mark.parametrize(("start", "end"), ADDED)
def test_a_skip_that_adds_changes_nothing_until_it_learns(start, end):
    model, x = crossing(), images(5, seed=2)
    more = add_skip(model, start, end, x[:1])
    assert difference(model, more, x) == 0
    more(x).square().sum().backward()
    projection = more.get_submodule(f"{end}_skip")
    assert projection.weight.grad.any()
    with torch.no_grad():
        projection.weight.sub_(0.1 * projection.weight.grad)
    assert largest_difference(model, more, x) > 1e-5


@pytest.mark.parametrize(("start", "layer"), JOINED)
def test_a_layer_that_reads_more_changes_nothing_until_it_learns(start, layer):
    model, x = crossing(), images(5, seed=2)
    more = add_concat(model, start, layer, x[:1])
    assert difference(model, more, x) < 1e-15
    old, new = model.get_submodule(layer), more.get_submodule(layer)
    gained = len(model.get_submodule(start).weight)
    assert new.weight.shape[1] == old.weight.shape[1] + gained and not new.weight[:, -gained:].any()
    more(x).square().sum().backward()
    assert new.weight.grad[:, -gained:].any()


def test_maps_of_another_size_are_averaged():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 2, stride=2))
    more = add_skip(model, "0", "1", torch.zeros(1, 1, 4, 4))
    with torch.no_grad():
        for layer in (more.get_submodule("0"), more.get_submodule("1_skip")):
            layer.weight.fill_(1)
        for value in (more.get_submodule("0").bias, *more.get_submodule("1").parameters()):
            value.zero_()
        x = torch.rand(2, 1, 6, 6)
        torch.testing.assert_close(more(x), nn.functional.avg_pool2d(x, 2))


def test_a_layer_that_shares_its_weight_cannot_read_more():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[4].weight, x = model[0].weight, torch.ones(1, 3)
    assert add_skip(model, "0", "4", x).get_submodule("4").weight.shape == (3, 3)
    with refused(model, "layer '4' shares a tensor with '0.weight', which a morph would end"):
        add_concat(model, "0", "4", x)


def test_skips_that_lead_back_or_join_other_shapes_are_refused():
    model, x = crossing(), images(1)
    with refused(model, "layer 'a' must end before layer 'stem' does"):
        add_skip(model, "a", "stem", x)
    with refused(model, "layer 'a' must end before layer 'a' does"):
        add_concat(model, "a", "a", x)
    with refused(model, "layer 'grouped' reads in 2 groups"):
        add_concat(model, "stem", "grouped", x)
    with refused(model, "has no layer 'tail' that this works on"):
        add_skip(model, "tail", "head", x)
    with refused(model, r"of shape \(1, 4, 8, 8\), cannot .* accepted are maps to maps, and vectors to vectors"):
        add_concat(model, "stem", "hidden", x)
    back = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 1))
    for add in (add_skip, add_concat):
        with refused(back, r"of shape \(1, 4\), cannot get the shape \(1, 1, 2, 2\) at layer '2'"):
            add(back, "0", "2", torch.zeros(1, 4))
