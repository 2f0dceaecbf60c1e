"""Exhaustive search: every candidate once, in order, and spaces that cannot be listed."""

from itertools import count

import pytest

from lib.search import exhaustive
from lib.search.chains import Chains

SPACE = Chains(positions=2, pools=1)


def test_every_candidate_is_evaluated_once_in_order():
    history = exhaustive.search(SPACE, SPACE.parameters, budget=100)
    assert [row.candidate for row in history.rows] == list(SPACE)
    assert history.best.fitness == max(map(SPACE.parameters, SPACE))


def test_a_budget_below_the_number_of_candidates_is_refused():
    with pytest.raises(ValueError, match="budget is 15, but the space has more candidates"):
        exhaustive.search(SPACE, SPACE.parameters, budget=15)


def test_a_space_without_a_candidate_is_refused():
    with pytest.raises(ValueError, match="the space has no candidate"):
        exhaustive.search([], float, budget=5)


def test_an_infinite_space_ends_at_the_budget_or_cannot_be_listed():
    class Endless:
        def __iter__(self):
            raise TypeError("an infinite space has no list")

    with pytest.raises(TypeError, match="infinite"):
        exhaustive.search(Endless(), float, budget=5)
    with pytest.raises(ValueError, match="budget is 5, but the space has more"):
        exhaustive.search(count(), float, budget=5)
