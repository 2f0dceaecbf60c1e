"""What a trace suggests: groups, and for every other layer the reason why its filters stay."""

import pytest
import torch
from given_structure import between, images
from torch import nn

from lib.pruning import magnitude
from lib.structure.tracing import check, traced


def test_every_layer_is_in_a_group_or_has_a_reason():
    model = between(lambda net, x: net.d(x), d=nn.Conv2d(8, 8, 3, padding=1, groups=8), idle=nn.Linear(2, 2))
    trace = traced(model, images())
    assert [group.producers for group in trace.groups] == [("a",), ("b",)]
    assert list(trace.groups[0].carriers) == ["d"]
    assert {name: reason.split(",")[0] for name, reason in trace.spared.items()} == {
        "fc": "its channels are an output of the network",
        "d": "it is depthwise",
        "idle": "it is not called",
    }


def test_a_shared_weight_is_the_reason():
    model = between(lambda net, x: net.c(net.c(x)), c=nn.Conv2d(8, 8, 1))
    model.other = nn.Conv2d(8, 8, 1)
    model.other.weight = model.c.weight
    assert traced(model, images()).spared["a"] == "another layer shares the weight of 'c'"


def test_grouped_readers_cut_the_channels_into_parts():
    (group, *_) = traced(between(lambda net, x: net.g(x), g=nn.Conv2d(8, 8, 1, groups=2)), images()).groups
    assert group.producers == ("a",) and group.parts == 2


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (nn.Linear(2, 3), [1, 2], "must be one tensor, not list"),
        (nn.Linear(2, 3), torch.zeros(0, 2), "is empty"),
        (nn.LazyLinear(3), torch.zeros(1, 2), "is not there yet"),
        (nn.Linear(2, 3, device="meta"), torch.zeros(1, 2), "is on the meta device"),
        (magnitude.prune(nn.Linear(2, 3), density=0.5), torch.zeros(1, 2), "has compressed weights"),
    ],
)
def test_what_cannot_be_traced_is_refused(model, example, says):
    with pytest.raises(ValueError, match=says):
        check(model, example)


def test_a_layer_without_filters_is_spared():
    model = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3), nn.ReLU(), nn.Linear(3, 2))
    trace = traced(model, images(1, 4))
    assert trace.spared["0"] == "it has no filters" and [group.producers for group in trace.groups] == [("1",)]
