"""Auto-Keras: planted optima found, random search beaten, failures survived, networks that continue their parents."""

import functools
import itertools
import math

import joblib
import numpy as np
import pytest
import torch
from given import seeded
from given_morphism import described
from torch import nn

from lib.morphism.auto_keras import grow, search
from lib.morphism.network_morphism import widen
from lib.morphism.shared import gaussian_process
from lib.morphism.shared.edit_distance import Description, distances
from lib.search import random_search
from lib.search.chains import Chains

CHAINS = Chains()
describe = functools.cache(functools.partial(described, CHAINS))


class Widths:
    """One layer of 1 to ``most`` channels; without ``most`` there is no end, and no list."""

    def __init__(self, most=None):
        self.most = most

    def __iter__(self):
        if self.most is None:
            raise TypeError("infinite")
        return iter(range(1, self.most + 1))

    def sample(self, random):
        return int(random.integers(1, (self.most or 100) + 1))

    def mutated(self, width, random):
        return int(np.clip(width + random.choice([-8, -1, 1, 8]), 1, self.most or 10**6))


def one_layer(width):
    return Description((width,))


def searched(space=None, fitness=None, *, budget=10, seed=0, **options):
    """A search of the chains for a network of 3000 parameters, but for what is asked."""
    fitness = fitness or (lambda chain: -abs(math.log(CHAINS.parameters(chain) / 3000)))
    return search(space or CHAINS, fitness, **{"budget": budget, "seed": seed, "describe": describe} | options)


@functools.cache
def planted(seed):
    """Fitness that falls with the edit distance to one chain, and by a little of its own for each network."""
    chains, random = list(CHAINS), np.random.default_rng(seed)
    networks = list(dict.fromkeys(map(describe, chains)))
    optimum = networks[random.integers(len(networks))]
    values = -distances(networks, [optimum])[:, 0] - random.uniform(0, 0.2, len(networks))
    return dict(zip(networks, values.tolist(), strict=True))


@functools.cache
def regrets():
    """How much the best of 16 evaluations lacks: (seeds, 2), of this search and of random search."""
    lacking = []
    for seed in range(12):
        truth = planted(seed)

        def fitness(chain, truth=truth):
            return truth[describe(chain)]

        histories = (
            searched(fitness=fitness, budget=16, seed=seed),
            random_search.search(CHAINS, fitness, budget=16, seed=seed),
        )
        lacking.append([max(truth.values()) - history.best.fitness for history in histories])
    return np.array(lacking)


def test_it_has_less_regret_than_random_search_at_equal_evaluations():
    differences = regrets()[:, 0] - regrets()[:, 1]
    assert differences.mean() + 2.2 * differences.std(ddof=1) / math.sqrt(12) < -0.2  # 95 % of Student's t


def test_a_planted_optimum_is_found_in_most_searches():
    assert (regrets()[:, 0] == 0).mean() >= 0.75 > 0.25 >= (regrets()[:, 1] == 0).mean()


def test_each_evaluation_is_of_another_network():
    networks = [describe(row.candidate) for row in searched(budget=24).rows]
    assert len(set(networks)) == len(networks) == 24


def test_the_scale_of_the_fitness_changes_nothing():
    small, large = (
        [row.candidate for row in searched(fitness=lambda chain, by=by: -by * CHAINS.parameters(chain)).rows]
        for by in (2.0**-900, 2.0**900)
    )
    assert small == large


def test_equal_fitness_everywhere_is_no_error():
    assert {row.fitness for row in searched(fitness=lambda chain: 7.3).rows} == {7.3}


