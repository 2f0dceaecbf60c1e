r"""Map formation by Willshaw and von der Malsburg: activity orders the connections between two sheets of cells.

Neighboring cells i of the first sheet are active together. The potentials of the second sheet settle under its input
and the effect of its own cells on each other, excitation nearby and inhibition farther away,

.. math::
   \dot H_j = -\alpha H_j + \sum_i A_i s_{ij} + \sum_k e_{kj} H_k^*, \qquad H^* = \max(0, H - \theta)

and active connections grow, while the mean strength S that a cell receives is held constant:

.. math::
   s_{ij} \leftarrow s_{ij} + h A_i H_j^* \ \text{ where } H_j^* > \epsilon, \qquad
   s_{ij} \leftarrow s_{ij}\, S \Big/ \tfrac1n \sum_{i'} s_{i'j}

(willshaw1976patterned). A few connections that begin stronger, the polarity markers, fix the orientation of the map.

The constants are those of a public reimplementation of the model (github.com/dkeitley/Map-Formation-Models), which
presents 60,000 pairs; they were not compared with the printed paper.
"""

import math
from typing import Self

import numba
import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from lib.self_organization.shared import inputs


def neighboring_pairs(rows: int, columns: int) -> np.ndarray:
    """Return the patterns from which a map forms: all pairs of cells of a sheet that are side by side.

    rows: rows of the sheet, 1 or more.
    columns: columns of the sheet, 1 or more; at least two cells.

    Returns (pairs, rows * columns) float64, 1 where a cell is active. Raises ValueError for other sizes.

    >>> neighboring_pairs(1, 3).tolist()
    [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """
    places = _places(*inputs.check_shape("the sheet", (rows, columns)))
    if len(places) < 2:
        raise ValueError("the sheet has 1 cell; a pair needs two or more")
    pairs = np.argwhere(np.triu(cdist(places, places, "cityblock") == 1))
    patterns = np.zeros((len(pairs), len(places)))
    np.put_along_axis(patterns, pairs, 1, axis=1)
    return patterns


