"""What the estimators share: the nearest unit by brute force, distances, and steps of snapshots."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from lib.self_organization.growing_neural_gas import GrowingNeuralGas
from lib.self_organization.shared.estimator import check_snapshots, nearest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_unit_is_that_of_all_distances(dtype):
    random = np.random.default_rng(0)
    positions, samples = random.random((7, 3)).astype(dtype), random.random((50, 3)).astype(dtype)
    units, distances = nearest(positions, samples)
    table = cdist(samples, positions)
    assert np.array_equal(units, table.argmin(1))
    assert distances == pytest.approx(table.min(1), rel=1e-6)


def test_of_units_at_one_distance_the_first_is_nearest():
    units, distances = nearest(np.array([[1.0], [-1.0]]), np.array([[0.0]]))
    assert units.tolist() == [0] and distances.tolist() == [1.0]


def test_predictions_and_distances_agree():
    samples = np.random.default_rng(1).random((200, 2))
    gas = GrowingNeuralGas(10, steps=2000).fit(samples)
    table = gas.transform(samples)
    assert np.array_equal(gas.predict(samples), table.argmin(1))
    assert gas.quantization_error(samples) == pytest.approx(table.min(1).mean())
    assert list(gas.get_feature_names_out()) == [f"growingneuralgas{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("value", "last", "says"),
    [
        ("12", 20, "it must be a list of steps"),
        (5, 20, "it must be a list of steps"),
        ([0, -1], 20, r"snapshots\[1\]"),
        ([0.5], 20, r"snapshots\[0\]"),
        ([30], 20, "fit makes 20 steps, so at most 20 is accepted"),
    ],
)
def test_steps_that_are_not_reached_are_refused(value, last, says):
    with pytest.raises(ValueError, match=says):
        check_snapshots(value, last=last)


def test_steps_are_accepted_up_to_the_last_or_without_one():
    assert check_snapshots([0, 20], last=20) == (0, 20)
    assert check_snapshots((10**6,), last=None) == (10**6,)
