"""A mesh of cells against a list of its simplices, kept one by one; what is redistributed; what is removed."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.self_organization.shared import cells
from lib.self_organization.shared.graphs import UnitGraph, cliques

SEEDS = st.integers(0, 2**32 - 1)


def simplices(adjacency: np.ndarray, dimension: int) -> set[frozenset[int]]:
    return set(map(frozenset, cliques(adjacency, dimension + 1).tolist()))


def grown(dimension: int, splits: int, random: np.random.Generator):
    """A mesh after splits at cells drawn at random, and the list of its simplices, each cut by hand."""
    positions, adjacency = random.normal(size=(dimension + 1, 3)), cells.first_simplex(dimension)
    listed = {frozenset(range(dimension + 1))}
    for _ in range(splits):
        q, r = int(random.integers(len(positions))), len(positions)
        before = adjacency
        positions, adjacency = cells.split(positions, adjacency, q, dimension)
        (f,) = np.flatnonzero(before[q] & ~adjacency[q, :r])
        cut = {simplex for simplex in listed if {q, f} <= simplex}
        listed = listed - cut | {simplex - {end} | {r} for simplex in cut for end in (q, f)}
    return positions, adjacency, listed


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 3), st.integers(0, 25))
def test_a_mesh_is_the_list_of_its_simplices(seed, dimension, splits):
    positions, adjacency, listed = grown(dimension, splits, np.random.default_rng(seed))
    assert simplices(adjacency, dimension) == listed
    assert len(cliques(adjacency, dimension + 2)) == 0
    assert np.array_equal(adjacency, adjacency.T) and not adjacency.diagonal().any()
    edges = {frozenset(pair) for simplex in listed for pair in combinations(simplex, 2)}
    assert edges == simplices(adjacency, 1)  # every edge is in a simplex
    assert UnitGraph.from_adjacency(0, positions, adjacency).euler_characteristic(dimension) == 1


def test_the_new_cell_halves_the_longest_edge():
    positions = np.array([[0.0, 0], [1, 0], [0, 5]])
    new, adjacency = cells.split(positions, cells.first_simplex(2), 0, 2)
    assert new[3].tolist() == [0, 2.5] and adjacency[3].tolist() == [True, True, True, False]
    assert not adjacency[0, 2] and adjacency[0, 1] and adjacency[1, 2]
    assert len(positions) == 3  # what was given is left as it was


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 3), st.sampled_from([1.0, 2.0, 10.0]))
def test_growth_conserves_resources_and_leaves_none_negative(seed, dimension, exponent):
    random = np.random.default_rng(seed)
    positions, adjacency, _ = grown(dimension, 12, random)
    resources, weights = random.random(len(positions)), random.normal(size=(len(positions), 4))
    q = int(random.integers(len(positions)))
    new, _, (after, new_weights) = cells.grow(positions, adjacency, q, dimension, exponent, [resources, weights])
    assert len(new) == len(after) == len(new_weights) == len(positions) + 1
    assert after.sum() == pytest.approx(resources.sum(), rel=1e-12) and (after >= 0).all()
    np.testing.assert_allclose(new_weights.sum(0), weights.sum(0), atol=1e-12)


def test_a_field_shrinks_as_the_power_of_its_edges():
    positions = np.array([[0.0, 0], [4, 0], [2, 10]])  # the edge 0-2 is cut in two
    before = cells.mean_edge_lengths(positions, cells.first_simplex(2))
    resources = np.array([6.0, 3, 1])
    new, adjacency, (after,) = cells.grow(positions, cells.first_simplex(2), 0, 2, 3, [resources])
    lengths = cells.mean_edge_lengths(new, adjacency)
    assert lengths[0] == pytest.approx((4 + 104**0.5 / 2) / 2) and before[0] == pytest.approx((4 + 104**0.5) / 2)
    expected = resources * np.minimum((lengths[:3] / before) ** 3, 1)
    np.testing.assert_allclose(after, [*expected, 10 - expected.sum()], rtol=1e-12)


def test_a_cell_whose_edges_get_longer_keeps_what_it_has():
    positions = np.array([[0.0, 0], [12, 0], [6, 10], [6, 11], [5, 10]])
    adjacency = np.zeros((5, 5), dtype=bool)
    for i, j in [(0, 1), (0, 2), (1, 2), (0, 3), (2, 3), (2, 4), (3, 4)]:  # the edges 2-3 and 2-4 are short
        adjacency[i, j] = adjacency[j, i] = True
    before = cells.mean_edge_lengths(positions, adjacency)
    new, whole, (after,) = cells.grow(positions, adjacency, 1, 2, 2, [np.ones(5)])
    assert new[5].tolist() == [6, 0] and cells.mean_edge_lengths(new, whole)[2] > before[2]
    assert after[2] == 1 and after[5] == pytest.approx(2 - after[0] - after[1]) and after[5] > 0


def test_float32_stays_float32():
    values = np.ones((3, 2), dtype=np.float32)
    assert cells.redistribute(values, np.full(3, 0.5)).dtype == np.float32


def test_densities_are_shares_by_fields():
    random = np.random.default_rng(0)
    resources, lengths = random.random(6), random.random(6) + 0.1
    expected = resources / resources.sum() / lengths**4 * (lengths**4).sum()
    np.testing.assert_allclose(cells.densities(resources, lengths, 4), expected, rtol=1e-12)
    np.testing.assert_allclose(cells.densities(5 * resources, 9 * lengths, 4), expected, rtol=1e-12)


def test_densities_of_many_features_and_of_no_field():
    many = cells.densities(np.ones(3), np.array([1e-3, 1.0, 1e3]), exponent=784)
    assert many.tolist() == pytest.approx([np.inf, np.inf, 1 / 3])
    assert cells.densities(np.array([1.0, 0.0]), np.zeros(2), 2).tolist() == [2, 0]
    assert cells.densities(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 2).tolist() == [np.inf, 0]
    assert cells.densities(np.zeros(2), np.ones(2), 2).tolist() == [1, 1]


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 3))
def test_removal_leaves_only_whole_simplices(seed, dimension):
    random = np.random.default_rng(seed)
    positions, adjacency, listed = grown(dimension, 15, random)
    cell = int(random.integers(len(positions)))
    stays, rest = cells.without(adjacency, cell, dimension)
    left = {simplex for simplex in listed if cell not in simplex}
    assert set(np.flatnonzero(stays)) == set().union(*left)
    names = np.flatnonzero(stays)
    assert {frozenset(names[list(s)].tolist()) for s in simplices(rest, dimension)} == left
    edges = {frozenset(pair) for simplex in left for pair in combinations(simplex, 2)}
    assert {frozenset(names[list(e)].tolist()) for e in simplices(rest, 1)} == edges


@settings(max_examples=15)
@given(SEEDS, st.integers(2, 3))
def test_a_thinned_mesh_grows_on_whole(seed, dimension):
    random = np.random.default_rng(seed)
    positions, adjacency, _ = grown(dimension, 25, random)
    for _ in range(10):
        stays, adjacency = cells.thin(positions, adjacency, random.random(len(positions)), dimension, 2, 0.5)
        positions = positions[stays]
        positions, adjacency = cells.split(positions, adjacency, int(random.integers(len(positions))), dimension)
        edges = {frozenset(pair) for simplex in simplices(adjacency, dimension) for pair in combinations(simplex, 2)}
        assert edges == simplices(adjacency, 1) and adjacency.any(1).all()


def test_thinning_takes_the_rarest_and_at_most_a_twentieth():
    random = np.random.default_rng(2)
    positions, adjacency, _ = grown(2, 57, random)
    density = cells.densities(np.ones(60), cells.mean_edge_lengths(positions, adjacency), 3)
    stays, _ = cells.thin(positions, adjacency, np.ones(60), 2, 3, threshold=np.inf)
    assert not stays[density.argmin()] and 57 >= stays.sum() >= 50  # three cells, and those that lose their triangles
    assert cells.thin(positions, adjacency, np.ones(60), 2, 3, threshold=density.min())[0].all()


def test_the_last_simplex_is_never_removed():
    stays, adjacency = cells.thin(np.eye(3), cells.first_simplex(2), np.zeros(3), 2, 2, threshold=np.inf)
    assert stays.all() and np.array_equal(adjacency, cells.first_simplex(2))