class WillshawMalsburg(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn connections from one sheet of cells to another that keep neighbors together (willshaw1976patterned).

    sheet: rows and columns of the second sheet, 1 or more each.
    source: rows and columns of the first sheet, whose cells are the features; None: as near to a square as their number
        allows.
    presentations: number of patterns that ``fit`` presents, drawn at random from its samples, 1 or more.
    rate: h, above 0.
    strength: S, the mean strength of a cell's connections, above 0.
    spread: standard deviation of the initial strengths, 0 or more; a strength drawn below 0 loses its sign.
    marker: factor, above 0, of the initial strengths between the two by two cells in the middle of both sheets, each
        with its counterpart; 1: no markers.
    lateral: e at the city-block distances 1, 2, ... in the second sheet; (): no lateral interaction.
    threshold: theta, 0 or more.
    decay: alpha, above 0, at most 1.
    learning_threshold: epsilon, 0 or more.
    tolerance: potentials have settled when their mean changes by no more than this share in a step of one time unit.
    relaxation: steps after which they count as settled, 1 or more.
    random_state: seed of the initial strengths and of the order of patterns, a whole number, 0 or more.

    Attributes after fitting: ``weights_`` (features, cells of the second sheet) float64; ``sheet_``, its rows and
    columns; ``n_iter_``, the number of presentations.

    Methods raise ValueError for parameters and samples that are not accepted, before anything is changed.

    >>> model = WillshawMalsburg(rate=0.016, presentations=10_000).fit(neighboring_pairs(6, 6))
    >>> model.rank_correlation() > 0.85, bool(np.allclose(model.weights_.mean(0), 2.5))
    (True, True)
    """

    def __init__(
        self,
        sheet: tuple[int, int] = (6, 6),
        *,
        source: tuple[int, int] | None = None,
        presentations: int = 60_000,
        rate: float = 0.0016,
        strength: float = 2.5,
        spread: float = 0.14,
        marker: float = 5.0,
        lateral: tuple[float, ...] = (0.05, 0.025, -0.06),
        threshold: float = 10.0,
        decay: float = 0.5,
        learning_threshold: float = 2.0,
        tolerance: float = 0.005,
        relaxation: int = 100,
        random_state: int = 0,
    ) -> None:
        self.sheet = sheet
        self.source = source
        self.presentations = presentations
        self.rate = rate
        self.strength = strength
        self.spread = spread
        self.marker = marker
        self.lateral = lateral
        self.threshold = threshold
        self.decay = decay
        self.learning_threshold = learning_threshold
        self.tolerance = tolerance
        self.relaxation = relaxation
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present patterns to new connections.

        X: (n, features) activities of the first sheet's cells, row by row, 0 or more; one pattern or more.
        y: not used.

        Returns the model itself.
        """
        cells = self._check()
        random = inputs.generator(self.random_state)
        patterns = inputs.samples(self, X, reset=True, positive=True, features=cells, dtype=np.float64)
        weights = self._start(patterns.shape[1], random)
        self._learn(weights, patterns, random.integers(len(patterns), size=self.presentations), 0)
        return self

    def partial_fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present each pattern once, in the order given. The first call makes new connections.

        X: (n, features) activities of the first sheet's cells, row by row, 0 or more; one pattern or more.
        y: not used.

        Returns the model itself.
        """
        cells = self._check()
        random = inputs.generator(self.random_state)
        begun = hasattr(self, "weights_")
        if begun and self.sheet_ != tuple(self.sheet):
            raise ValueError(
                f"sheet is {self.sheet}, but the model has a sheet of {self.sheet_}; call fit for another sheet"
            )
        patterns = inputs.samples(self, X, reset=not begun, positive=True, features=cells, dtype=np.float64)
        weights = self.weights_.copy() if begun else self._start(patterns.shape[1], random)
        self._learn(weights, patterns, np.arange(len(patterns)), self.n_iter_ if begun else 0)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the activity H* of the second sheet, once it has settled, for each pattern.

        X: (n, features) activities of the first sheet's cells, 0 or more.

        Returns (n, cells of the second sheet) float64, 0 or more.
        """
        check_is_fitted(self)
        patterns = inputs.samples(self, X, reset=False, positive=True, dtype=np.float64)
        settling = self._settling(self.sheet_)
        return _bounded(np.array([settled(pattern @ self.weights_, *settling) for pattern in patterns]))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most active cell of the second sheet for each pattern.

        X: (n, features) activities of the first sheet's cells, 0 or more.

        Returns (n,) int64, cells counted row by row; 0 where none is active.
        """
        return self.transform(X).argmax(axis=1)

    def receptive_fields(self) -> np.ndarray:
        """Return the middle of each cell's receptive field: the mean place in the first sheet, weighted by strength.

        Returns (cells of the second sheet, 2): row and column in the first sheet.
        """
        check_is_fitted(self)
        places = _places(*self._source(len(self.weights_)))
        return self.weights_.T @ places / self.weights_.sum(axis=0)[:, None]

    def rank_correlation(self) -> float:
        """Return Spearman's correlation, over pairs of cells, of their distance with that of their receptive fields.

        Returns the correlation, in [-1, 1]: near 1 for a map that keeps neighbors together.
        Raises ValueError where all distances are equal, as for two cells.
        """
        fields, cells = pdist(self.receptive_fields()), pdist(_places(*self.sheet_))
        if min(len(set(fields)), len(set(cells))) < 2:
            raise ValueError(
                "the rank correlation is not defined: all cells, or all receptive fields, are equally far apart"
            )
        return float(spearmanr(fields, cells).statistic)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.weights_.shape[1]

    def _check(self) -> int | None:
        """Refuse parameters that are not accepted; give the number of features that ``source`` asks for."""
        inputs.check_shape("sheet", self.sheet)
        inputs.check_count("presentations", self.presentations)
        inputs.check_count("relaxation", self.relaxation)
        for name in ("rate", "strength", "marker", "tolerance"):
            inputs.check_number(name, getattr(self, name), above=0)
        for name in ("spread", "threshold", "learning_threshold"):
            inputs.check_number(name, getattr(self, name), least=0)
        inputs.check_number("decay", self.decay, above=0, most=1)
        if not isinstance(self.lateral, tuple | list):
            raise ValueError(f"lateral is {self.lateral!r}; it must be numbers for the distances 1, 2, ...")
        for distance, value in enumerate(self.lateral, 1):
            inputs.check_number(f"lateral at distance {distance}", value)
        return None if self.source is None else math.prod(inputs.check_shape("source", self.source))

    def _source(self, cells: int) -> tuple[int, int]:
        """Rows and columns of the first sheet."""
        if self.source is not None:
            return self.source
        rows = max(side for side in range(1, math.isqrt(cells) + 1) if cells % side == 0)
        return rows, cells // rows

    def _start(self, cells: int, random: np.random.Generator) -> np.ndarray:
        """Connections before the first presentation: strengths around S, the markers stronger."""
        source = self._source(cells)
        weights = np.abs(random.normal(self.strength, self.spread, (*source, *self.sheet)))
        sides = [min(2, a, b) for a, b in zip(source, self.sheet, strict=True)]
        for row, column in np.ndindex(*sides):
            ends = [(size - side) // 2 for size, side in zip((*source, *self.sheet), sides * 2, strict=True)]
            weights[tuple(np.add(ends, (row, column) * 2))] *= self.marker
        weights = weights.reshape(cells, -1)
        return weights * (self.strength / weights.mean(axis=0))

    def _settling(self, sheet: tuple[int, int]) -> tuple[np.ndarray, float, float, float, int]:
        """The arguments of :func:`settled` after the first; (cells, cells) e of the second sheet comes first."""
        places = _places(*sheet)
        distance = cdist(places, places, "cityblock").astype(int)
        table = np.zeros(distance.max() + len(self.lateral) + 1)
        table[1 : len(self.lateral) + 1] = self.lateral
        numbers = float(self.threshold), float(self.decay), float(self.tolerance)  # other types would compile again
        return table[distance], *numbers, int(self.relaxation)

    def _learn(self, weights: np.ndarray, patterns: np.ndarray, order: np.ndarray, begin: int) -> None:
        """Present patterns, and keep the result."""
        learning = (float(self.rate), float(self.learning_threshold), float(self.strength))
        present(weights, patterns, order, *self._settling(self.sheet), *learning)
        self.weights_ = _bounded(weights)
        self.sheet_ = (self.sheet[0], self.sheet[1])
        self.n_iter_ = begin + len(order)


def _bounded(values: np.ndarray) -> np.ndarray:
    """Return the values, or refuse them if the potentials did not settle."""
    if not np.isfinite(values).all():
        raise ValueError("the potentials grow without bound; use smaller activities, or less excitation in lateral")
    return values


def _places(rows: int, columns: int) -> np.ndarray:
    """(rows * columns, 2): row and column of each cell of a sheet."""
    return np.argwhere(np.ones((rows, columns)))


@numba.njit(cache=True)
def settled(
    incoming: np.ndarray, lateral: np.ndarray, threshold: float, decay: float, tolerance: float, relaxation: int
) -> np.ndarray:
    """Return the activity H* of a sheet once its potentials have settled (willshaw1976patterned); compiled.

    incoming: (cells,) sum_i A_i s_ij, with which the potentials also begin.
    lateral: (cells, cells) e between each two cells.
    threshold: theta.
    decay: alpha.
    tolerance: they have settled when their mean changes by no more than this share in a step of one time unit.
    relaxation: the largest number of steps.

    Returns (cells,) float64; all inf if a potential exceeds a million times the largest input.
    """
    # method
    potential = incoming.copy()
    mean, most = potential.mean(), 1e6 * incoming.max()
    for _ in range(relaxation):
        active = np.maximum(potential - threshold, 0.0)
        # in steps of one time unit:
        # dH_j/dt = -alpha H_j + sum_i A_i s_ij + sum_k e_kj H*_k
        potential += incoming - decay * potential
        for k in range(len(active)):
            if active[k] > 0:
                potential += active[k] * lateral[k]
        before, mean = mean, potential.mean()
        if abs(mean - before) <= tolerance * abs(before):
            break
        if not potential.max() <= most:
            return np.full(len(potential), np.inf)
    return np.maximum(potential - threshold, 0.0)
    # end of method


@numba.njit(cache=True)
def present(
    weights: np.ndarray,
    patterns: np.ndarray,
    order: np.ndarray,
    lateral: np.ndarray,
    threshold: float,
    decay: float,
    tolerance: float,
    relaxation: int,
    rate: float,
    learning_threshold: float,
    strength: float,
) -> None:
    """Present patterns to the first sheet, and let active connections grow (willshaw1976patterned); compiled.

    weights: (cells, cells of the second sheet) float64 s, changed in place.
    patterns: (n, cells) float64 activities A.
    order: (T,) which pattern is presented at each step.
    lateral: (cells, cells) e between each two cells of the second sheet.
    threshold: theta.
    decay: alpha.
    tolerance: as in :func:`settled`.
    relaxation: as in :func:`settled`.
    rate: h.
    learning_threshold: epsilon.
    strength: S.
    """
    cells = weights.shape[0]
    incoming = np.empty(weights.shape[1])
    # method
    for n in order:
        incoming[:] = 0.0
        for i in range(cells):
            if patterns[n, i] > 0:
                incoming += patterns[n, i] * weights[i]
        active = settled(incoming, lateral, threshold, decay, tolerance, relaxation)
        for j in range(len(active)):
            if active[j] > learning_threshold:
                # s_ij += h A_i H*_j, then s_ij *= S / mean_i s_ij
                weights[:, j] += rate * active[j] * patterns[n]
                weights[:, j] *= strength / weights[:, j].mean()
    # end of method
