"""Divisions of samples against what they promise: fixed, disjoint, whole, balanced."""

import numpy as np
import pytest

from lib.datasets import splits


@pytest.mark.parametrize("n", [0, 1, 7, 100])
@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.6, 0.15), (0.9, 0.1)])
def test_parts_are_disjoint_whole_and_the_same_each_time(n, shares):
    parts = splits.permuted(n, shares=shares)
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert [len(part) for part in parts[:2]] == [round(shares[0] * n), round(sum(shares) * n) - round(shares[0] * n)]
    assert all(map(np.array_equal, parts, splits.permuted(n, shares=shares)))


@pytest.mark.parametrize("n", [1, 4, 5, 23, 40])
def test_the_first_of_the_rounds_are_as_balanced_as_they_can_be(n):
    labels = np.random.RandomState(1).permutation(np.repeat([0, 1, 2, 3], 10))
    order = splits.rounds(labels)
    assert sorted(order) == list(range(40))
    counts = np.bincount(labels[order[:n]], minlength=4)
    assert counts.max() - counts.min() <= 1


def test_a_part_says_what_it_is_a_part_of():
    assert splits.describe("Set", [9, 3, 2], [9, 3, 2]) == "Set"
    said = splits.describe("Set", [9000, 3, 2], [8, 3, 2], "recordings")
    assert said == "Set; a fixed part of its 9,000 training, 3 validation and 2 test recordings"
