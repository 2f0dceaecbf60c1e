"""The groups that criteria score: those of the structure, and one sentence where there is no sample to trace with."""

import given
import given_tokens
import pytest
import torch
from torch import nn

from lib import models, structure
from lib.datasets import Split
from lib.pruning.shared.groups import filters, groups_of


@pytest.mark.parametrize("model", [models.lenet5(), models.resnet8(channels=1, width=4)])
def test_the_groups_are_those_that_the_structure_traces(model):
    split = Split(torch.rand(3, 1, 28, 28), torch.zeros(3, dtype=torch.long))
    groups = groups_of(model, split)
    expected = structure.groups(model, split.images)
    assert [group.producers for group in groups] == [group.producers for group in expected] and groups


def test_an_empty_split_is_refused_before_tracing():
    empty = Split(torch.rand(0, 1, 28, 28), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to score filters"):
        groups_of(torch.nn.Identity(), empty)


def test_a_layer_that_only_makes_a_gate_produces_no_channel():
    model, split = given_tokens.gated(), given.split(2, 2, 5, 5, dtype=torch.float64)
    whole = {group.producers for group in structure.groups(model, split.images)}
    assert whole == {("first", "excite"), ("second",), ("squeeze",)}
    assert {group.producers for group in groups_of(model, split)} == {("first",), ("second",), ("squeeze",)}


def test_a_network_without_filters_that_can_go_is_refused():
    split = Split(torch.rand(2, 5), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="Sequential has no layer whose filters can go: there is nothing to score"):
        groups_of(nn.Sequential(nn.Linear(5, 2)), split)


def test_filters_are_rows_of_at_least_single_precision():
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    assert torch.equal(filters(model, "0"), model[0].weight.detach().flatten(1))
    single = filters(model.half(), "0")
    assert single.dtype == torch.float32 and not single.requires_grad
    model[0].weight.data[1] = float("nan")
    for name, message in (("0", "the weights of layer '0' hold NaN or infinity"), ("9", "has no layer '9'")):
        with pytest.raises(ValueError, match=message):
            filters(model, name)
