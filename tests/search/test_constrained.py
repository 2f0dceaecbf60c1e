"""Search under a cost: the allowed candidates, and all of them."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest

from lib.search import exhaustive, random_search, regularized_evolution
from lib.search.chains import Chain, Chains
from lib.search.constrained import Within

SPACE = Chains(positions=3, pools=1)
COSTS = {candidate: SPACE.multiply_adds(candidate) for candidate in SPACE}
LIMIT = sorted(COSTS.values())[20]


def test_the_allowed_candidates_are_those_of_brute_force():
    allowed = [candidate for candidate, cost in COSTS.items() if cost <= LIMIT]
    assert list(Within(SPACE, COSTS.__getitem__, LIMIT)) == allowed
    assert 0 < len(allowed) < 64


def test_draws_and_neighbors_are_allowed_and_draws_are_uniform():
    space, random = Within(SPACE, COSTS.__getitem__, LIMIT), np.random.default_rng(0)
    drawn = Counter(space.sample(random) for _ in range(1000))
    assert set(drawn) == set(space) and max(drawn.values()) < 3 * 1000 / len(drawn)
    start = space.sample(random)
    neighbors = {space.mutated(start, random) for _ in range(200)}
    assert neighbors <= set(space)
    assert all(sum(a != b for a, b in zip(c.operations, start.operations, strict=True)) == 1 for c in neighbors)


def test_a_limit_that_costs_reach_is_allowed():
    cheapest = min(COSTS.values())
    assert {COSTS[c] for c in Within(SPACE, COSTS.__getitem__, cheapest)} == {cheapest}


def test_a_candidate_without_an_allowed_neighbor_gets_another():
    alone = {Chain(("conv3",) * 3): 1.0, Chain(("skip",) * 3): 1.0}
    space = Within(SPACE, lambda chain: alone.get(chain, 9.0), 2.0)
    assert space.mutated(Chain(("conv3",) * 3), np.random.default_rng(0)) in alone


@pytest.mark.parametrize("search", [random_search.search, regularized_evolution.search, exhaustive.search])
def test_searches_stay_within_the_limit(search):
    space = Within(SPACE, COSTS.__getitem__, LIMIT)
    budget = len(list(space))
    history = search(space, SPACE.parameters, budget=budget, seed=0)
    assert all(COSTS[row.candidate] <= LIMIT for row in history.rows) and len(history.rows) == budget


def test_a_limit_below_the_cheapest_is_refused():
    with pytest.raises(ValueError, match=rf"costs 100 or less: the cheapest of 10,000 costs {min(COSTS.values())}"):
        Within(SPACE, COSTS.__getitem__, 100)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf])
def test_limits_that_are_not_above_zero_are_refused(limit):
    with pytest.raises(ValueError, match="limit must be a finite number above 0"):
        Within(SPACE, COSTS.__getitem__, limit)


def test_a_limited_space_travels_between_processes():
    space = Within(SPACE, SPACE.multiply_adds, LIMIT)
    assert list(pickle.loads(pickle.dumps(space))) == list(space)
