"""Paths from input to output, counted by hand."""

import pytest
import torch
from given_morphism import chain, crossing, images
from torch import nn

from lib.morphism.shared.branches import Branches
from lib.morphism.shared.paths import count, inside
from lib.morphism.shared.skips import add_concat, add_skip
from lib.morphism.shared.subnets import morph_depth


def both(*branches, merge="add"):
    return Branches(branches, allocation="replicate", merge=merge)


def tree():
    """Three branches: one of two layers, whose second has two branches; one layer; one of two times two."""
    twice = nn.Sequential(both(nn.ReLU(), nn.Tanh()), nn.Linear(4, 4), both(nn.Identity(), nn.Linear(4, 4)))
    return both(nn.Sequential(nn.Linear(4, 4), both(nn.ReLU(), nn.Identity())), nn.ReLU(), twice)


def test_a_chain_has_one_path_however_deep_its_layers():
    model, x = chain(), images(1)
    assert count(model, x) == 1 and count(morph_depth(model, "4", x), x) == 1


@pytest.mark.parametrize("add", [add_skip, add_concat])
def test_a_skip_makes_two_paths_of_one(add):
    x = images(1)
    assert count(add(chain(), "0", "4", x), x) == 2


def test_paths_of_a_tree_are_those_counted_by_hand():
    assert inside(tree()) == 2 + 1 + 2 * 2
    model = nn.Sequential(nn.Linear(4, 4), tree(), both(nn.ReLU(), nn.Identity(), merge="mean"))
    assert inside(model) == count(model, torch.zeros(1, 4)) == 7 * 2


def test_paths_of_a_network_with_sums_and_joins():
    # a residual sum has two, and is joined with what the grouped layer computes of it
    assert count(crossing(), images(1)) == 2 + 2


class Sized(nn.Module):
    """Reads a size of its input, and a parameter, which are no paths."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.layer(x).reshape(x.shape[0], 2) * self.scale


def test_sizes_and_parameters_are_no_paths():
    assert count(Sized(), torch.zeros(3, 2)) == 1


def test_networks_without_values_are_counted_and_left_alone():
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()), torch.zeros(1, 1, 4, 4)
    assert count(model, x) == 1 and model.training and model[1].training
