"""The chooser: the bound is the formula, the tree finds the largest one, and what is chosen is new."""

import functools
import math

import numpy as np
import pytest
from given_morphism import described

from lib.morphism.shared import embedding, gaussian_process
from lib.morphism.shared.chooser import Beliefs, Chooser
from lib.morphism.shared.edit_distance import Description, Distances, distances
from lib.morphism.shared.tree_search import Node, climb
from lib.search.chains import Chains
from lib.search.history import Evaluation

SPACE = Chains(positions=3, pools=2)
describe = functools.partial(described, SPACE)


def chooser(seed=0, *, beta=2.576, noise=1e-10, weights=describe):
    return Chooser(SPACE, weights, SPACE.mutated, beta, 0.1, noise, seed)


def evaluations(count, seed=0):
    """Chains with fitness at random."""
    values = np.random.default_rng(seed).normal(size=count).tolist()
    return [Evaluation(chain, value) for chain, value in zip(chooser(seed).draw(count, set()), values, strict=True)]


def test_the_tree_finds_the_largest_bound_of_a_small_space():
    hits = 0
    for seed in range(6):
        choosing = chooser(seed)
        known = choosing.draw(6, set())
        told, values = [describe(chain) for chain in known], np.random.default_rng(seed).normal(size=6).tolist()
        beliefs = Beliefs(told, values, choosing.distances, 1e-10, choosing.random)
        bounds = functools.partial(choosing.bounds, beliefs)
        node = climb(
            [Node((chain,), place) for place, chain in enumerate(known)],
            values,
            morph=SPACE.mutated,
            describe=describe,
            bounds=bounds,
            tried=set(told),
            random=choosing.random,
        )
        others = [one for one in map(describe, SPACE) if one not in told]
        hits += math.isclose(bounds([describe(node.candidate)])[0], max(bounds(others)))
    assert hits >= 5


def test_the_bound_is_the_mean_and_beta_deviations():
    choosing = chooser(beta=1.5, noise=1e-3)
    told, values = [describe(chain) for chain in choosing.draw(7, set())], list(range(7))
    new = [describe(chain) for chain in choosing.draw(5, set(told))]
    beliefs = Beliefs(told, values, Distances(0.1), 1e-3, np.random.default_rng(3))
    sets = embedding.draw(7, np.random.default_rng(3))
    old, others = sets.coordinates(distances(told, told)), sets.coordinates(distances(new, told))
    process = gaussian_process.fit(embedding.kernel(old, old), np.arange(7.0), noise=1e-3)
    mean, deviation = process.predict(embedding.kernel(others, old))
    np.testing.assert_allclose(choosing.bounds(beliefs, new), mean + 1.5 * deviation, rtol=1e-12)
    assert choosing.bounds(beliefs, []) == []


def test_what_was_told_is_believed_without_doubt():
    rows = evaluations(5)
    told = [describe(row.candidate) for row in rows]
    mean, deviation = Beliefs(
        told, [row.fitness for row in rows], Distances(0.1), 1e-10, np.random.default_rng(0)
    ).predict(told)
    np.testing.assert_allclose(mean, [row.fitness for row in rows], atol=1e-6)
    assert deviation.max() < 1e-3


def test_draws_are_new_and_end_where_nothing_is():
    networks = {describe(chain) for chain in SPACE}
    drawn = [describe(chain) for chain in chooser().draw(10, set())]
    assert len(set(drawn)) == len(drawn) == 10
    assert [describe(chain) for chain in chooser().draw(5, networks - {drawn[0]})] == [drawn[0]]
    assert chooser().draw(3, networks) == []


def test_what_is_chosen_is_new_and_says_where_it_comes_from():
    rows = evaluations(4)
    nodes = chooser().choose(rows, 3)
    assert len({describe(one.candidate) for one in (*rows, *nodes)}) == 7
    assert all(node.path[0] == rows[node.parent].candidate and len(node.path) > 1 for node in nodes)


def test_after_failures_alone_a_random_candidate_is_chosen():
    failed = [Evaluation(row.candidate, -math.inf, "it failed") for row in evaluations(2)]
    [node] = chooser().choose(failed, 1)
    assert node.parent is None and node.path == (node.candidate,)
    assert describe(node.candidate) not in {describe(row.candidate) for row in failed}


def test_arguments_outside_their_bounds_are_refused():
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"beta must be a finite number of 0 or more, not {beta}"):
            chooser(beta=beta)
    with pytest.raises(ValueError, match="noise must be a finite number of 1e-10 or more, not 0"):
        chooser(noise=0)
    with pytest.raises(ValueError, match="describe must return a Description, not 7"):
        chooser(weights=lambda chain: 7).draw(1, {Description()})
