"""The perceptron: Novikoff's bound, what can be separated and what cannot, and the rule itself."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from lib.self_organization.perceptron import RosenblattPerceptron

POINTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
AND, OR, XOR = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])


def separable(seed: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """200 points, none nearer to a random plane than the margin."""
    random = np.random.default_rng(seed)
    X, plane = random.normal(size=(2000, 5)), random.normal(size=5)
    distance = X @ plane / np.linalg.norm(plane) - 0.2
    kept = np.flatnonzero(np.abs(distance) > margin)[:200]
    return X[kept], (distance[kept] > 0).astype(int)


@parametrize_with_checks([RosenblattPerceptron(max_iter=10), RosenblattPerceptron(None, max_iter=5)])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("labels", [AND, OR])
@pytest.mark.parametrize("units", [None, 32])
def test_and_and_or_converge(units, labels):
    model = RosenblattPerceptron(units, threshold=0.0 if units is None else 0.5).fit(POINTS, labels)
    assert model.converged_ and model.predict(POINTS).tolist() == labels.tolist()


def test_exclusive_or_is_never_learned_from_the_inputs():
    for passes in range(1, 60):
        model = RosenblattPerceptron(None, max_iter=passes).fit(POINTS, XOR)
        assert np.mean(model.predict(POINTS) != XOR) >= 0.25
    assert not model.converged_ and model.n_iter_ == 59 and model.mistake_bound_ == np.inf


def test_random_units_make_exclusive_or_learnable():
    solved = {
        units: np.mean([RosenblattPerceptron(units, random_state=s).fit(POINTS, XOR).converged_ for s in range(30)])
        for units in (2, 8, 32)
    }
    assert solved[2] < solved[8] < solved[32] and solved[32] >= 0.9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_mistakes_stay_below_the_bound_of_the_separator_found(margin, seed):
    X, y = separable(seed, margin)
    model = RosenblattPerceptron(None, max_iter=5000).fit(X, y)
    assert model.converged_ and 0 < model.mistakes_ <= model.mistake_bound_ < np.inf
    extended = np.column_stack([X, np.ones(len(X))])
    separator = np.append(model.coef_, model.intercept_)
    gamma = (np.where(y, 1, -1) * (extended @ separator)).min() / np.linalg.norm(separator)
    assert model.mistake_bound_ == pytest.approx((np.linalg.norm(extended, axis=1).max() / gamma) ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_two_digits_are_separated(seed):
    digits = load_digits()
    chosen = digits.target < 2
    X, y = digits.data[chosen], digits.target[chosen]
    model = RosenblattPerceptron(random_state=seed).fit(X[:200], y[:200])
    assert model.converged_ and model.score(X[:200], y[:200]) == 1 and model.score(X[200:], y[200:]) > 0.9
    assert model.mistakes_ <= model.mistake_bound_


def test_the_rule_is_followed_step_by_step():
    X, y = separable(0, 0.1)
    model, weights, bias, mistakes = RosenblattPerceptron(None, max_iter=2).fit(X, y), np.zeros(5), 0.0, 0
    for x, label in list(zip(X, y, strict=True)) * 2:
        sign = 1 if label else -1
        if sign * (weights @ x + bias) <= 0:
            weights, bias, mistakes = weights + sign * x, bias + sign, mistakes + 1
    np.testing.assert_allclose(model.coef_, weights, rtol=1e-12)
    assert (model.intercept_, model.mistakes_) == (bias, mistakes)


def test_units_are_sparse_random_signs_above_a_threshold():
    X = np.random.default_rng(0).normal(size=(50, 12))
    model = RosenblattPerceptron(40, connections=3, threshold=0.7).fit(X, X[:, 0] > 0)
    dense = model.projections_.toarray()
    assert sparse.issparse(model.projections_) and dense.shape == (40, 12)
    assert set(np.unique(dense)) == {-1, 0, 1} and (np.abs(dense).sum(axis=1) == 3).all()
    assert np.array_equal(model.transform(X), X @ dense.T > 0.7)
    assert np.array_equal(model.coef_, np.round(model.coef_))  # sums of zeros and ones


def test_answers_do_not_depend_on_what_else_is_asked():
    X = np.random.default_rng(1).integers(-3, 4, (60, 10)) / 10  # sums that are zero but for rounding
    model = RosenblattPerceptron(64, connections=6).fit(X, X[:, 0] > X[:, 1])
    alone = np.concatenate([model.transform(x[None]) for x in X])
    assert np.array_equal(model.transform(X), alone) and np.array_equal(model.transform(X[::-1])[::-1], alone)


def test_passes_one_by_one_teach_as_fit_does():
    X, y = separable(1, 0.1)
    whole, parts = RosenblattPerceptron(20, max_iter=3).fit(X, y), RosenblattPerceptron(20)
    for _ in range(3):
        parts.partial_fit(X, y)
    assert np.array_equal(whole.coef_, parts.coef_) and whole.intercept_ == parts.intercept_
    assert (whole.n_iter_, whole.mistakes_) == (parts.n_iter_, parts.mistakes_) and parts.mistake_bound_ == np.inf


def test_a_part_of_one_class_is_accepted_where_the_classes_are_known():
    model = RosenblattPerceptron(None).partial_fit(POINTS[:1], ["no"], classes=["yes", "no"])
    model.partial_fit(POINTS[3:], ["yes"])
    assert model.predict(POINTS[3:]).tolist() == ["yes"]


def test_the_seed_decides():
    X, y = separable(2, 0.1)
    first, again, other = (RosenblattPerceptron(random_state=s).fit(X, y).projections_.toarray() for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": 0}, "units is 0; it must be a whole number, 1 or more"),
        ({"connections": 0}, "connections is 0"),
        ({"threshold": np.nan}, "threshold is nan"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"random_state": -1}, "random_state is -1"),
    ],
)
def test_bad_parameters_are_refused_and_change_nothing(options, words):
    model = RosenblattPerceptron().fit(POINTS, OR)
    before = model.coef_.copy()
    for call in (model.set_params(**options).fit, model.partial_fit):
        with pytest.raises(ValueError, match=words):
            call(POINTS, AND)
    assert np.array_equal(model.coef_, before)


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (POINTS, [1, 1, 1, 1], "there is one class, 1; the perceptron needs two"),
        (POINTS, [0, 1, 2, 0], "Only binary classification is supported: there are 3 classes"),
        (POINTS, [0.1, 0.5, 0.7, 0.9], "Unknown label type: y is continuous"),
        (POINTS, [0, 1], "inconsistent numbers of samples"),
        ([[np.nan, 0.0], [1.0, 1.0]], [0, 1], "X has nan in row 0, column 0"),
    ],
)
def test_bad_samples_are_refused_and_change_nothing(X, y, words):
    model = RosenblattPerceptron().fit(POINTS, OR)
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=words):
        model.fit(X, y)
    assert np.array_equal(model.coef_, before) and model.classes_.tolist() == [0, 1]


def test_a_label_that_came_too_late_is_refused():
    model = RosenblattPerceptron().fit(POINTS, OR)
    with pytest.raises(ValueError, match=r"y has the label 7; the classes are \[0, 1\]"):
        model.partial_fit(POINTS, [0, 1, 7, 7])
