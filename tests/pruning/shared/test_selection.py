"""The largest entries against sorting, and shares and masks against the layers that there are."""

import pytest
import torch

from lib.pruning.shared.selection import check_masks, largest, largest_together, shares_by_layer


@pytest.mark.parametrize("share", [1e-9, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(1,), (40,), (5, 8), (2, 3, 4, 5)])
def test_the_largest_are_those_that_sorting_puts_first(share, shape):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    mask = largest(values, share)
    count = max(1, round(share * values.numel()))
    assert mask.shape == shape and mask.dtype == torch.bool
    assert values[mask].sort().values.tolist() == sorted(values.flatten().tolist())[-count:]


def test_of_ties_the_first_are_selected_and_zeros_never():
    assert largest(torch.tensor([2.0, 2.0, 2.0, 2.0]), 0.5).tolist() == [True, True, False, False]
    assert largest(torch.tensor([0.0, 1.0, 0.0, 0.0]), 1.0).tolist() == [False, True, False, False]
    assert not largest(torch.zeros(3), 1.0).any()


def test_together_is_the_selection_from_all_entries_in_one_row():
    generator = torch.Generator().manual_seed(0)
    values = {"a": torch.rand(3, 4, generator=generator), "b": torch.rand(7, generator=generator)}
    masks = largest_together(values, 0.4)
    assert {name: mask.shape for name, mask in masks.items()} == {"a": (3, 4), "b": (7,)}
    row = torch.cat([v.flatten() for v in values.values()])
    assert torch.equal(torch.cat([m.flatten() for m in masks.values()]), largest(row, 0.4))


def test_one_share_is_for_all_layers_and_a_mapping_for_its_own():
    assert shares_by_layer(0.5, iter(["a", "b"])) == {"a": 0.5, "b": 0.5}
    shares = {"b": 0.2}
    result = shares_by_layer(shares, ["a", "b"])
    assert result == shares and result is not shares


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_shares_outside_0_to_1_are_refused(share):
    for density in (share, {"a": 0.5, "b": share}):
        with pytest.raises(ValueError, match=rf"density must be in \(0, 1\], not {share}"):
            shares_by_layer(density, ["a", "b"])


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no layer 'c' to prune: the layers are a, b"):
        shares_by_layer({"a": 0.5, "c": 0.5}, ["a", "b"])


def test_masks_fit_by_name_and_shape_or_are_refused():
    weights = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    check_masks({}, weights)
    check_masks({"b": torch.ones(4, dtype=torch.bool)}, weights)
    with pytest.raises(ValueError, match="no weight 'c' to mask: there are a, b"):
        check_masks({"b": torch.ones(4), "c": torch.ones(4)}, weights)
    with pytest.raises(ValueError, match=r"the mask of 'a' must be of shape \(2, 3\), not \(3, 2\)"):
        check_masks({"a": torch.ones(3, 2)}, weights)
