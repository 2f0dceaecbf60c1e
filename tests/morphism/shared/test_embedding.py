"""Bourgain's embedding: the number of its sets, its coordinates, and what it is for: a kernel."""

import math

import numpy as np
import pytest
from given_morphism import described
from scipy.spatial.distance import cdist

from lib.morphism.shared import embedding
from lib.morphism.shared.edit_distance import distances
from lib.search.chains import Chains


def chains():
    """The different networks of the space of chains, by the parameters of their layers."""
    space = Chains()
    return list(dict.fromkeys(described(space, chain) for chain in space))


@pytest.mark.parametrize(
    ("points", "sizes"),
    [
        (1, [1]),
        (2, [1]),
        (3, [1, 1, 2, 2]),
        (8, [1] * 3 + [2] * 3 + [4] * 3),
        (9, [1, 1, 1] + [2, 2, 2] + [4] * 3 + [8] * 3),
        (25, [1] * 4 + [2] * 4 + [4] * 4 + [8] * 4 + [16] * 4),
    ],
)
def test_there_are_log_n_sets_of_each_size(points, sizes):
    sets = embedding.draw(points, np.random.default_rng(0)).sets
    assert [len(members) for members in sets] == sizes
    assert all(len(set(members)) == len(members) and max(members) < points for members in sets)


def test_a_coordinate_is_the_distance_to_the_nearest_of_a_set():
    random = np.random.default_rng(0)
    distance, drawn = random.random((7, 13)), embedding.draw(13, random)
    expected = [[min(row[s] for s in members) for members in drawn.sets] for row in distance]
    np.testing.assert_allclose(drawn.coordinates(distance), np.array(expected) / math.sqrt(len(drawn.sets)), rtol=1e-15)


def test_no_two_points_are_farther_apart_than_before():
    some = chains()
    known, all_distances = distances(some, some[::9]), distances(some, some)
    for seed in range(5):
        coordinates = embedding.draw(len(some[::9]), np.random.default_rng(seed)).coordinates(known)
        assert (cdist(coordinates, coordinates) <= all_distances + 1e-12).all()


def test_the_kernel_is_positive_semidefinite_after_embedding_not_before():
    distance = distances(chains(), chains())
    assert np.linalg.eigvalsh(np.exp(-(distance**2))).min() < -0.01
    for seed in range(3):
        coordinates = embedding.draw(len(distance), np.random.default_rng(seed)).coordinates(distance)
        assert np.linalg.eigvalsh(embedding.kernel(coordinates, coordinates)).min() >= -1e-8


def test_the_draws_are_the_seeds_and_leave_the_global_state():
    before = np.random.get_state()[1].copy()
    first, second = (embedding.draw(30, np.random.default_rng(4)).sets for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (np.random.get_state()[1] == before).all()


def test_no_point_is_refused():
    with pytest.raises(ValueError, match="needs 1 or more points, not 0"):
        embedding.draw(0, np.random.default_rng(0))
