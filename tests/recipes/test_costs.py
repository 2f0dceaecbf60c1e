"""Costs are counted on the network they belong to."""

import math

import pytest
import torch
from torch import nn

from lib.datasets import Split
from lib.recipes.costs import measured
from lib.recipes.methods import Made

SPLIT = Split(torch.rand(12, 4), torch.arange(12) % 2)


def test_counts_are_those_of_the_layers():
    small, large = nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 2))
    costs = measured({"small": Made(small, small, small), "large": Made(large, large, large)}, SPLIT, runs=20)
    assert (costs["small"].multiply_adds, costs["large"].multiply_adds) == (8, 300)
    assert costs["small"].activation_bytes == 4 * (4 + 2)
    assert costs["small"].file_bytes < costs["large"].file_bytes
    assert costs["small"].latency_ms > 0


def test_integers_take_a_quarter_of_the_activations():
    net = nn.Linear(4, 2)
    costs = measured({"float": Made(net, net, net), "int": Made(net, net, net, value_bytes=1)}, SPLIT, runs=20)
    assert costs["float"].activation_bytes == 4 * costs["int"].activation_bytes


def test_the_error_is_that_of_the_test_split():
    net = nn.Linear(4, 2)
    net.weight.data.zero_()
    net.bias.data = torch.tensor([0.0, 1.0])  # always class 1
    assert measured({"net": Made(net, net, net)}, SPLIT, runs=20)["net"].error_pct == 50


def test_the_validation_error_is_nan_without_such_a_split():
    net = nn.Linear(4, 2)
    made = {"net": Made(net, net, net)}
    costs = measured(made, SPLIT, SPLIT, runs=20)["net"]
    assert costs.validation_error_pct == costs.error_pct
    assert math.isnan(measured(made, SPLIT, SPLIT.first(0), runs=20)["net"].validation_error_pct)


def test_nothing_to_test_on_is_refused():
    net = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to test on"):
        measured({"net": Made(net, net, net)}, SPLIT.first(0))
