"""The masked and the smaller copy hold the same network: what each layer loses, and what stays of it."""

import pytest
import torch
from torch import nn

from lib.structure import copies
from lib.structure.group import Group


def chain():
    """Convolution, batch norm, convolution, and a linear layer after a flatten of 2 x 2 places."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(12, 2)
    ).eval()


FIRST = Group(4, ("0",), {"1": torch.arange(4)[:, None]}, {"2": torch.arange(4)[:, None]})
SECOND = Group(3, ("2",), {}, {"4": torch.arange(12).reshape(3, 4)})
CUTS = [(FIRST, torch.tensor([True, False, False, True])), (SECOND, torch.tensor([False, True, False]))]


def test_a_layer_between_two_groups_loses_rows_and_columns():
    lost = copies.losses(chain(), CUTS)
    assert lost["2"].columns.tolist() == [True, False, False, True] and lost["2"].rows.tolist() == [False, True, False]
    assert lost["1"].rows.tolist() == [True, False, False, True] and lost["1"].columns is None
    assert lost["4"].columns.nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_the_smaller_copy_answers_as_the_masked_one():
    model, images = chain(), torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    before = [value.clone() for value in model.state_dict().values()]
    small, masked = copies.smaller(model, CUTS), copies.masked(model, CUTS)
    torch.testing.assert_close(small(images), masked(images))
    assert not torch.allclose(masked(images), model(images), atol=1e-3)
    assert [tuple(small[i].weight.shape[:2]) for i in (0, 2, 4)] == [(2, 1), (2, 2), (2, 8)]
    assert (small[1].num_features, small[2].in_channels, small[4].in_features) == (2, 2, 8)
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_what_was_frozen_stays_frozen():
    model = chain()
    model[2].weight.requires_grad_(False)
    small = copies.smaller(model, CUTS)
    assert not small[2].weight.requires_grad and small[2].bias.requires_grad and small[0].weight.requires_grad


@pytest.mark.parametrize(("gone", "kept"), [([1, 1, 1, 0], r"\[0, 1\]"), ([1, 1, 0, 0], r"\[0, 2\]")])
def test_parts_of_a_grouped_convolution_must_keep_as_many(gone, kept):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1, groups=2))
    group = Group(4, ("0",), {}, {"1": torch.arange(4)[:, None]})
    with pytest.raises(ValueError, match=f"the 2 groups of convolution '1' cannot be cut equally.*{kept}"):
        copies.check_parts(model, [(group, torch.tensor(gone).bool())])
