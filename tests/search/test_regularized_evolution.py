"""Regularized evolution against its algorithm, and what age and tournament do."""

import joblib
import numpy as np
import pytest

from lib.search import random_search, regularized_evolution
from lib.search.chains import Chain, Chains


class Numbers:
    """Whole numbers; a neighbor is one larger or one smaller. A candidate remembers nothing."""

    def __iter__(self):
        raise TypeError("there are infinitely many numbers")

    def sample(self, random: np.random.Generator) -> int:
        return int(random.integers(-5, 6))

    def mutated(self, candidate: int, random: np.random.Generator) -> int:
        return candidate + int(random.choice([-1, 1]))


def algorithm(space, evaluate, *, budget, seed, population, tournament) -> list:
    """Algorithm 1 of the paper, line by line."""
    random = np.random.default_rng(seed)
    alive, history = [], []
    while len(alive) < population:
        model = space.sample(random)
        alive.append((model, evaluate(model)))
        history.append(alive[-1])
    while len(history) < budget:
        sample = []
        for place in random.integers(len(alive), size=tournament):
            sample.append(alive[place])
        parent = sample[0]
        for member in sample:
            if member[1] > parent[1]:
                parent = member
        child = space.mutated(parent[0], random)
        alive.append((child, evaluate(child)))
        history.append(alive[-1])
        alive.pop(0)
    return history


@pytest.mark.parametrize(("population", "tournament"), [(10, 3), (1, 1), (6, 20)])
def test_histories_are_those_of_the_algorithm(population, tournament):
    sizes = {"budget": 80, "seed": 4, "population": population, "tournament": tournament}
    history = regularized_evolution.search(Numbers(), float, **sizes)
    assert [(row.candidate, row.fitness) for row in history.rows] == algorithm(Numbers(), float, **sizes)


def test_evolution_climbs_where_random_draws_do_not():
    evolved = [regularized_evolution.search(Numbers(), float, budget=100, seed=s).best.fitness for s in range(6)]
    drawn = [random_search.search(Numbers(), float, budget=11, seed=s).best.fitness for s in range(6)]
    assert min(evolved) > 10 and max(drawn) == 5


class Lineages:
    """A candidate is the list of its ancestors' numbers, ended by its own."""

    def __iter__(self):
        raise TypeError("there are infinitely many lineages")

    def sample(self, random: np.random.Generator) -> tuple[int, ...]:
        return (int(random.integers(2**60)),)

    def mutated(self, candidate: tuple[int, ...], random: np.random.Generator) -> tuple[int, ...]:
        return (*candidate, int(random.integers(2**60)))


def test_the_oldest_dies_however_fit_it_is():
    fitness = iter([5.0, 9.0, *[0.0] * 28])
    # Of 100 draws from five members, the fittest is always among them.
    sizes = {"budget": 30, "seed": 0, "population": 5, "tournament": 100}
    rows = regularized_evolution.search(Lineages(), lambda _: next(fitness), **sizes).rows
    parents = [row.candidate[:-1] for row in rows]
    assert [i for i, parent in enumerate(parents) if parent == rows[1].candidate] == [5, 6]  # then the second is dead
    assert rows[0].candidate not in parents


def test_a_tournament_of_one_is_a_random_walk_of_the_population():
    ignored = regularized_evolution.search(Numbers(), float, budget=60, seed=7, tournament=1)
    other = regularized_evolution.search(Numbers(), lambda n: -n, budget=60, seed=7, tournament=1)
    assert [row.candidate for row in ignored.rows] == [row.candidate for row in other.rows]


def test_children_that_are_bred_together_stay_within_the_budget():
    with joblib.parallel_config("threading"):
        history = regularized_evolution.search(Chains(), Chains().parameters, budget=17, seed=0, jobs=2)
    assert len(history.rows) == 17
    serial = regularized_evolution.search(Chains(), Chains().parameters, budget=17, seed=0)
    assert history.rows[:11] == serial.rows[:11]  # the population, and the first child


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"budget": 9}, "budget must be a whole number of 10 or more, not 9"),
        ({"budget": 50, "population": 0}, "population must be a whole number of 1 or more, not 0"),
        ({"budget": 50, "tournament": 1.5}, "tournament must be a whole number of 1 or more, not 1.5"),
        ({"budget": 50, "jobs": 0}, "jobs must be a whole number of 1 or more, not 0"),
    ],
)
def test_sizes_that_leave_nothing_to_evolve_are_refused(sizes, message):
    asked: list[Chain] = []
    with pytest.raises(ValueError, match=message):
        regularized_evolution.search(Chains(), asked.append, seed=0, **sizes)
    assert not asked
