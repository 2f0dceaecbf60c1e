"""What a search leaves behind: rows, the best of them, and failures that end nothing."""

import math
import pickle

import joblib
import pytest

from lib.search.history import Evaluation, History, check_budget, evaluated


def reciprocal(n: int) -> float:
    return 1 / n


def test_an_evaluation_that_raises_is_a_row_of_its_own():
    rows = evaluated(reciprocal, [2, 0, 4])
    assert [row.fitness for row in rows] == [0.5, -math.inf, 0.25]
    assert [row.failure for row in rows] == ["", "ZeroDivisionError: division by zero", ""]
    assert [row.candidate for row in rows] == [2, 0, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_fitness_that_is_not_finite_is_a_failure(value):
    (row,) = evaluated(lambda _: value, ["a"])
    assert row.fitness == -math.inf and f"the fitness is {value}" in row.failure


def test_a_fitness_that_is_no_number_is_a_failure():
    (row,) = evaluated(lambda _: "good", ["a"])
    assert row.fitness == -math.inf and row.failure.startswith("ValueError")


def test_two_workers_give_the_rows_of_one():
    with joblib.parallel_config("threading"):
        assert evaluated(reciprocal, [3, 0, 5], jobs=2) == evaluated(reciprocal, [3, 0, 5])


def test_rows_travel_between_processes():
    (row,) = evaluated(reciprocal, [0])
    assert pickle.loads(pickle.dumps(row)) == row


def test_the_best_is_the_first_of_the_largest():
    history = History((Evaluation("a", 1.0), Evaluation("b", 3.0), Evaluation("c", 3.0)))
    assert history.best.candidate == "b"


def test_failures_are_worse_than_any_fitness():
    history = History((Evaluation("a", -math.inf, "no"), Evaluation("b", -2.0)))
    assert history.best.candidate == "b"


def test_a_history_of_failures_has_no_best():
    history = History((Evaluation("a", -math.inf, "too large"), Evaluation("b", -math.inf, "too deep")))
    with pytest.raises(ValueError, match="none of the 2 evaluations worked; the last one: too deep"):
        _ = history.best


def test_a_history_without_evaluations_has_no_best():
    with pytest.raises(ValueError, match="the history has no evaluation"):
        _ = History(()).best


@pytest.mark.parametrize("budget", [0, -1, 2.0, True, "3", 4])
def test_budgets_that_are_too_small_or_no_number_are_refused(budget):
    with pytest.raises(ValueError, match="budget must be a whole number of 5 or more"):
        check_budget(budget, 0, least=5)


@pytest.mark.parametrize("seed", [-1, 0.5, False, None])
def test_seeds_that_are_no_number_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number of 0 or more"):
        check_budget(5, seed)
