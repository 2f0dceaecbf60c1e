"""Choices: each candidate is made once, options that lead nowhere are not allowed, neighbors, what is refused."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from given_choices import every

from lib.search.chains import Chain, Chains
from lib.supergraphs.shared.choices import Listed, Product, choices_of, parts

UNEVEN = [("conv", 3, 8), ("conv", 5, 8), ("pool", 3), ("conv", 3, 16), ("skip",)]


@dataclass(frozen=True)
class Grid(Product[tuple[int, ...]]):
    sides: tuple[int, ...]

    @property
    def options(self):
        return tuple(tuple(range(10, 10 + side)) for side in self.sides)

    def candidate(self, numbers):
        return tuple(10 + int(number) for number in numbers)

    def numbers(self, candidate):
        return tuple(value - 10 for value in candidate)


@pytest.mark.parametrize("candidates", [UNEVEN, list(Chains(positions=3)), [1, 2, 3], [(0.5, (True, None)), (0.5, ())]])
def test_all_choices_make_each_candidate_once(candidates):
    choices = Listed(candidates)
    made = [choices.candidate(row) for row in every(choices).tolist()]
    assert sorted(map(str, made)) == sorted(map(str, candidates))
    assert [choices.numbers(candidate) for candidate in made] == [tuple(row) for row in every(choices).tolist()]


def test_allowed_options_are_those_that_brute_force_finds():
    choices = Listed(UNEVEN)
    rows = {choices.numbers(candidate) for candidate in UNEVEN}
    for step, options in enumerate(choices.options):
        for before in itertools.product(*(range(len(o)) for o in choices.options[:step])):
            allowed = choices.allowed(torch.tensor([before], dtype=torch.long).reshape(1, step))[0].tolist()
            assert allowed == [any(row[: step + 1] == (*before, o) for row in rows) for o in range(len(options))]


def test_a_whole_product_needs_no_mask():
    choices = choices_of(Chains(positions=2, pools=1))
    assert choices.allowed(torch.zeros(3, 1, dtype=torch.long)) is None
    assert choices.options == (("conv3", "conv1", "separable3", "skip"),) * 2
    assert choices.candidate([0, 3]) == Chain(("conv3", "skip"))


def test_equal_sets_of_options_come_in_one_order():
    choices = Listed([("b", "a"), ("a", "b"), ("b", "b")])
    assert choices.options == (("b", "a"), ("b", "a"))


def test_equal_candidates_count_once():
    assert len(every(Listed([("a", 1), ("a", 1), ("b", 1)]))) == 2


def test_a_dataclass_is_taken_apart_in_order():
    assert list(parts((Chain(("conv3", "skip")), [1, (2.5,)]))) == ["conv3", "skip", 1, 2.5]


def test_a_product_lists_all_its_candidates():
    grid = Grid((2, 3, 1))
    assert grid.size == 6 and list(grid) == [(a, b, 10) for a in (10, 11) for b in (10, 11, 12)]
    assert [grid.candidate(row) for row in every(grid).tolist()] == list(grid)
    assert choices_of(grid) is grid


def test_neighbors_differ_in_one_choice_and_all_are_found():
    grid, random = Grid((2, 3, 1)), np.random.default_rng(0)
    found = {grid.mutated((10, 11, 10), random) for _ in range(200)}
    assert found == {(11, 11, 10), (10, 10, 10), (10, 12, 10)}


def test_samples_of_a_product_are_uniform():
    grid, random = Grid((2, 3)), np.random.default_rng(0)
    counts = [0] * 6
    for _ in range(3000):
        counts[list(grid).index(grid.sample(random))] += 1
    assert all(abs(count - 500) < 4 * (3000 * 5 / 36) ** 0.5 for count in counts)


class Endless:
    def __iter__(self):
        raise TypeError("there is no end of them")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choices_of([]), "no candidate"),
        (lambda: choices_of(Endless()), "no end of them"),
        (lambda: choices_of(3), "neither says which choices"),
        (lambda: Listed([(1, (2,)), ((1,), 2)]), "made of the same values"),
        (lambda: Listed(UNEVEN).candidate((2, 2, 2)), "make no candidate"),
        (lambda: Listed(UNEVEN).numbers(("conv", 7)), "is not in the list"),
        (lambda: Grid((1, 1)).mutated((10, 10), np.random.default_rng(0)), "no choice has a second option"),
    ],
)
def test_what_makes_no_candidate_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
