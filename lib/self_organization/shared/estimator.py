"""What estimators that learn a graph of units have in common: nearest units, distances, snapshots."""

from typing import Any

import numba
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lib.self_organization.shared import inputs
from lib.self_organization.shared.graphs import UnitGraph


class GraphEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A scikit-learn estimator whose state is a graph of units.

    Attributes after fitting: ``graph_``, a :class:`UnitGraph`; ``positions_``, (units, features) where its units are;
    ``snapshots_``, the graphs at the steps that the parameter ``snapshots`` names; ``n_iter_``, the number of steps.
    """

    graph_: UnitGraph
    snapshots_: list[UnitGraph]
    n_iter_: int

    @property
    def positions_(self) -> np.ndarray:
        """(units, features) where the units are."""
        return self.graph_.positions

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the nearest unit of each sample; of units at the same distance, the first.

        X: (n, features) finite numbers.

        Returns (n,) int64. Raises ValueError for other samples.
        """
        return self._nearest(X)[0]

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the distance of each sample to each unit.

        X: (n, features) finite numbers.

        Returns (n, units) of the type of X. Raises ValueError for other samples.
        """
        check_is_fitted(self)
        samples = inputs.samples(self, X, reset=False)
        return cdist(samples, self.positions_).astype(samples.dtype, copy=False)

    def quantization_error(self, X: np.ndarray) -> float:
        """Return the mean distance of the samples to their nearest units, in units of X.

        X: (n, features) finite numbers.

        Raises ValueError for other samples.
        """
        return float(self._nearest(X)[1].mean())

    def _nearest(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_is_fitted(self)
        samples = inputs.samples(self, X, reset=False)
        return nearest(self.positions_.astype(samples.dtype, copy=False), samples)

    @property
    def _n_features_out(self) -> int:
        return len(self.positions_)

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


@numba.njit(cache=True)
def nearest(positions: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest unit of each sample, without a table of all distances.

    positions: (units, features).
    samples: (n, features).

    Returns (n,) int64 units, the first of those at the same distance, and (n,) float64 distances.
    """
    units, distances = np.zeros(len(samples), dtype=np.int64), np.zeros(len(samples))
    for n in range(len(samples)):
        least = np.inf
        for i in range(len(positions)):
            distance = 0.0
            for j in range(samples.shape[1]):
                distance += (np.float64(samples[n, j]) - np.float64(positions[i, j])) ** 2
            if distance < least:
                least, units[n] = distance, i
        distances[n] = np.sqrt(least)
    return units, distances


def check_snapshots(value: Any, *, last: int | None) -> tuple[int, ...]:
    """Refuse steps of snapshots that are not whole numbers, or that ``fit`` does not reach.

    value: the given steps: whole numbers, 0 or more; 0 is the graph before the first sample.
    last: the last step that will be made; None where later calls may go on.

    Returns the steps. Raises ValueError.
    """
    if isinstance(value, str) or not np.iterable(value):
        raise ValueError(f"snapshots is {value!r}; it must be a list of steps")
    steps = tuple(inputs.check_count(f"snapshots[{i}]", step, least=0) for i, step in enumerate(value))
    if last is not None and steps and max(steps) > last:
        raise ValueError(f"snapshots has the step {max(steps)}; fit makes {last} steps, so at most {last} is accepted")
    return steps
