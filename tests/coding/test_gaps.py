"""Gaps between places against the loop of the paper, and weights that they are put back into."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.coding import coders, gaps


def fields_by_the_definition(places, bits):
    """The paper's loop: while a gap is too long, a filler."""
    fields, kept, at = [], [], -1
    for place in places:
        gap = place - at
        while gap > 2**bits:
            fields.append(2**bits - 1)
            kept.append(False)
            gap -= 2**bits
        fields.append(gap - 1)
        kept.append(True)
        at = place
    return fields, kept


@given(st.sets(st.integers(0, 3000), max_size=60), st.integers(1, 16))
def test_gaps_are_those_of_the_definition_and_lead_back(places, bits):
    places = sorted(places)
    fields, kept = gaps.encode(places, bits)
    assert (fields.tolist(), kept.tolist()) == fields_by_the_definition(places, bits)
    assert gaps.positions(fields)[kept].tolist() == places


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 16])
def test_number_of_fillers_at_the_edges(bits):
    widest = 2**bits
    for gap, fillers in [(1, 0), (widest, 0), (widest + 1, 1), (2 * widest, 1), (2 * widest + 1, 2)]:
        fields, kept = gaps.encode([0, gap], bits)
        assert len(fields) - 2 == np.count_nonzero(~kept) == fillers
        assert gaps.positions(fields)[kept].tolist() == [0, gap]


def test_leading_zeros_count_as_a_gap_and_a_long_way_is_bridged():
    fields, kept = gaps.encode([10_000], 4)
    assert len(fields) == 626 and kept.tolist() == [False] * 625 + [True]
    assert fields[:-1].tolist() == [15] * 625 and fields[-1] == 0
    assert gaps.positions(fields)[-1] == 10_000


@given(st.sets(st.integers(0, 500), max_size=60), st.integers(1, 16))
def test_entries_with_fillers_never_outnumber_the_places(places, bits):
    fields, _ = gaps.encode(sorted(places), bits)
    assert len(fields) <= max(places, default=-1) + 1


@pytest.mark.parametrize("places", [[1, 1], [2, 1], [-1, 3]])
def test_places_out_of_order_are_refused(places):
    with pytest.raises(ValueError, match="distinct, ascending"):
        gaps.encode(places, 4)


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_gap_bits_outside_1_to_16_are_refused(bits):
    with pytest.raises(ValueError, match=rf"1..16, not {bits}"):
        gaps.encode([1], bits)


def test_best_gap_bits_are_the_cheapest_of_all_widths():
    places = np.flatnonzero(np.random.default_rng(0).random(20_000) < 0.02)

    def price(bits):
        fields, kept = gaps.encode(places, bits)
        return coders.entropy_bits(np.bincount(fields)) + 5 * (~kept).sum() + 10 * len(set(fields.tolist()))

    assert gaps.best_bits(places, filler_bits=5) == min(range(2, 11), key=price)


def test_entropy_of_equal_counts_is_the_logarithm():
    assert coders.entropy_bits([10] * 8) == pytest.approx(240)
    assert coders.entropy_bits([5, 0, 0]) == coders.entropy_bits([]) == 0


@given(st.sets(st.integers(0, 59), max_size=40), st.integers(1, 8))
def test_values_come_back_to_their_places(places, bits):
    fields, kept = gaps.encode(sorted(places), bits)
    weight = torch.zeros(60)
    weight[sorted(places)] = torch.arange(1.0, len(places) + 1)
    values = torch.zeros(len(fields))
    values[torch.from_numpy(kept)] = weight[weight > 0]
    assert torch.equal(gaps.scatter(torch.from_numpy(fields), values, torch.Size((6, 10))), weight.reshape(6, 10))


@pytest.mark.parametrize(("fields", "values"), [([0, 1], [1.0]), ([3, 1], [1.0, 2.0]), ([4], [1.0])])
def test_values_that_do_not_fit_the_weight_are_refused(fields, values):
    with pytest.raises(ValueError, match=r"do not fit a weight of shape \(2, 2\)"):
        gaps.scatter(torch.tensor(fields), torch.tensor(values), torch.Size((2, 2)))
