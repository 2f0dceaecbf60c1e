"""Edit distance of architectures: it is a metric, and equals the cheapest of all ways to match the layers and skips."""

import itertools

import numpy as np
import pytest

from lib.morphism.shared import edit_distance
from lib.morphism.shared.edit_distance import (
    Description,
    Distances,
    Skip,
    distances,
    sequence_distances,
    skip_distance,
    skips_distance,
)


def widths(random, most=6):
    return tuple(int(2 ** random.integers(0, 6) + random.integers(0, 3)) for _ in range(random.integers(0, most)))


def skips(random, most=4):
    starts = random.integers(0, 5, random.integers(0, most))
    return tuple(
        Skip(int(start), int(start + random.integers(1, 5)), str(random.choice(["add", "concat"]))) for start in starts
    )


def descriptions(count, seed=0):
    random = np.random.default_rng(seed)
    return [Description(widths(random), widths(random, 3), skips(random)) for _ in range(count)]


def cheapest(first, second, cost):
    """Try every way to match members of two sequences, in their order; each unmatched member costs 1."""
    return min(
        len(first) + len(second) - 2 * count + sum(cost(a, b) for a, b in zip(chosen, partners, strict=True))
        for count in range(min(len(first), len(second)) + 1)
        for chosen in itertools.combinations(first, count)
        for partners in itertools.combinations(second, count)
    )


def test_an_architecture_is_no_distance_from_itself_alone():
    some = list(dict.fromkeys(descriptions(60)))
    matrix = distances(some, some)
    assert (np.diag(matrix) == 0).all() and (matrix[~np.eye(len(some), dtype=bool)] > 0).all()


def test_the_distance_is_the_same_both_ways():
    some = descriptions(60)
    np.testing.assert_allclose(distances(some, some), distances(some, some).T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", ["layers", "skips", "both"])
def test_no_detour_is_shorter(part):
    some = descriptions(60, seed=1)
    random = np.random.default_rng(0)
    if part == "layers":
        matrix = sequence_distances([one.convolutions for one in some], [one.convolutions for one in some])
    elif part == "skips":
        matrix = np.array([[skips_distance(a.skips, b.skips) for b in some] for a in some])
    else:
        matrix = distances(some, some, skip_weight=1.0)
    a, b, c = random.integers(len(some), size=(3, 500))
    assert (matrix[a, c] <= matrix[a, b] + matrix[b, c] + 1e-12).all()
    assert (matrix[a, b] > 0).sum() > 400


def test_layers_are_matched_at_the_least_cost():
    random = np.random.default_rng(2)
    first, second = [widths(random) for _ in range(12)], [widths(random) for _ in range(12)]
    expected = [[cheapest(a, b, lambda x, y: abs(x - y) / max(x, y)) for b in second] for a in first]
    np.testing.assert_allclose(sequence_distances(first, second), expected, rtol=0, atol=1e-12)


def test_skips_are_paired_at_the_least_cost_of_all_orders():
    random = np.random.default_rng(3)
    for _ in range(40):
        first, second = skips(random), skips(random)
        expected = min(cheapest(first, order, skip_distance) for order in itertools.permutations(second))
        assert skips_distance(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Description((64, 64)), Description((64, 128)), 0.5),
        (Description((64, 64)), Description((64, 64, 64)), 1),
        (Description((8,), (10,)), Description((), (40,)), 1.75),
        (Description((8, 8), (), (Skip(0, 1),)), Description((8, 8)), 0.1),
        (Description((8, 8), (), (Skip(0, 1),)), Description((8, 8), (), (Skip(0, 1, "concat"),)), 0.1),
        (Description((8,) * 4, (), (Skip(0, 2),)), Description((8,) * 4, (), (Skip(1, 4),)), 0.1 * 2 / 4),
        (Description(), Description(), 0),
    ],
)
def test_small_cases_by_hand(first, second, expected):
    assert distances([first], [second]).item() == pytest.approx(expected)


def test_the_order_of_skips_makes_no_other_architecture():
    one, other = Skip(0, 2), Skip(1, 3, "concat")
    assert Description((1,), (), (one, other)) == Description((1,), (), (other, one))


def test_no_architectures_have_no_distances():
    assert distances([], descriptions(3)).shape == (0, 3) and distances(descriptions(3), []).shape == (3, 0)


@pytest.mark.parametrize("most", [3, 2000])
def test_kept_distances_are_the_computed_ones(monkeypatch, most):
    monkeypatch.setattr(edit_distance, "MOST_KEPT", most)
    some, random, kept = descriptions(12), np.random.default_rng(0), Distances(0.3)
    for _ in range(20):
        first = [some[place] for place in random.integers(12, size=4)]
        second = [some[place] for place in random.integers(12, size=3)]
        np.testing.assert_array_equal(kept(first, second), distances(first, second, skip_weight=0.3))


def test_what_was_computed_is_not_computed_again(monkeypatch):
    some, kept, computed = descriptions(6), Distances(0.1), []

    def counted(first, second, *, skip_weight):
        computed.append(len(first) * len(second))
        return distances(first, second, skip_weight=skip_weight)

    monkeypatch.setattr(edit_distance, "distances", counted)
    for first in (some[:3], some[1:5], some):
        kept(first, some[:2])
    assert sum(computed) == 6 * 2


@pytest.mark.parametrize("width", [0, -8, 2.0, True, float("nan")])
def test_widths_below_one_and_fractions_are_refused(width):
    with pytest.raises(ValueError, match="convolutions must be whole numbers of 1 or more"):
        Description((8, width))
    with pytest.raises(ValueError, match="dense must be whole numbers of 1 or more"):
        Description((), (width,))


@pytest.mark.parametrize("skip", [(2, 2, "add"), (3, 1, "add"), (-1, 1, "add"), (0, 1), (0, 1, 2), (0.5, 1, "add"), 7])
def test_skips_that_do_not_lead_forward_are_refused(skip):
    with pytest.raises(ValueError, match="a skip must be a start of 0 or more"):
        Description((8, 8), (), (skip,))


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_other_weights_of_skips_are_refused(weight):
    for call in (lambda: distances([], [], skip_weight=weight), lambda: Distances(weight)):
        with pytest.raises(ValueError, match="skip_weight must be a finite number above 0"):
            call()
