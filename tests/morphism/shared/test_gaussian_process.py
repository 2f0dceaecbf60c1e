"""A Gaussian process: the values that it interpolates, and scikit-learn's predictions."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from lib.morphism.shared import embedding, gaussian_process


def points(count, seed=0, dimensions=4):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def fitted(known, values, noise=1e-10):
    return gaussian_process.fit(embedding.kernel(known, known), values, noise=noise)


def test_it_interpolates_its_points_with_no_deviation_there():
    known, values = points(20), np.random.default_rng(1).normal(size=20)
    mean, deviation = fitted(known, values).predict(embedding.kernel(known, known))
    np.testing.assert_allclose(mean, values, atol=1e-6)
    np.testing.assert_allclose(deviation, 0, atol=1e-4)


@pytest.mark.parametrize("noise", [1e-8, 1e-2, 1.0])
def test_it_predicts_what_scikit_learn_predicts(noise):
    known, new, values = points(15), points(40, seed=2), np.random.default_rng(1).normal(size=15)
    theirs = GaussianProcessRegressor(RBF(np.sqrt(0.5)), alpha=noise, optimizer=None).fit(known, values)
    for ours, expected in zip(
        fitted(known, values, noise).predict(embedding.kernel(new, known)),
        theirs.predict(new, return_std=True),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-8)


def test_far_from_all_points_it_knows_nothing():
    known = points(5)
    mean, deviation = fitted(known, np.ones(5)).predict(embedding.kernel(known + 100, known))
    assert mean.tolist() == [0] * 5 and deviation.tolist() == [1] * 5


def test_two_values_of_one_point_give_their_mean():
    known = np.zeros((2, 3))
    mean, deviation = fitted(known, np.array([1.0, 4.0])).predict(np.ones((1, 2)))
    assert mean.item() == pytest.approx(2.5, abs=1e-4) and 0 <= deviation.item() < 1e-4


def test_noise_draws_the_mean_to_zero():
    known = points(1)
    assert fitted(known, np.array([3.0]), noise=2.0).predict(np.ones((1, 1)))[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("noise", [0, -1e-3, float("nan"), float("inf")])
def test_noise_that_is_not_above_zero_is_refused(noise):
    with pytest.raises(ValueError, match="noise must be a finite number above 0"):
        gaussian_process.fit(np.eye(2), np.zeros(2), noise=noise)


def test_values_and_kernels_that_do_not_work_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        gaussian_process.fit(np.eye(2), np.array([0.0, np.nan]), noise=0.1)
    with pytest.raises(ValueError, match=r"not positive definite with a noise of 0\.1: give more noise"):
        gaussian_process.fit(np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros(2), noise=0.1)
