r"""A self-organizing map: a grid of units that unfolds over the samples, so that neighbors answer to similar ones.

For each sample x the nearest unit c wins, and moves towards x; the units around it on the grid follow

.. math::
   c = \arg\min_i \lVert x - w_i \rVert, \qquad
   w_i \leftarrow w_i + \eta(t)\, e^{-\lVert r_c - r_i \rVert^2 / 2\sigma(t)^2} (x - w_i)

where :math:`r_i` is the place of unit i on the grid (kohonen1982self). The step size :math:`\eta` and the radius
:math:`\sigma` fall: a wide radius orders the grid, a narrow one fits it to the samples. Unlike a growing network, a map
keeps its grid, whatever the shape of the data.

Kohonen's first paper moves all units in a neighborhood of the winner equally far; the Gaussian came later.
"""

from typing import Self

import numba
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from lib.self_organization.shared import blocks, inputs, schedules, steps

ROW = {"square": 1.0, "hexagonal": 3**0.5 / 2}  # distance of two rows; neighbors in a row are 1 apart


class SelfOrganizingMap(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn a grid of units that covers the samples and keeps neighbors together (kohonen1982self).

    grid: rows and columns of units, 1 or more each; more units than samples are accepted.
    topology: "square", or "hexagonal": every second row is shifted by half a unit, and units have six neighbors.
    steps: T, the number of samples that ``fit`` presents, 1 or more; the samples are repeated as often as needed.
    schedule: how step size and radius fall over T steps: "exponential", g_i (g_f / g_i)^(t/T), or "asymptotic",
        g_i / (1 + t / (T/2)), which ends at a third; with it and the same start, weights equal those of minisom.
    learning_rate: step size at the start, above 0, at most 1.
    final_learning_rate: step size at the end, above 0; "asymptotic" does not use it.
    radius: radius at the start in units of the grid, above 0; None: half the longer side of the grid.
    final_radius: radius at the end, above 0; "asymptotic" does not use it.
    start: (rows, columns, features) initial weights; None: samples drawn by chance.
    shuffle: True presents the samples in random order, False in the order given.
    random_state: seed of the start and of the order, a whole number, 0 or more.

    Attributes after fitting: ``weights_`` (rows, columns, features) of the type of X; ``n_iter_``, the number of steps.

    Methods raise ValueError for parameters and samples that are not accepted, before anything is changed.

    >>> X = np.random.default_rng(0).random((1000, 2))
    >>> som = SelfOrganizingMap(grid=(5, 5), steps=5000).fit(X)
    >>> som.predict([[0.5, 0.5]]).tolist(), som.topographic_error(X) < 0.05
    ([12], True)
    """

    def __init__(
        self,
        grid: tuple[int, int] = (10, 10),
        *,
        topology: str = "square",
        steps: int = 10_000,
        schedule: str = "exponential",
        learning_rate: float = 0.5,
        final_learning_rate: float = 0.01,
        radius: float | None = None,
        final_radius: float = 0.5,
        start: np.ndarray | None = None,
        shuffle: bool = True,
        random_state: int = 0,
    ) -> None:
        self.grid = grid
        self.topology = topology
        self.steps = steps
        self.schedule = schedule
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.radius = radius
        self.final_radius = final_radius
        self.start = start
        self.shuffle = shuffle
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present T samples to a new map.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the map itself.
        """
        features = self._check()
        random = inputs.generator(self.random_state)
        samples = inputs.samples(self, X, reset=True, features=features)
        weights = self._start(samples, random)
        if self.shuffle:
            copies = -(-self.steps // len(samples))
            order = random.permutation(copies * len(samples))[: self.steps] % len(samples)
        else:
            order = np.arange(self.steps) % len(samples)
        self._learn(weights, samples, order, 0)
        return self

    def partial_fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present each sample once, in the order given; go on with the schedule where the last call ended.

        After T steps, step size and radius keep their final values. The first call makes a new map.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the map itself.
        """
        features = self._check()
        random = inputs.generator(self.random_state)
        if not hasattr(self, "weights_"):
            samples = inputs.samples(self, X, reset=True, features=features)
            self._learn(self._start(samples, random), samples, np.arange(len(samples)), 0)
        elif self.weights_.shape[:2] != tuple(self.grid):
            raise ValueError(f"grid is {self.grid}, but the map has {self.weights_.shape[:2]}; fit makes another grid")
        else:
            samples = inputs.samples(self, X, reset=False, dtype=self.weights_.dtype)
            weights = self.weights_.reshape(-1, samples.shape[1])
            self._learn(weights, samples, np.arange(len(samples)), self.n_iter_)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the nearest unit of each sample.

        X: (n, features) finite numbers.

        Returns (n,) int64, units counted row by row; ``np.unravel_index(units, grid)`` gives rows and columns.
        """
        return self._nearest(X)[0]

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the distance of each sample to each unit.

        X: (n, features) finite numbers.

        Returns (n, rows * columns) of the type of X.
        """
        check_is_fitted(self)
        samples = inputs.samples(self, X, reset=False)
        return cdist(samples, self.weights_.reshape(-1, samples.shape[1])).astype(samples.dtype, copy=False)

    def quantization_error(self, X: np.ndarray) -> float:
        """Return the mean distance of the samples to their nearest units.

        X: (n, features) finite numbers.

        Returns the distance, in units of X.
        """
        return float(self._nearest(X)[2].mean())

    def topographic_error(self, X: np.ndarray, *, diagonal: bool = True) -> float:
        """Return the share of samples whose nearest two units are not neighbors on the grid.

        X: (n, features) finite numbers.
        diagonal: True: in a square grid, units that touch at a corner are neighbors.

        Returns the share, in [0, 1]. Raises ValueError for a map of one unit.
        """
        first, second, _ = self._nearest(X)
        across, down = self._places()
        if len(across) == 1:
            raise ValueError("a map of one unit has no topographic error; it needs two units or more")
        side, rows = np.abs(across[first] - across[second]), np.abs(down[first] - down[second])
        if self.topology == "hexagonal":  # six neighbors: a whole step aside, or half a step in the next row
            return float(np.mean((side + rows != 2) | (side == 0)))
        return float(np.mean((np.maximum(side, rows) if diagonal else side + rows) > 1))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.weights_.shape[0] * self.weights_.shape[1]

    def _check(self) -> int | None:
        """Refuse parameters that are not accepted; return the number of features that ``start`` has, if any."""
        shape = inputs.check_shape("grid", self.grid)
        inputs.check_choice("topology", self.topology, list(ROW))
        inputs.check_count("steps", self.steps)
        inputs.check_choice("schedule", self.schedule, ["exponential", "asymptotic"])
        inputs.check_number("learning_rate", self.learning_rate, above=0, most=1)
        inputs.check_number("radius", self._radius(), above=0)
        if self.schedule == "exponential":
            inputs.check_number("final_learning_rate", self.final_learning_rate, above=0)
            inputs.check_number("final_radius", self.final_radius, above=0)
            schedules.check_falling("learning_rate", self.learning_rate, self.final_learning_rate)
            schedules.check_falling("radius", self._radius(), self.final_radius)
        inputs.check_switch("shuffle", self.shuffle)
        if self.start is None:
            return None
        start = np.asarray(self.start, dtype=float)
        if start.ndim != 3 or start.shape[:2] != shape or not (np.abs(start) <= inputs.LARGEST["float32"]).all():
            raise ValueError(
                f"start has the shape {start.shape}; it must be finite numbers, at most 1e18 in size, "
                f"of the shape {(*shape, 'features')}"
            )
        return start.shape[2]

    def _radius(self) -> float:
        return max(self.grid) / 2 if self.radius is None else self.radius

    def _start(self, samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """(units, features) weights before the first step."""
        if self.start is not None:
            return np.asarray(self.start, dtype=samples.dtype).reshape(-1, samples.shape[1])
        units = self.grid[0] * self.grid[1]
        return samples[random.choice(len(samples), units, replace=len(samples) < units)]

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each unit is: how far across, in steps of 1 (square) or 1/2 (hexagonal), and in which row."""
        rows, columns = self.grid
        down, across = np.divmod(np.arange(rows * columns), columns)
        return (2 * across + down % 2 if self.topology == "hexagonal" else across), down

    def _learn(self, weights: np.ndarray, samples: np.ndarray, order: np.ndarray, begin: int) -> None:
        """Train a copy of the weights from step ``begin`` on, and keep it."""
        t = np.arange(begin, begin + len(order))
        if self.schedule == "exponential":
            rates = schedules.power(self.learning_rate, self.final_learning_rate, t, self.steps)
            radii = schedules.power(self._radius(), self.final_radius, t, self.steps)
        else:
            rates = schedules.asymptotic(self.learning_rate, t, self.steps)
            radii = schedules.asymptotic(self._radius(), t, self.steps)
        across, down = self._places()
        step = 0.5 if self.topology == "hexagonal" else 1.0
        columns, rows = np.arange(across.max() + 1) * step, np.arange(down.max() + 1) * ROW[self.topology]
        present = blocks.train if blocks.pay(len(order), *weights.shape) else train
        weights = blocks.aligned(weights)
        present(weights, samples, order, rates, radii, steps.Grid(across, down, columns**2, rows**2))
        self.weights_ = weights.reshape(*self.grid, -1)
        self.n_iter_ = begin + len(order)

    def _nearest(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        check_is_fitted(self)
        samples = inputs.samples(self, X, reset=False)
        weights = np.require(self.weights_.reshape(-1, samples.shape[1]), samples.dtype, ["C", "W"])
        return _nearest_two(weights, samples)


@numba.njit(cache=True, fastmath={"contract"})  # a product and a sum are rounded once, where the processor can
def train(
    weights: np.ndarray,
    samples: np.ndarray,
    order: np.ndarray,
    rates: np.ndarray,
    radii: np.ndarray,
    grid: steps.Grid,
) -> None:
    """Present samples to the units of a map (kohonen1982self); compiled.

    weights: (units, features) float32 or float64, changed in place.
    samples: (n, features) of the same type.
    order: (T,) which sample is presented at each step.
    rates: (T,) eta at each step.
    radii: (T,) sigma at each step.
    grid: where the units are.
    """
    units, features = weights.shape
    h = np.empty(units, weights.dtype)
    # method
    for t in range(len(order)):
        x = samples[order[t]]
        # c = argmin_i |x - w_i|
        least, c = np.inf, 0
        for i in range(units):
            distance = steps.distance(weights[i], x)
            if distance < least:
                least, c = distance, i
        # w_i += h_i (x - w_i), h_i = eta exp(-|r_c - r_i|^2 / 2 sigma^2)
        steps.neighborhood(h, c, rates[t], radii[t], grid)
        for i in range(units):
            w = weights[i]
            for k in range(features):
                w[k] += h[i] * (x[k] - w[k])
    # end of method


@numba.njit(cache=True)
def _nearest_two(weights: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest unit of each sample, the second nearest, and the distance to the nearest.

    Nothing of the size samples times units is stored. Of units at the same distance the first counts.
    """
    first, second = np.zeros(len(samples), dtype=np.int64), np.zeros(len(samples), dtype=np.int64)
    distances = np.zeros(len(samples))
    for n in range(len(samples)):
        least, next_least = np.inf, np.inf
        for i in range(len(weights)):
            distance = steps.distance(weights[i], samples[n])
            if distance < least:
                next_least, second[n] = least, first[n]
                least, first[n] = distance, i
            elif distance < next_least:
                next_least, second[n] = distance, i
        distances[n] = np.sqrt(least)
    return first, second, distances
