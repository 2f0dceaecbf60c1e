"""Branches: what each gets, and how their outputs come together."""

import pytest
import torch
from torch import nn

from lib.morphism.shared.branches import Branches


class Times(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


THREE = [Times(1.0), Times(10.0), Times(100.0)]
X = torch.arange(1.0, 6.0)[None]


@pytest.mark.parametrize(
    ("allocation", "merge", "expected"),
    [
        ("replicate", "add", [[111.0, 222.0, 333.0, 444.0, 555.0]]),
        ("replicate", "mean", [[37.0, 74.0, 111.0, 148.0, 185.0]]),
        ("split", "concat", [[1.0, 2.0, 30.0, 40.0, 500.0]]),
    ],
)
def test_each_branch_gets_what_the_allocation_says(allocation, merge, expected):
    torch.testing.assert_close(Branches(THREE, allocation=allocation, merge=merge)(X), torch.tensor(expected))


def test_the_axis_of_the_channels_can_be_the_last():
    branches = Branches(THREE[:2], allocation="split", merge="concat", axis=-1)
    assert branches(torch.ones(1, 3, 2)).tolist() == [[[1.0, 10.0]] * 3]


def test_fewer_than_two_branches_and_other_ways_are_refused():
    with pytest.raises(ValueError, match="two branches or more, not 1"):
        Branches(THREE[:1], allocation="replicate", merge="add")
    with pytest.raises(ValueError, match="allocation must be one of replicate, split, not 'halve'"):
        Branches(THREE, allocation="halve", merge="add")
    with pytest.raises(ValueError, match="merge must be one of add, mean, concat, not 'multiply'"):
        Branches(THREE, allocation="split", merge="multiply")