def test_the_seed_decides_and_the_global_state_is_left():
    before = np.random.get_state()[1].copy()
    runs = [searched(seed=seed).rows for seed in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2] and (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_search_in_parallel_is_the_same_search(batch):
    with joblib.parallel_backend("threading"):
        assert searched(batch=batch, jobs=2).rows == searched(batch=batch).rows


def test_a_batch_is_of_different_networks_and_ends_with_the_budget():
    rows = searched(batch=7, budget=20).rows
    assert len({describe(row.candidate) for row in rows}) == len(rows) == 20


def test_an_infinite_space_is_searched():
    history = search(Widths(), lambda width: -abs(math.log(width / 300)), budget=20, seed=0, describe=one_layer)
    assert len(history.rows) == 20 and history.best.candidate > 150  # samples have 100 at most: morphs go on


def test_a_small_space_is_used_up_and_the_search_ends():
    history = search(Widths(5), float, budget=20, seed=0, describe=one_layer)
    assert sorted(row.candidate for row in history.rows) == [1, 2, 3, 4, 5] and history.best.candidate == 5


def test_two_evaluations_are_enough():
    assert len(searched(budget=2).rows) == 2 and len(searched(budget=2, start=1, batch=9).rows) == 2


def test_the_given_morphs_are_the_only_ones():
    steps = []

    def wider(width, random):
        steps.append(width)
        return 2 * width

    history = search(Widths(8), float, budget=10, seed=1, start=1, describe=one_layer, morph=wider)
    first = history.rows[0].candidate
    assert len(steps) > 0 and {row.candidate % first for row in history.rows} == {0}


def test_candidates_with_one_description_count_as_one():
    history = search(Widths(90), float, budget=20, seed=0, describe=lambda width: Description((1 + width // 30,)))
    assert sorted(row.candidate // 30 for row in history.rows) == [0, 1, 2, 3]


def test_failures_are_rows_and_the_search_goes_on():
    def fitness(chain):
        if "skip" in chain.operations:
            raise RuntimeError("too small")
        return math.nan if chain.operations[0] == "conv1" else -CHAINS.parameters(chain)

    history = searched(fitness=fitness, budget=20)
    failures = {row.failure for row in history.rows}
    assert failures == {"", "RuntimeError: too small", "the fitness is nan: a finite number is needed"}
    assert len({row.candidate for row in history.rows}) == 20 and history.best.failure == ""


def test_what_failed_does_not_reach_the_gaussian_process(monkeypatch):
    told = []
    fit = gaussian_process.fit

    def counted(kernel, values, *, noise):
        told.append(len(values))
        return fit(kernel, values, noise=noise)

    monkeypatch.setattr(gaussian_process, "fit", counted)
    turns = itertools.count()
    searched(fitness=lambda chain: math.nan if next(turns) % 2 else 1.0, budget=9, start=1)
    assert told == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_search_in_which_all_fails_says_so():
    history = searched(fitness=lambda chain: math.inf)
    assert len(history.rows) == 10
    with pytest.raises(ValueError, match="none of the 10 evaluations worked"):
        history.best  # noqa: B018 a property that raises


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 1}, "budget must be a whole number of 2 or more, not 1"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
        ({"beta": -0.1}, "beta must be a finite number of 0 or more, not -0.1"),
        ({"beta": math.nan}, "beta must be a finite number"),
        ({"start": 0}, "start must be a whole number of 1 or more, not 0"),
        ({"batch": 1.5}, "batch must be a whole number of 1 or more, not 1.5"),
        ({"jobs": 0}, "jobs must be a whole number of 1 or more, not 0"),
        ({"noise": 0.0}, "noise must be a finite number of 1e-10 or more"),
        ({"skip_weight": 0.0}, "skip_weight must be a finite number above 0"),
        ({"space": Widths(0), "describe": one_layer}, "the space has no candidates"),
        ({"describe": lambda chain: (1, 2)}, "describe must return a Description, not \\(1, 2\\)"),
    ],
)
def test_bad_arguments_are_refused_before_an_evaluation(options, sentence):
    evaluations = []
    with pytest.raises(ValueError, match=sentence):
        searched(fitness=evaluations.append, **options)
    assert evaluations == []


def grown(train=None, *, budget=12, first=1, **options):
    """A search from the narrowest layer on, by widening; a network is the list of the widths that it had."""
    train = train or (lambda path, network: (-abs(path[-1] - 40), [*(network or []), *path]))
    options = {"morph": lambda width, random: width + int(random.integers(1, 4))} | options
    return grow(Widths(), train, first=first, budget=budget, seed=0, describe=one_layer, **options)


def test_each_network_continues_its_parent_by_single_morphs():
    paths = []

    def train(path, network):
        paths.append(path)
        return -abs(path[-1] - 40), path[-1]

    tree = grown(train, budget=8)
    assert tree.parents[0] is None and paths[0] == (1,)
    for place, (path, parent) in enumerate(zip(paths, tree.parents, strict=True)):
        assert path[-1] == tree.rows[place].candidate == tree.networks[place]
        if parent is not None:
            assert parent < place and path[0] == tree.rows[parent].candidate and len(path) > 1
            assert all(1 <= wider - width < 4 for width, wider in itertools.pairwise(path))
    assert None not in tree.parents[1:] and len({row.candidate for row in tree.rows}) == 8


def test_the_network_of_a_parent_is_not_changed_by_its_morphs():
    def train(path, network):
        network = network or []
        network.append(path[-1])  # in place
        return float(path[-1]), network

    tree = grown(train, budget=6)
    for place, parent in enumerate(tree.parents[1:], 1):
        assert tree.networks[place] == [*tree.networks[parent], tree.rows[place].candidate]


def test_failed_trainings_have_no_network_and_no_morphs():
    def train(path, network):
        if path[-1] % 2 == 0:
            raise ValueError("an even width")
        return float(path[-1]), path[-1]

    tree = grown(train, budget=8)
    failed = {place for place, row in enumerate(tree.rows) if row.failure}
    assert failed and failed.isdisjoint(tree.parents)
    assert {place for place, network in enumerate(tree.networks) if network is None} == failed


def test_if_the_first_training_fails_a_random_one_begins():
    seen = []

    def train(path, network):
        seen.append((path, network))
        return (math.nan if len(seen) == 1 else 1.0), "trained"

    tree = grown(train, budget=3)
    assert tree.parents == (None, None, 1) and tree.networks == (None, "trained", "trained")
    assert len(seen[1][0]) == 1 and seen[1][1] is None


def test_real_networks_that_only_widen_keep_their_outputs():
    images = torch.rand(16, 5, generator=torch.Generator().manual_seed(0))

    def train(path, network):
        network = network or seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
        for width in path[1:]:
            network = widen(network, "0", images, width=width, new="zeros")
        return float(path[-1]), network

    tree = grown(train, first=4, budget=5)
    for row, network in zip(tree.rows, tree.networks, strict=True):
        assert len(network[0].bias) == row.candidate
        torch.testing.assert_close(network(images), tree.networks[0](images))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 1}, "budget must be a whole number of 2 or more"),
        ({"beta": -1.0}, "beta must be a finite number of 0 or more"),
        ({"first": 0}, "convolutions must be whole numbers of 1 or more, not 0"),
    ],
)
def test_growing_refuses_before_a_training_is_spent(options, sentence):
    trained = []
    with pytest.raises(ValueError, match=sentence):
        grown(lambda path, network: trained.append(path), **options)
    assert trained == []
