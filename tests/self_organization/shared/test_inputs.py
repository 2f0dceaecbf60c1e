"""Checks of parameters and samples: one sentence for each refusal, and nothing changed by it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from lib.self_organization.shared import inputs


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True, np.nan])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match=r"steps is .*; it must be a whole number, 1 or more"):
        inputs.check_count("steps", value)


@pytest.mark.parametrize("value", [0, 1.5, np.inf, np.nan, "1", None, False])
def test_what_is_outside_its_bounds_is_refused(value):
    with pytest.raises(ValueError, match=r"rate is .*; it must be a finite number, above 0, at most 1"):
        inputs.check_number("rate", value, above=0, most=1)


def test_numbers_of_numpy_are_accepted():
    assert inputs.check_count("steps", np.int32(3)) == 3
    assert inputs.check_number("rate", np.float32(0.5), least=0.5) == 0.5
    assert inputs.check_shape("grid", [2, np.int64(3)]) == (2, 3)
    assert inputs.check_switch("shuffle", np.False_) is False


@pytest.mark.parametrize("value", [(3,), 9, (2, 0), (2, 2.0), "22", None])
def test_what_is_no_shape_is_refused(value):
    with pytest.raises(ValueError, match=r"grid.* it must be"):
        inputs.check_shape("grid", value)


def test_words_and_switches_are_refused_by_name():
    with pytest.raises(ValueError, match="topology is 'round'; it must be one of 'square', 'hexagonal'"):
        inputs.check_choice("topology", "round", ["square", "hexagonal"])
    with pytest.raises(ValueError, match="shuffle is 1; it must be True or False"):
        inputs.check_switch("shuffle", 1)


def test_a_generator_leaves_the_global_state_alone():
    before = np.random.get_state()[1].copy()
    draws = [inputs.generator(3).random(5).tolist() for _ in range(2)]
    assert draws[0] == draws[1] != inputs.generator(4).random(5).tolist()
    assert np.array_equal(np.random.get_state()[1], before)
    with pytest.raises(ValueError, match="random_state is None; it must be a whole number, 0 or more"):
        inputs.generator(None)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e200])
def test_a_value_that_is_not_accepted_is_named_and_changes_nothing(wrong):
    estimator, X = BaseEstimator(), np.ones((3, 2))
    X[1, 0] = wrong
    with pytest.raises(ValueError, match=r"X has .* in row 1, column 0; values must be finite"):
        inputs.samples(estimator, X, reset=True)
    assert not vars(estimator)


def test_large_values_are_refused_by_the_type_they_are_kept_in():
    large = np.array([[1e30]])
    assert inputs.samples(BaseEstimator(), large, reset=True).item() == 1e30
    with pytest.raises(ValueError, match=r"at most 1e\+18"):
        inputs.samples(BaseEstimator(), large, reset=True, dtype=np.float32)


def test_features_that_a_parameter_asks_for_are_checked_before_any_change():
    estimator = BaseEstimator()
    with pytest.raises(ValueError, match="X has 2 features; the parameters of the estimator ask for 3"):
        inputs.samples(estimator, np.ones((3, 2)), reset=True, features=3)
    with pytest.raises(ValueError, match="Negative values in data"):
        inputs.samples(estimator, -np.ones((3, 2)), reset=True, positive=True)
    assert not vars(estimator)


def test_samples_come_as_compiled_code_reads_them():
    X = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    X.flags.writeable = False
    values = inputs.samples(BaseEstimator(), X, reset=True)
    assert values.flags.c_contiguous and values.flags.writeable and np.array_equal(values, X)
    for kind, kept in ((np.float16, np.float64), (np.float32, np.float32), (int, np.float64)):
        assert inputs.samples(BaseEstimator(), X.astype(kind), reset=True).dtype == kept


def test_names_of_features_are_set_and_compared():
    estimator, frame = BaseEstimator(), pd.DataFrame({"a": [1.0], "b": [2.0]})
    inputs.samples(estimator, frame, reset=True)
    assert estimator.n_features_in_ == 2 and list(estimator.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        inputs.samples(estimator, frame[["b", "a"]], reset=False)
