r"""Rosenblatt's perceptron: fixed random detectors, and one unit that learns from its errors.

Association units see the input x through random connections that never change; a response unit weighs them:

.. math::
   a = \mathbb 1[R x > \theta], \qquad \hat y = \operatorname{sign}(w \cdot a + b), \qquad
   \text{on an error: } w \leftarrow w + y a, \quad b \leftarrow b + y

with a sparse R of entries :math:`\pm 1` and labels :math:`y = \pm 1` (rosenblatt1958perceptron). Where the classes can
be separated, learning ends: from :math:`w = 0` it makes at most :math:`(\rho/\gamma)^2` mistakes, with :math:`\rho` the
largest length of :math:`(a, 1)` and :math:`\gamma` the margin of any separator of length 1 (Novikoff, 1962).

The paper of 1958 strengthens the active units at every answer and lets response units inhibit each other; learning from
errors alone, as here, is Rosenblatt's later form.
"""

from typing import Self

import numpy as np
from numpy.linalg import norm
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_X_y
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from lib.self_organization.shared import inputs


def learn(units: np.ndarray, signs: np.ndarray, weights: np.ndarray, bias: float) -> tuple[np.ndarray, float, int]:
    """Learn from the errors of one pass over the samples, in their order (rosenblatt1958perceptron).

    units: (n, units) what the response unit sees.
    signs: (n,) y, -1 or 1.
    weights: (units,) w before the pass; left as they are.
    bias: b before the pass.

    Returns w and b after the pass, and the number of mistakes.

    >>> learn(np.array([[1.0], [-1.0]]), np.array([1.0, -1.0]), np.zeros(1), 0.0)
    (array([2.]), 0.0, 2)
    """
    mistakes = 0
    # method
    for a, y in zip(units, signs, strict=True):
        if y * (a @ weights + bias) <= 0:
            # w <- w + y a, b <- b + y
            weights, bias, mistakes = weights + y * a, bias + float(y), mistakes + 1
    # end of method
    return weights, bias, mistakes


