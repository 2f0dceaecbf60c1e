"""The groups that criteria score: those of the structure, and one sentence where there is no sample to trace with."""

import pytest
import torch

from lib import models, structure
from lib.datasets import Split
from lib.pruning.shared.groups import groups_of


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
