"""Regret: against the definition, with noise, and truths that say too little."""

import math

import numpy as np
import pytest

from lib.search.history import Evaluation, History
from lib.search.regret import regret_points

TRUTH = {0: 70.0, 1: 95.0, 2: 90.0, 3: 60.0}


def history(*rows: tuple[int, float]) -> History[int]:
    return History(tuple(Evaluation(candidate, fitness) for candidate, fitness in rows))


def test_a_lucky_evaluation_can_make_the_regret_rise():
    np.testing.assert_array_equal(regret_points(history((2, 0.5), (0, 0.9), (1, 0.8)), TRUTH), [5, 25, 25])


def test_regret_is_zero_once_the_best_is_chosen():
    np.testing.assert_array_equal(regret_points(history((0, 70), (1, 95), (2, 90)), TRUTH), [25, 0, 0])


def test_without_noise_regret_never_rises():
    random = np.random.default_rng(0)
    truth = dict(enumerate(random.uniform(50, 100, 40)))
    regrets = regret_points(history(*((c, truth[c]) for c in random.permutation(40).tolist())), truth)
    assert (np.diff(regrets) <= 0).all() and regrets[-1] == 0


def test_of_equal_fitness_the_first_is_the_choice():
    np.testing.assert_array_equal(regret_points(history((3, 1.0), (1, 1.0)), TRUTH), [35, 35])


def test_without_a_choice_the_regret_is_that_of_the_worst():
    np.testing.assert_array_equal(regret_points(history((1, -math.inf), (2, 0.1)), TRUTH), [35, 5])


def test_a_choice_that_the_truth_lacks_is_refused():
    with pytest.raises(ValueError, match="truth says nothing about 9"):
        regret_points(history((9, 1.0)), TRUTH)


@pytest.mark.parametrize("truth", [{}, {0: math.nan}, {0: math.inf}])
def test_truths_that_are_empty_or_not_finite_are_refused(truth):
    with pytest.raises(ValueError, match="a finite accuracy for each candidate"):
        regret_points(history((0, 1.0)), truth)
