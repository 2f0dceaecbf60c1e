"""Bisection against trying every number."""

import pytest
import torch

from lib.binarization.shared.bisection import as_float, as_ordered, bisect


@pytest.mark.parametrize("rising", [True, False])
def test_a_comparison_changes_where_trying_all_numbers_says(rising):
    at = torch.arange(-6, 8)  # below, between and above the numbers that are tried
    low, high = torch.full_like(at, -5), torch.full_like(at, 5)
    found = bisect(lambda x: (x >= at) if rising else (x <= at), low, high)
    numbers = torch.arange(-5, 6)[:, None]
    holds = numbers >= at if rising else numbers <= at
    assert torch.equal(found.constant, holds.all(0) | ~holds.any(0)) and torch.equal(found.at_low, holds[0])
    assert torch.equal(found.below, ~found.constant & torch.full_like(found.constant, not rising))
    expected = torch.where(holds, numbers, -99).amax(0) if not rising else torch.where(holds, numbers, 99).amin(0)
    assert torch.equal(found.place[~found.constant], expected[~found.constant])


def test_floats_and_their_places_in_order_come_back():
    x = torch.tensor([-torch.inf, -3.5, -1e-45, -0.0, 0.0, 1e-45, 1e-38, 1.0, 3.4e38, torch.inf])
    ordered = as_ordered(x)
    assert torch.equal(as_float(ordered), x) and ordered[3] == ordered[4] == 0
    assert (ordered.diff() > 0).tolist() == [True, True, True, False, *[True] * 5]


@pytest.mark.parametrize("value", [-1e30, -1.0, -1e-45, 0.0, 1.0, 3e38])
def test_neighbors_in_order_are_neighbors_among_floats(value):
    x = torch.tensor([value])
    assert torch.equal(as_float(as_ordered(x) + 1), torch.nextafter(x, torch.tensor(torch.inf)))