class RosenblattPerceptron(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):
    """Separate two classes by one trained unit on top of fixed random ones (rosenblatt1958perceptron).

    units: number of association units, 1 or more; None: the response unit sees the inputs themselves.
    connections: how many inputs each association unit sees, 1 or more; all of them where there are fewer.
    threshold: theta, a finite number in units of the inputs.
    max_iter: number of passes over the samples after which ``fit`` gives up, 1 or more.
    random_state: seed of the connections, a whole number, 0 or more.

    Attributes after fitting:

    classes_: (2,) the labels, ascending.
    projections_: (units, features) scipy sparse array R, or None.
    coef_, intercept_: (units or features,) float64 w, and b.
    n_iter_: number of passes.
    mistakes_: number of errors that were learned from.
    converged_: whether the last pass made no mistake, so that the weights separate its samples.
    mistake_bound_: Novikoff's bound on the number of mistakes, from the margin of the separator that ``fit`` found; inf
        where it found none, and after ``partial_fit``.

    Methods raise ValueError for parameters and samples that are not accepted, before anything is changed.

    >>> X, exclusive_or = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> RosenblattPerceptron(units=None).fit(X, exclusive_or).converged_
    False
    >>> RosenblattPerceptron(units=32).fit(X, exclusive_or).predict(X).tolist()
    [0, 1, 1, 0]
    """

    def __init__(
        self,
        units: int | None = 128,
        *,
        connections: int = 4,
        threshold: float = 0.0,
        max_iter: int = 100,
        random_state: int = 0,
    ) -> None:
        self.units = units
        self.connections = connections
        self.threshold = threshold
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Learn from the errors, pass after pass in the order of the samples, until a pass makes none.

        X: (n, features) finite numbers.
        y: (n,) labels of two classes.

        Returns the perceptron itself.
        """
        self._check()
        samples, labels, classes = self._samples(X, y, None, reset=True)
        self._begin(samples.shape[1], classes)
        units = self._units(samples)
        signs = np.where(labels == classes[1], 1.0, -1.0)
        while self.n_iter_ < self.max_iter and not self.converged_:
            self._learn(units, signs)
        self.mistake_bound_ = self._bound(units, signs)
        return self

    def partial_fit(self, X: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None) -> Self:
        """Learn from the errors of one pass over the samples, in their order. The first call starts from zero weights.

        X: (n, features) finite numbers.
        y: (n,) labels, of one class or of both.
        classes: the two labels; needed in the first call where y has only one of them.

        Returns the perceptron itself.
        """
        self._check()
        begun = hasattr(self, "classes_")
        samples, labels, classes = self._samples(X, y, self.classes_ if begun else classes, reset=not begun)
        if not begun:
            self._begin(samples.shape[1], classes)
        self._learn(self._units(samples), np.where(labels == classes[1], 1.0, -1.0))
        self.mistake_bound_ = np.inf  # it would need all samples seen so far
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return w . a + b of each sample.

        X: (n, features) finite numbers.

        Returns (n,) float64, above 0 for the second class.
        """
        return self.transform(X) @ self.coef_ + self.intercept_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each sample.

        X: (n, features) finite numbers.

        Returns (n,) labels, as in ``classes_``.
        """
        above = self.decision_function(X) > 0
        return self.classes_[above.astype(int)]

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the activity a of the association units, or X where there are none.

        X: (n, features) finite numbers.

        Returns (n, units or features) float64.
        """
        check_is_fitted(self)
        return self._units(inputs.samples(self, X, reset=False, dtype=np.float64))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.coef_)

    def _check(self) -> None:
        """Refuse parameters that are not accepted."""
        if self.units is not None:
            inputs.check_count("units", self.units)
        inputs.check_count("connections", self.connections)
        inputs.check_number("threshold", self.threshold)
        inputs.check_count("max_iter", self.max_iter)
        inputs.check_count("random_state", self.random_state, least=0)

    def _samples(
        self, X: np.ndarray, y: np.ndarray, classes: np.ndarray | None, *, reset: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the samples, their labels and the two classes, or refuse them."""
        _, labels = check_X_y(X, y, dtype=None, ensure_all_finite=False, estimator=self)
        kind = type_of_target(labels, input_name="y", raise_unknown=True)
        if kind not in ("binary", "multiclass"):
            raise ValueError(f"Unknown label type: y is {kind}; it must be labels of two classes")
        seen = np.unique(labels)
        known = seen if classes is None else np.unique(classes)
        if len(known) > 2:
            raise ValueError(f"Only binary classification is supported: there are {len(known)} classes")
        if len(known) < 2:
            raise ValueError(f"there is one class, {known[0]}; the perceptron needs two")
        if not np.isin(seen, known).all():
            raise ValueError(f"y has the label {seen[~np.isin(seen, known)][0]}; the classes are {known.tolist()}")
        return inputs.samples(self, X, reset=reset, dtype=np.float64), labels, known

    def _begin(self, features: int, classes: np.ndarray) -> None:
        """Draw the connections, and set the weights to 0."""
        self.classes_, self.projections_ = classes, None
        if self.units is not None:
            random = inputs.generator(self.random_state)
            each = min(self.connections, features)
            seen = np.concatenate([np.sort(random.permutation(features)[:each]) for _ in range(self.units)])
            signs = random.choice([-1.0, 1.0], len(seen))
            self.projections_ = sparse.csr_array(
                (signs, seen, each * np.arange(self.units + 1)), shape=(self.units, features)
            )
        self.coef_, self.intercept_ = np.zeros(features if self.units is None else self.units), 0.0
        self.n_iter_, self.mistakes_ = 0, 0
        self.converged_, self.mistake_bound_ = False, np.inf

    def _units(self, samples: np.ndarray) -> np.ndarray:
        """Compute a = 1[R x > theta]; a sparse product adds in the same order for any number of samples."""
        if self.projections_ is None:
            return samples
        return np.ascontiguousarray((self.projections_ @ samples.T > self.threshold).T, dtype=float)

    def _learn(self, units: np.ndarray, signs: np.ndarray) -> None:
        """Learn from one pass, and keep the result."""
        self.coef_, self.intercept_, mistakes = learn(units, signs, self.coef_, self.intercept_)
        self.mistakes_ += mistakes
        self.n_iter_ += 1
        self.converged_ = mistakes == 0

    def _bound(self, units: np.ndarray, signs: np.ndarray) -> float:
        """(rho / gamma)^2 for the separator that was found."""
        margin = (signs * (units @ self.coef_ + self.intercept_)).min()
        if margin <= 0:
            return np.inf
        longest, length = ((units**2).sum(axis=1).max() + 1) ** 0.5, np.hypot(norm(self.coef_), self.intercept_)
        return float((longest * length / margin) ** 2)
