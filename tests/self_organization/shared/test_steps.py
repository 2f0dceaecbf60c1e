"""Distances and neighborhoods against their formulas in numpy."""

import numpy as np
import pytest

from lib.self_organization.shared import steps

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("features", [1, 7, 784])
def test_distances_are_summed_in_double_precision(features, kind):
    unit, sample = RANDOM.normal(size=(2, features)).astype(kind)
    expected = ((sample.astype(float) - unit) ** 2).sum()
    assert steps.distance(unit, sample) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("radius", [0.3, 1.0, 5.0])
def test_a_neighborhood_is_a_gaussian_around_the_winner(radius, kind):
    across, down = np.divmod(np.arange(20), 4)[::-1]
    grid = steps.Grid(across, down, np.arange(4.0) ** 2, 0.75 * np.arange(5.0) ** 2)
    for c in (0, 9, 19):
        h = np.empty(20, kind)
        steps.neighborhood(h, c, 0.7, radius, grid)
        squares = (across - across[c]) ** 2 + 0.75 * (down - down[c]) ** 2
        expected = 0.7 * np.exp(-squares / (2 * radius**2))
        np.testing.assert_allclose(h, expected, rtol=1e-6 if kind == np.float32 else 1e-13, atol=1e-37)


def test_without_a_radius_only_the_winner_moves():
    squares = np.arange(3.0) ** 2
    grid, h = steps.Grid(np.arange(3), np.zeros(3, dtype=int), squares, squares[:1]), np.empty(3)
    steps.neighborhood(h, 2, 0.5, 1e-200, grid)
    assert h.tolist() == [0, 0, 0.5]
