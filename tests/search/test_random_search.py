"""Random search: different candidates, the expected regret, and budgets that the space cannot fill."""

import joblib
import numpy as np
import pytest

from lib.search import random_search
from lib.search.chains import Chain, Chains

SPACE = Chains(positions=3, pools=1)  # 64 candidates
RANKS = {candidate: float(rank) for rank, candidate in enumerate(SPACE)}


def test_no_candidate_comes_twice_and_a_full_budget_finds_all():
    history = random_search.search(SPACE, RANKS.__getitem__, budget=64, seed=0)
    assert {row.candidate for row in history.rows} == set(SPACE)


def test_the_best_rank_is_the_expected_maximum_of_draws():
    best = [random_search.search(SPACE, RANKS.__getitem__, budget=7, seed=s).best.fitness for s in range(200)]
    # The largest of k numbers drawn from 1..n without replacement is k (n + 1) / (k + 1) on average.
    expected = 7 * 65 / 8 - 1
    assert abs(np.mean(best) - expected) < 4 * np.std(best) / 200**0.5


def test_a_shorter_search_is_the_beginning_of_a_longer_one():
    short, long = (random_search.search(SPACE, RANKS.__getitem__, budget=n, seed=5).rows for n in (10, 30))
    assert long[:10] == short


def test_two_workers_give_the_history_of_one():
    with joblib.parallel_config("threading"):
        one, two = (random_search.search(SPACE, SPACE.parameters, budget=6, seed=0, jobs=jobs) for jobs in (1, 2))
    assert one == two


def test_a_budget_above_the_number_of_candidates_is_refused():
    asked: list[Chain] = []
    with pytest.raises(ValueError, match=r"budget is 65, but \d+ draws found no candidate besides these 64"):
        random_search.search(SPACE, asked.append, budget=65, seed=0)
    assert not asked
