"""Where new channels come from, and where they go."""

import pytest
import torch
from given import generator
from torch import nn

from lib.morphism.shared.channels import gains, planned, widened
from lib.structure import Group


def test_old_channels_stay_and_new_ones_copy_one_of_their_part():
    plan = planned(Group(6, ("0",), {}, {}, parts=2), 14, generator())
    parts = plan.sources.reshape(2, 7)
    assert parts[:, :3].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parts[0].max() <= 2 and parts[1].min() >= 3
    assert plan.fresh.reshape(2, 7).tolist() == [[False] * 3 + [True] * 4] * 2


def test_the_shares_of_all_copies_sum_to_one():
    plan = planned(Group(4, ("0",), {}, {}), 11, generator(3))
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, plan.sources, plan.shares)
    torch.testing.assert_close(sums, torch.ones(4, dtype=torch.float64))


def test_columns_after_a_flatten_and_a_concatenation_keep_their_order():
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(7, 1))
    group = Group(2, ("0",), {}, {"1": torch.tensor([[1, 2], [3, 4]])})  # of 7 inputs, after one and before two others
    plan = planned(group, 3, generator())
    gain = gains(model, group, plan, copies=True)["1"]
    copied = 2 * int(plan.sources[2])
    assert gain.columns.tolist() == [0, 1, 2, 3, 4, 1 + copied, 2 + copied, 5, 6]
    assert gain.factors[[0, 7, 8]].tolist() == [1, 1, 1]
    wide = widened(model, {"1": gain}, random=None)
    assert wide[1].in_features == 9 and torch.equal(wide[1].weight[:, 0], model[1].weight[:, 0])


def test_channels_in_another_order_are_refused():
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    group = Group(2, ("0",), {}, {"1": torch.tensor([[1], [0]])})
    with pytest.raises(ValueError, match="layer '1' reads the channels in another order"):
        gains(model, group, planned(group, 3, generator()), copies=True)


def test_groups_that_would_read_different_numbers_of_channels_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(4, 2, 1, groups=2))
    group = Group(2, ("0",), {}, {"1": torch.tensor([[0], [1]])})
    with pytest.raises(ValueError, match="2 groups of convolution '1' would read different numbers of channels"):
        gains(model, group, planned(group, 4, generator()), copies=True)
