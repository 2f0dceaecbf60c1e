"""What all searches promise: rows that the seed alone decides, as many as the budget, and failures that end nothing."""

import math

import numpy as np
import pytest

from lib.search import exhaustive, random_search, regularized_evolution
from lib.search.chains import Chain, Chains

SPACE = Chains(positions=3, pools=1)
BUDGET = len(SPACE)
SEARCHES = [random_search.search, exhaustive.search, regularized_evolution.search]


def size(chain: Chain) -> float:
    return float(SPACE.parameters(chain))


def often_fails(chain: Chain) -> float:
    if "separable3" in chain.operations:
        raise RuntimeError("out of memory")
    return math.nan if chain.operations[0] == "skip" else size(chain)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_history_has_as_many_rows_as_the_budget(search):
    history = search(SPACE, size, budget=BUDGET, seed=0)
    assert len(history.rows) == BUDGET
    assert all(row.fitness == size(row.candidate) and not row.failure for row in history.rows)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_seed_alone_decides(search):
    state = np.random.get_state()[1].copy()
    assert search(SPACE, size, budget=BUDGET, seed=3) == search(SPACE, size, budget=BUDGET, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("search", [random_search.search, regularized_evolution.search])
def test_another_seed_draws_others(search):
    first, other = (search(SPACE, size, budget=20, seed=seed) for seed in (0, 1))
    assert first != other


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_goes_on_after_failures(search):
    history = search(SPACE, often_fails, budget=BUDGET, seed=0)
    failures = {row.failure for row in history.rows}
    assert len(history.rows) == BUDGET
    assert failures == {
        "",
        "RuntimeError: out of memory",
        "the fitness is nan: a finite number is needed",
    }
    assert not history.best.failure and history.best.fitness == size(history.best.candidate)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_ends_where_everything_fails(search):
    history = search(SPACE, lambda chain: math.inf, budget=BUDGET, seed=0)
    assert all(row.fitness == -math.inf for row in history.rows) and len(history.rows) == BUDGET


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("budget", [0, -5, 1.5, True])
def test_budgets_that_are_no_number_are_refused_before_any_evaluation(search, budget):
    asked: list[Chain] = []
    with pytest.raises(ValueError, match="budget must be a whole number"):
        search(SPACE, asked.append, budget=budget, seed=0)
    assert not asked


@pytest.mark.parametrize("search", SEARCHES)
def test_negative_seeds_are_refused(search):
    with pytest.raises(ValueError, match="seed must be a whole number of 0 or more, not -1"):
        search(SPACE, size, budget=BUDGET, seed=-1)
