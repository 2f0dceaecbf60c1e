"""Graphs of units against networkx, shapes whose Euler characteristic is known, nearest units against scipy."""

from itertools import combinations

import networkx
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from lib.self_organization.shared.estimator import check_snapshots, nearest
from lib.self_organization.shared.graphs import UnitGraph, cliques, stops


def table(units: int, density: float, seed: int) -> np.ndarray:
    """A symmetric adjacency, drawn at random."""
    upper = np.triu(np.random.default_rng(seed).random((units, units)) < density, 1)
    return upper | upper.T


def graph(*edges: tuple[int, int]) -> UnitGraph:
    units = max(map(max, edges)) + 1
    return UnitGraph(0, np.zeros((units, 2)), np.array(sorted(edges)))


@pytest.mark.parametrize("density", [0.0, 0.15, 0.5, 1.0])
def test_degrees_and_components_are_those_of_networkx(density):
    adjacency = table(14, density, seed=3)
    ours, theirs = UnitGraph.from_adjacency(7, np.eye(14), adjacency), networkx.from_numpy_array(adjacency)
    assert ours.degrees.tolist() == [theirs.degree(i) for i in range(14)]
    assert ours.components == networkx.number_connected_components(theirs)
    assert set(map(tuple, ours.edges.tolist())) == set(theirs.edges)
    assert np.array_equal(ours.adjacency, adjacency) and ours.step == 7
    assert np.array_equal(ours.to_sparse().toarray(), adjacency)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5])
def test_cliques_are_all_sets_that_are_all_connected(size):
    adjacency = table(11, 0.6, seed=size)
    expected = [s for s in combinations(range(11), size) if all(adjacency[i, j] for i, j in combinations(s, 2))]
    assert list(map(tuple, cliques(adjacency, size).tolist())) == expected


@pytest.mark.parametrize(
    ("edges", "dimension", "expected"),
    [
        ([(0, 1)], 2, 1),
        ([(0, 1), (1, 2), (0, 2)], 2, 1),  # a triangle is a disk
        ([(i, (i + 1) % 6) for i in range(6)], 2, 0),  # a ring
        ([(0, 1), (2, 3)], 2, 2),  # two parts
        ([(i, j) for i, j in combinations(range(6), 2) if i + j != 5], 2, 2),  # an octahedron is a sphere
        (list(combinations(range(4), 2)), 2, 2),  # the surface of a tetrahedron
        (list(combinations(range(4), 2)), 3, 1),  # the tetrahedron itself
    ],
)
def test_the_euler_characteristic_is_that_of_the_shape(edges, dimension, expected):
    assert graph(*edges).euler_characteristic(dimension) == expected


def test_ages_survive_the_way_there_and_back():
    ages = np.where(table(9, 0.4, seed=1), 0, -1)
    ages += np.triu(np.arange(81).reshape(9, 9), 1) * (ages >= 0)
    ages = np.triu(ages, 1) + np.triu(ages, 1).T - np.eye(9, dtype=int)
    made = UnitGraph.from_ages(3, np.zeros((9, 1)), ages)
    assert np.array_equal(made.age_table(), ages)
    assert made.to_networkx().number_of_edges() == len(made.edges) == (ages >= 0).sum() // 2
    for (i, j), age in zip(made.edges, made.ages, strict=True):
        assert made.to_networkx().edges[i, j]["age"] == age == ages[i, j]


def test_networkx_gets_positions_and_no_ages_where_there_are_none():
    positions = np.arange(6.0).reshape(3, 2)
    made = UnitGraph(0, positions, np.array([[0, 1]])).to_networkx()
    assert [made.nodes[i]["position"].tolist() for i in range(3)] == positions.tolist()
    assert made.edges[0, 1] == {} and made.degree(2) == 0


def test_a_graph_keeps_copies():
    positions, adjacency = np.zeros((2, 1)), np.ones((2, 2), dtype=bool)
    made = UnitGraph.from_adjacency(0, positions, adjacency)
    positions += 1
    adjacency[:] = False
    assert made.positions.tolist() == [[0], [0]] and made.edges.tolist() == [[0, 1]]


def test_a_graph_without_edges_is_all_parts():
    empty = UnitGraph.from_ages(0, np.zeros((3, 2)), np.full((3, 3), -1))
    assert empty.components == 3 == empty.euler_characteristic() and empty.degrees.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_units_are_those_of_all_distances(dtype):
    random = np.random.default_rng(0)
    positions, samples = (random.normal(size=(n, 3)).astype(dtype) for n in (7, 50))
    units, distances = nearest(positions, samples)
    assert np.array_equal(units, cdist(samples, positions).argmin(1))
    np.testing.assert_allclose(distances, cdist(samples, positions).min(1), rtol=1e-12)


def test_of_units_at_one_distance_the_first_is_nearest():
    assert nearest(np.array([[3.0], [1.0], [-1.0], [1.0]]), np.array([[0.0], [1.0]]))[0].tolist() == [1, 1]


def test_learning_stops_for_growth_for_snapshots_and_at_the_end():
    assert stops(0, 10, at=(0, 3, 10), every=5) == [3, 5, 10]
    assert stops(5, 14, at=(), every=5) == [10, 14]
    assert stops(5, 14, at=(5, 20, 7)) == [7, 14]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((5, -1), r"snapshots\[1\] is -1; it must be a whole number, 0 or more"),
        ((2.5,), r"snapshots\[0\] is 2.5"),
        (7, "snapshots is 7; it must be a list of steps"),
        ("12", "snapshots is '12'; it must be a list of steps"),
        ((5, 11), "snapshots has the step 11; fit makes 10 steps"),
    ],
)
def test_other_snapshots_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        check_snapshots(value, last=10)
