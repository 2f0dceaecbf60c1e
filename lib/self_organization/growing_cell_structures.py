r"""Growing cell structures: a mesh of triangles that adds cells where they are needed most, alone or as a classifier.

The mesh begins as one simplex of dimension k (a triangle for k = 2). For each sample x the nearest cell s and its
neighbors n move, and s counts the sample:

.. math::
   w_s \leftarrow w_s + \epsilon_b (x - w_s), \quad w_n \leftarrow w_n + \epsilon_n (x - w_n), \quad
   \tau_s \leftarrow \tau_s + 1, \quad \tau_c \leftarrow (1 - \alpha)\, \tau_c .

After every :math:`\lambda` samples, the cell q with the largest resource :math:`\tau` gets a new neighbor r in the
middle of its longest edge; r takes its share of the neighbors' resources, and all simplices stay whole.

The classifier puts a radial basis function on each cell, as wide as the mean length of the cell's edges, and trains
output weights and positions at the same time:

.. math::
   D_c = e^{-\lVert x - w_c \rVert^2 / \sigma_c^2}, \qquad o_i = \sum_c v_{ic} D_c, \qquad
   v_{ic} \leftarrow v_{ic} + \eta\, (\zeta_i - o_i)\, D_c .

Its resource is the squared error :math:`\lVert \zeta - o \rVert^2`, so cells are added where the network errs
(fritzke1994growing).
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import numba
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from lib.self_organization.shared import cells, inputs
from lib.self_organization.shared.estimator import GraphEstimator, check_snapshots
from lib.self_organization.shared.graphs import UnitGraph, stops

TINY = np.finfo(float).tiny
MOST = 10  # largest dimension: a simplex has 2^(k + 1) faces, and all of them are looked at


class GrowingCellStructures(GraphEstimator):
    """Learn a mesh of simplices that is denser where there are more samples (fritzke1994growing).

    max_units: the largest number of cells, dimension + 1 or more; more cells than samples are accepted.
    dimension: k, of the simplices, 1 to 10: 1 for a chain, 2 for a mesh of triangles.
    steps: number of samples that ``fit`` draws, at most; 1 or more.
    insert_every: lambda, the samples between two new cells, 1 or more.
    winner_rate: epsilon_b, the step size of the nearest cell, above 0, at most 1.
    neighbor_rate: epsilon_n, that of its neighbors, 0 to 1.
    resource: "signals": the nearest cell counts each sample; "error": its squared distance.
    decay: alpha, the share of all resources that is lost after each sample, 0 to 1. With the usual 0.05 a cell
        remembers about twenty samples; with removal, a mesh of more than twenty cells needs a smaller decay.
    insertion: where cells are added: "resource": at the cell with the largest; "random": at a random one, a baseline.
    exponent: n; receptive fields count as the mean edge length to this power, above 0; None: the number of features.
    removal: each time an insertion is due, remove the cells where samples are less dense than this, as a multiple of
        the density over all cells (usual: 0.09), above 0; at most a twentieth of the cells at a time, never the last
        simplex. None: no cell is removed, and a mesh of triangles stays a disk.
    target: once the mean distance of the last ``insert_every`` samples to their nearest cells is this or less, no cell
        is added, and ``fit`` ends; 0 or more, in units of X. None: growth ends at ``max_units``.
    snapshots: steps at which to keep the graph in ``snapshots_``; 0 is before the first sample. No graph is kept after
        ``fit`` has met the target.
    random_state: seed of the first simplex, the order of samples and random insertion, a whole number, 0 or more.

    The first simplex is placed on random samples. No cell is added while no cell has a resource, or next to a cell
    whose edges have no length. Attributes after fitting: those of
    :class:`lib.self_organization.shared.estimator.GraphEstimator`, and ``resources_``, (units,) tau of each cell.
    Methods raise ValueError for parameters and samples that are not accepted, before anything is changed.

    >>> mesh = GrowingCellStructures(20, steps=4000).fit(np.random.default_rng(0).random((500, 2)))
    >>> len(mesh.positions_), mesh.graph_.components, mesh.graph_.euler_characteristic()  # a disk
    (20, 1, 1)
    """

    resources_: np.ndarray

    def __init__(
        self,
        max_units: int = 100,
        *,
        dimension: int = 2,
        steps: int = 40_000,
        insert_every: int = 200,
        winner_rate: float = 0.06,
        neighbor_rate: float = 0.002,
        resource: str = "signals",
        decay: float = 0.05,
        insertion: str = "resource",
        exponent: float | None = None,
        removal: float | None = None,
        target: float | None = None,
        snapshots: tuple[int, ...] = (),
        random_state: int = 0,
    ) -> None:
        self.max_units = max_units
        self.dimension = dimension
        self.steps = steps
        self.insert_every = insert_every
        self.winner_rate = winner_rate
        self.neighbor_rate = neighbor_rate
        self.resource = resource
        self.decay = decay
        self.insertion = insertion
        self.exponent = exponent
        self.removal = removal
        self.target = target
        self.snapshots = snapshots
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present samples, drawn with replacement, to a new mesh: ``steps`` of them, or until the target is met.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the mesh itself.
        """
        self._check()
        check_snapshots(self.snapshots, last=self.steps)
        random = inputs.generator(self.random_state)
        samples = inputs.samples(self, X, reset=True)
        self._start(samples, random)
        self._learn(samples, self._random.integers(len(samples), size=self.steps), ends=True)
        return self

    def partial_fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present each sample once, in the order given, and continue growth. The first call makes a new mesh.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the mesh itself.
        """
        self._check()
        check_snapshots(self.snapshots, last=None)
        random = inputs.generator(self.random_state)
        if hasattr(self, "graph_"):
            _check_dimension(self)
            samples = inputs.samples(self, X, reset=False, dtype=self.positions_.dtype)
        else:
            samples = inputs.samples(self, X, reset=True)
            self._start(samples, random)
        self._learn(samples, np.arange(len(samples)), ends=False)
        return self

    def _check(self) -> None:
        _check_growth(self)
        for name in ("steps", "insert_every"):
            inputs.check_count(name, getattr(self, name))
        inputs.check_choice("resource", self.resource, ["signals", "error"])
        inputs.check_number("decay", self.decay, least=0, most=1)
        if self.removal is not None:
            inputs.check_number("removal", self.removal, above=0)
        if self.target is not None:
            inputs.check_number("target", self.target, least=0)

    def _start(self, samples: np.ndarray, random: np.random.Generator) -> None:
        self.graph_ = _first_graph(samples, self.dimension, random)
        self.snapshots_ = [self.graph_] if 0 in self.snapshots else []
        self.resources_ = np.zeros(self.dimension + 1)
        self.n_iter_ = 0
        self._random = random
        self._distance = 0.0  # sum of the distances since growth was last due
        self._dimension = self.dimension

    def _learn(self, samples: np.ndarray, order: np.ndarray, *, ends: bool) -> None:
        """Present samples in order. ``ends``: stop when the target is met."""
        positions, adjacency, resources = self.positions_.copy(), self.graph_.adjacency, self.resources_.copy()
        exponent = samples.shape[1] if self.exponent is None else self.exponent
        begin, step, met = self.n_iter_, self.n_iter_, False
        rates = (self.winner_rate, self.neighbor_rate, self.decay, self.resource == "signals")
        for stop in stops(begin, begin + len(order), at=tuple(self.snapshots), every=self.insert_every):
            begins, neighbors, _ = cells.neighbors_in_a_row(adjacency)
            now, step = order[step - begin : stop - begin], stop
            self._distance += _present(positions, resources, begins, neighbors, samples, now, *rates)
            if stop % self.insert_every == 0:
                met = self.target is not None and self._distance <= self.target * self.insert_every
                self._distance = 0.0
                q = _where(resources, self.insertion, self._random)
                if not met and len(positions) < self.max_units and cells.can_grow(positions, adjacency, resources, q):
                    positions, adjacency, (resources,) = cells.grow(
                        positions, adjacency, q, self.dimension, exponent, [resources]
                    )
                if self.removal is not None:
                    stays, adjacency = cells.thin(
                        positions, adjacency, resources, self.dimension, exponent, self.removal
                    )
                    positions, resources = positions[stays], resources[stays]
            if stop in self.snapshots:
                self.snapshots_.append(UnitGraph.from_adjacency(stop, positions, adjacency))
            if met and ends:
                break
        self.n_iter_, self.resources_ = step, resources
        self.graph_ = UnitGraph.from_adjacency(step, positions, adjacency)


class GrowingCellClassifier(ClassifierMixin, GraphEstimator):
    """Classify with radial basis functions that are added where the network errs (fritzke1994growing).

    In each epoch all samples are presented once in random order; then one cell is added. The output weights are
    redistributed like resources. The paper also removes cells; this classifier does not.

    max_units: the largest number of cells, dimension + 1 or more; more cells than samples are accepted.
    dimension: k, of the simplices, 1 to 10.
    epochs: the most epochs of ``fit``, 1 or more. Each epoch but the last adds one cell.
    winner_rate: epsilon_b, the step size of the nearest cell, above 0, at most 1.
    neighbor_rate: epsilon_n, that of its neighbors, 0 to 1.
    learning_rate: eta, the step size of the output weights, above 0, at most 1.
    decay: the share of all resources that is lost after each epoch, 0 to 1; 1: only the last epoch's errors count.
    insertion: where cells are added: "error": at the cell with the largest resource; "random": at a random one, a
        baseline.
    exponent: n; receptive fields count as the mean edge length to this power, above 0; None: the number of features.
    target: when at most this share of the samples is misclassified after an epoch, no cell is added, and ``fit`` ends;
        0 to 1. None: growth ends at ``max_units``.
    snapshots: epochs after which to keep the graph in ``snapshots_``; 0 is before the first sample. No graph is kept
        after ``fit`` has met the target.
    random_state: seed of the first simplex, the order of samples and random insertion, a whole number, 0 or more.

    Attributes after fitting: those of :class:`lib.self_organization.shared.estimator.GraphEstimator`, with epochs as
    steps; ``classes_``; ``output_weights_``, (units, classes); ``resources_``, (units,).
    Methods raise ValueError for parameters, samples and labels that are not accepted, before anything is changed.

    >>> X = np.random.default_rng(0).random((200, 2))
    >>> inside = ((X - 0.5) ** 2).sum(1) < 0.1
    >>> GrowingCellClassifier(30, epochs=40).fit(X, inside).score(X, inside) > 0.95
    True
    """

    classes_: np.ndarray
    output_weights_: np.ndarray
    resources_: np.ndarray

    def __init__(
        self,
        max_units: int = 120,
        *,
        dimension: int = 2,
        epochs: int = 120,
        winner_rate: float = 0.06,
        neighbor_rate: float = 0.002,
        learning_rate: float = 0.1,
        decay: float = 1.0,
        insertion: str = "error",
        exponent: float | None = None,
        target: float | None = None,
        snapshots: tuple[int, ...] = (),
        random_state: int = 0,
    ) -> None:
        self.max_units = max_units
        self.dimension = dimension
        self.epochs = epochs
        self.winner_rate = winner_rate
        self.neighbor_rate = neighbor_rate
        self.learning_rate = learning_rate
        self.decay = decay
        self.insertion = insertion
        self.exponent = exponent
        self.target = target
        self.snapshots = snapshots
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train a new network.

        X: (n, features) finite numbers, one sample or more.
        y: (n,) classes: numbers, words or bools.

        Returns the classifier itself. Raises ValueError also where the output weights diverge.
        """
        self._check()
        check_snapshots(self.snapshots, last=self.epochs)
        random = inputs.generator(self.random_state)
        labels = _labels(self, X, y)
        samples = inputs.samples(self, X, reset=True)
        classes, targets = np.unique(labels, return_inverse=True)
        self._learn(self._first(samples, classes, random), samples, targets, self.epochs, ends=True)
        return self

    def partial_fit(self, X: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None) -> Self:
        """Train one epoch, and add a cell. The first call makes a new network.

        X: (n, features) finite numbers, one sample or more.
        y: (n,) classes.
        classes: all classes that will ever occur, for the first call; None: those in y.

        Returns the classifier itself. Raises ValueError also for a class that the first call did not announce, and
        where the output weights diverge.
        """
        self._check()
        check_snapshots(self.snapshots, last=None)
        random = inputs.generator(self.random_state)
        labels = _labels(self, X, y)
        begins = not hasattr(self, "graph_")
        if not begins:
            _check_dimension(self)
        known = self.classes_ if not begins else np.unique(labels if classes is None else classes)
        strange = np.setdiff1d(labels, known)
        if len(strange):
            raise ValueError(f"y has the class {strange.tolist()[0]!r}; the known classes are {known.tolist()}")
        if begins:
            samples = inputs.samples(self, X, reset=True)
            network = self._first(samples, known, random)
        else:
            samples = inputs.samples(self, X, reset=False, dtype=self.positions_.dtype)
            state = (self.classes_, self.graph_, self.output_weights_, self.resources_, self.n_iter_, self.snapshots_)
            network = _Network(*state, self._random)
        self._learn(network, samples, np.searchsorted(known, labels), 1, ends=False)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class with the largest output for each sample.

        X: (n, features) finite numbers.

        Returns (n,) classes. Raises ValueError for other samples.
        """
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(1)]

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the outputs o of each sample: near 1 for its class and near 0 for others, but not probabilities.

        X: (n, features) finite numbers.

        Returns (n, classes); for two classes (n,), the second output minus the first. Raises ValueError for other
        samples.
        """
        outputs = self._outputs(X)
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the radial basis functions D of each sample.

        X: (n, features) finite numbers.

        Returns (n, units) of the type of X, in [0, 1]. Raises ValueError for other samples.
        """
        check_is_fitted(self)
        return _activations(inputs.samples(self, X, reset=False), self.positions_, self.graph_.adjacency)

    def _first(self, samples: np.ndarray, classes: np.ndarray, random: np.random.Generator) -> "_Network":
        graph = _first_graph(samples, self.dimension, random)
        weights = np.zeros((self.dimension + 1, len(classes)), dtype=samples.dtype)
        kept = [graph] if 0 in self.snapshots else []
        return _Network(classes, graph, weights, np.zeros(self.dimension + 1), 0, kept, random)

    def _outputs(self, X: np.ndarray) -> np.ndarray:
        return self.transform(X) @ self.output_weights_

    def _check(self) -> None:
        _check_growth(self)
        inputs.check_count("epochs", self.epochs)
        inputs.check_number("learning_rate", self.learning_rate, above=0, most=1)
        inputs.check_number("decay", self.decay, least=0, most=1)
        if self.target is not None:
            inputs.check_number("target", self.target, least=0, most=1)

    def _learn(self, network: "_Network", samples: np.ndarray, targets: np.ndarray, epochs: int, *, ends: bool) -> None:
        """Train and grow a network, and keep it. ``ends``: stop when the target is met."""
        exponent = samples.shape[1] if self.exponent is None else self.exponent
        rates = (self.winner_rate, self.neighbor_rate, self.learning_rate)
        step, last, graph, snapshots = network.step, network.step + epochs, network.graph, list(network.snapshots)
        positions, adjacency = graph.positions.copy(), graph.adjacency
        weights, resources, random = network.weights.copy(), network.resources.copy(), deepcopy(network.random)
        met = False
        while step < last and not (met and ends):
            order, edges = random.permutation(len(samples)), cells.neighbors_in_a_row(adjacency)
            present_labels(positions, weights, resources, *edges, samples, targets, order, *rates)
            if not (np.isfinite(weights).all() and np.isfinite(resources).all()):
                rate = self.learning_rate
                raise ValueError(f"the output weights diverge with learning_rate {rate}; it must be smaller")
            if self.target is not None:
                answers = (_activations(samples, positions, adjacency) @ weights).argmax(1)
                met = bool(np.mean(answers != targets) <= self.target)
            step += 1
            q = _where(resources, self.insertion, random)
            due = not met and len(positions) < self.max_units and not (ends and step == last)
            if due and cells.can_grow(positions, adjacency, resources, q):
                positions, adjacency, (resources, weights) = cells.grow(
                    positions, adjacency, q, self.dimension, exponent, [resources, weights]
                )
            resources = resources * (1 - self.decay)
            graph = UnitGraph.from_adjacency(step, positions, adjacency)
            if step in self.snapshots:
                snapshots.append(graph)
        self.classes_, self.graph_, self.output_weights_, self.resources_ = network.classes, graph, weights, resources
        self.snapshots_, self.n_iter_, self._random, self._dimension = snapshots, step, random, self.dimension


@dataclass(frozen=True)
class _Network:
    """The state of a classifier before an epoch; it is replaced only if the epoch succeeds."""

    classes: np.ndarray
    graph: UnitGraph
    weights: np.ndarray
    resources: np.ndarray
    step: int
    snapshots: list[UnitGraph]
    random: np.random.Generator


def _check_growth(estimator: Any) -> None:
    """Check the parameters that both estimators have."""
    dimension = inputs.check_count("dimension", estimator.dimension)
    if dimension > MOST:
        raise ValueError(f"dimension is {dimension}; it must be at most {MOST}")
    inputs.check_count("max_units", estimator.max_units, least=dimension + 1)
    inputs.check_number("winner_rate", estimator.winner_rate, above=0, most=1)
    inputs.check_number("neighbor_rate", estimator.neighbor_rate, least=0, most=1)
    driven = "error" if isinstance(estimator, GrowingCellClassifier) else "resource"
    inputs.check_choice("insertion", estimator.insertion, [driven, "random"])
    if estimator.exponent is not None:
        inputs.check_number("exponent", estimator.exponent, above=0)


def _check_dimension(estimator: Any) -> None:
    if estimator.dimension != estimator._dimension:
        raise ValueError(
            f"dimension is {estimator.dimension}, but the cells have {estimator._dimension}; call fit for another one"
        )


def _labels(estimator: Any, X: Any, y: Any) -> np.ndarray:
    """Return the labels as an array of one dimension, or refuse them."""
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
    check_classification_targets(labels)
    check_consistent_length(X, labels)
    return labels


def _first_graph(samples: np.ndarray, dimension: int, random: np.random.Generator) -> UnitGraph:
    positions = samples[np.resize(random.permutation(len(samples)), dimension + 1)]
    return UnitGraph.from_adjacency(0, positions, cells.first_simplex(dimension))


def _activations(samples: np.ndarray, positions: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """D of each sample and cell, (n, cells) of the type of the samples."""
    widths = cells.mean_edge_lengths(positions, adjacency)
    with np.errstate(over="ignore"):  # a cell without a width responds only at its own place
        squares = cdist(samples, positions, "sqeuclidean") / np.maximum(widths**2, TINY)
    return np.exp(-squares).astype(samples.dtype, copy=False)


def _where(resources: np.ndarray, insertion: str, random: np.random.Generator) -> int:
    """The cell next to which the new one is added."""
    return int(random.integers(len(resources)) if insertion == "random" else resources.argmax())


@numba.njit(cache=True)
def _nearest(positions: np.ndarray, x: np.ndarray, distances: np.ndarray) -> int:
    """Write the squared distances to all cells, and return the nearest one."""
    s = 0
    for c in range(len(positions)):
        distances[c] = 0.0
        for j in range(len(x)):
            distances[c] += (np.float64(x[j]) - np.float64(positions[c, j])) ** 2
        if distances[c] < distances[s]:
            s = c
    return s


@numba.njit(cache=True)
def _move(w: np.ndarray, x: np.ndarray, rate: float) -> None:
    for j in range(len(x)):
        w[j] += rate * (x[j] - w[j])


@numba.njit(cache=True)
def _present(
    positions: np.ndarray,
    resources: np.ndarray,
    begins: np.ndarray,
    neighbors: np.ndarray,
    samples: np.ndarray,
    order: np.ndarray,
    winner_rate: float,
    neighbor_rate: float,
    decay: float,
    counts: bool,
) -> float:
    """Present samples in order; positions and resources are changed in place. Returns the sum of the distances."""
    distances = np.empty(len(positions))
    total = 0.0
    # method
    for t in range(len(order)):
        x = samples[order[t]]
        s = _nearest(positions, x, distances)
        total += np.sqrt(distances[s])
        _move(positions[s], x, winner_rate)  # w_s += epsilon_b (x - w_s)
        for n in neighbors[begins[s] : begins[s + 1]]:
            _move(positions[n], x, neighbor_rate)  # w_n += epsilon_n (x - w_n)
        resources[s] += 1.0 if counts else distances[s]
        resources *= 1 - decay
    # end of method
    return total


@numba.njit(cache=True)
def _measure(
    c: int,
    positions: np.ndarray,
    begins: np.ndarray,
    neighbors: np.ndarray,
    mirror: np.ndarray,
    lengths: np.ndarray,
    widths: np.ndarray,
) -> None:
    """Measure the edges of a cell again, and correct the mean lengths at their two ends."""
    for e in range(begins[c], begins[c + 1]):
        n = neighbors[e]
        squared = 0.0
        for j in range(positions.shape[1]):
            squared += (np.float64(positions[c, j]) - np.float64(positions[n, j])) ** 2
        change = np.sqrt(squared) - lengths[e]
        lengths[e] += change
        lengths[mirror[e]] = lengths[e]
        widths[c] += change / (begins[c + 1] - begins[c])
        widths[n] += change / (begins[n + 1] - begins[n])


@numba.njit(cache=True)
def present_labels(
    positions: np.ndarray,
    weights: np.ndarray,
    resources: np.ndarray,
    begins: np.ndarray,
    neighbors: np.ndarray,
    mirror: np.ndarray,
    samples: np.ndarray,
    targets: np.ndarray,
    order: np.ndarray,
    winner_rate: float,
    neighbor_rate: float,
    learning_rate: float,
) -> None:
    """Present samples with their classes in order; positions, output weights and resources are changed in place."""
    units, outputs = weights.shape
    distances, D, o = np.empty(units), np.empty(units), np.empty(outputs)
    lengths, widths = np.zeros(len(neighbors)), np.zeros(units)
    for c in range(units):
        _measure(c, positions, begins, neighbors, mirror, lengths, widths)
    # method
    for t in range(len(order)):
        x, label = samples[order[t]], targets[order[t]]
        s = _nearest(positions, x, distances)
        # D_c = exp(-|x - w_c|^2 / sigma_c^2), o_i = sum_c v_ic D_c
        o[:] = 0
        for c in range(units):
            D[c] = np.exp(-distances[c] / max(widths[c] ** 2, TINY))
            for i in range(outputs):
                o[i] += weights[c, i] * D[c]
        for i in range(outputs):
            o[i] = (1.0 if i == label else 0.0) - o[i]  # from here on zeta_i - o_i
            resources[s] += o[i] ** 2
        # v_ic += eta (zeta_i - o_i) D_c
        for c in range(units):
            for i in range(outputs):
                weights[c, i] += learning_rate * o[i] * D[c]
        # w_s += epsilon_b (x - w_s), w_n += epsilon_n (x - w_n), and sigma of all cells
        # whose edges have changed their length
        around = neighbors[begins[s] : begins[s + 1]]
        _move(positions[s], x, winner_rate)
        for n in around:
            _move(positions[n], x, neighbor_rate)
        _measure(s, positions, begins, neighbors, mirror, lengths, widths)
        for n in around:
            _measure(n, positions, begins, neighbors, mirror, lengths, widths)
    # end of method
