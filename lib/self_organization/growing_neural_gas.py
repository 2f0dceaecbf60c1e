r"""Growing neural gas: a graph that adds a unit where its error is largest, until it is good enough.

For each sample x with its nearest units :math:`s_1, s_2`, all edges of :math:`s_1` get older, and

.. math::
   E_{s_1} \leftarrow E_{s_1} + \lVert x - w_{s_1} \rVert^2, \qquad
   w_{s_1} \leftarrow w_{s_1} + \epsilon_b (x - w_{s_1}), \qquad
   w_n \leftarrow w_n + \epsilon_n (x - w_n)

for the neighbors n of :math:`s_1`: each moves by its own vector. The edge between :math:`s_1` and :math:`s_2` is made,
or gets the age 0 again; edges that are too old are removed, and so are units left without an edge. After every
:math:`\lambda` samples a unit r is put halfway between the unit q with the largest error and its neighbor f with the
largest error; the edges q-r and r-f replace q-f, :math:`E_q` and :math:`E_f` are multiplied by :math:`\alpha`, and
:math:`E_r = E_q`. All errors decay by the factor d at each sample (fritzke1995growing).

Unlike in the neural gas, no rate changes with time: learning can go on as long as samples come.
"""

from typing import Self

import numba
import numpy as np

from lib.self_organization.shared import inputs
from lib.self_organization.shared.estimator import GraphEstimator, check_snapshots
from lib.self_organization.shared.graphs import UnitGraph, stops


class GrowingNeuralGas(GraphEstimator):
    """Learn a graph of units that has the shape of the data (fritzke1995growing). The defaults are the paper's.

    max_units: the largest number of units, 2 or more; more units than samples are accepted.
    steps: number of samples that ``fit`` draws, at most; 1 or more.
    insert_every: lambda, the samples between two new units, 1 or more.
    winner_rate: epsilon_b, the step size of the nearest unit, above 0, at most 1.
    neighbor_rate: epsilon_n, that of its neighbors, 0 to 1.
    max_age: age that an edge may reach: wins of its units in which it was not used, 1 or more.
    insertion_factor: alpha, what is left of the errors of q and f after an insertion, 0 to 1.
    decay: d, what is left of all errors after each sample, 0 to 1.
    target: once the mean distance of the last ``insert_every`` samples to their nearest units is this or less, no unit
        is added, and ``fit`` ends; 0 or more, in units of X. None: growth ends at ``max_units``.
    snapshots: steps at which to keep the graph in ``snapshots_``; 0 is before the first sample. No graph is kept after
        ``fit`` has met the target.
    random_state: seed of the first two units and of the order of samples, a whole number, 0 or more.

    The gas begins with two units on random samples. While no unit has an error, none is added: the paper does not say
    so, but its rule would pile up units at one place. Units keep the order in which they were added. Attributes after
    fitting: those of :class:`lib.self_organization.shared.estimator.GraphEstimator`, and ``errors_``, (units,) E of
    each unit.
    Memory grows with the square of the number of units.
    Methods raise ValueError for parameters and samples that are not accepted, before anything is changed.

    >>> angles = np.linspace(0, 2 * np.pi, 500)
    >>> gas = GrowingNeuralGas(12, steps=5000).fit(np.column_stack([np.cos(angles), np.sin(angles)]))
    >>> len(gas.graph_.edges), gas.graph_.components, gas.graph_.euler_characteristic()  # a ring
    (12, 1, 0)
    """

    errors_: np.ndarray

    def __init__(
        self,
        max_units: int = 100,
        *,
        steps: int = 40_000,
        insert_every: int = 100,
        winner_rate: float = 0.2,
        neighbor_rate: float = 0.006,
        max_age: int = 50,
        insertion_factor: float = 0.5,
        decay: float = 0.995,
        target: float | None = None,
        snapshots: tuple[int, ...] = (),
        random_state: int = 0,
    ) -> None:
        self.max_units = max_units
        self.steps = steps
        self.insert_every = insert_every
        self.winner_rate = winner_rate
        self.neighbor_rate = neighbor_rate
        self.max_age = max_age
        self.insertion_factor = insertion_factor
        self.decay = decay
        self.target = target
        self.snapshots = snapshots
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present samples, drawn with replacement, to a new gas: ``steps`` of them, or until the target is met.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the gas itself.
        """
        self._check()
        check_snapshots(self.snapshots, last=self.steps)
        random = inputs.generator(self.random_state)
        samples = inputs.samples(self, X, reset=True)
        self._start(samples, random)
        self._learn(samples, random.integers(len(samples), size=self.steps), ends=True)
        return self

    def partial_fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present each sample once, in the order given, and continue growth. The first call makes a new gas.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the gas itself.
        """
        self._check()
        check_snapshots(self.snapshots, last=None)
        random = inputs.generator(self.random_state)
        if hasattr(self, "graph_"):
            samples = inputs.samples(self, X, reset=False, dtype=self.positions_.dtype)
        else:
            samples = inputs.samples(self, X, reset=True)
            self._start(samples, random)
        self._learn(samples, np.arange(len(samples)), ends=False)
        return self

    def _check(self) -> None:
        inputs.check_count("max_units", self.max_units, least=2)
        for name in ("steps", "insert_every", "max_age"):
            inputs.check_count(name, getattr(self, name))
        inputs.check_number("winner_rate", self.winner_rate, above=0, most=1)
        for name in ("neighbor_rate", "insertion_factor", "decay"):
            inputs.check_number(name, getattr(self, name), least=0, most=1)
        if self.target is not None:
            inputs.check_number("target", self.target, least=0)

    def _start(self, samples: np.ndarray, random: np.random.Generator) -> None:
        positions = samples[np.resize(random.permutation(len(samples)), 2)]
        self.graph_ = UnitGraph.from_ages(0, positions, np.full((2, 2), -1))
        self.snapshots_ = [self.graph_] if 0 in self.snapshots else []
        self.errors_ = np.zeros(2)
        self.n_iter_ = 0
        self._distance = 0.0  # sum of the distances since growth was last due

    def _learn(self, samples: np.ndarray, order: np.ndarray, *, ends: bool) -> None:
        """Present samples in order. ``ends``: stop when the target is met."""
        positions, errors, ages = self.positions_.copy(), self.errors_.copy(), self.graph_.age_table()
        begin, step = self.n_iter_, self.n_iter_
        rates = (self.winner_rate, self.neighbor_rate, self.decay)
        for stop in stops(begin, begin + len(order), at=tuple(self.snapshots), every=self.insert_every):
            while step < stop:
                rest = order[step - begin : stop - begin]
                done, distance = _present(positions, errors, ages, samples, rest, *rates, self.max_age)
                step, self._distance = step + done, self._distance + distance
                kept = (ages >= 0).any(1)  # units without an edge are removed
                positions, errors, ages = positions[kept], errors[kept], ages[kept][:, kept]
            met = False
            if stop % self.insert_every == 0:
                met = self.target is not None and self._distance <= self.target * self.insert_every
                self._distance = 0.0
                if not met and len(positions) < self.max_units and errors.max() > 0:
                    positions, errors, ages = insert(positions, errors, ages, self.insertion_factor)
            if stop in self.snapshots:
                self.snapshots_.append(UnitGraph.from_ages(stop, positions, ages))
            if met and ends:
                break
        self.n_iter_, self.errors_, self.graph_ = step, errors, UnitGraph.from_ages(step, positions, ages)


def insert(
    positions: np.ndarray, errors: np.ndarray, ages: np.ndarray, insertion_factor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put a unit r halfway between the unit q with the largest error and its neighbor f with the largest error.

    positions: (units, features).
    errors: (units,), 0 or more.
    ages: (units, units), -1 where there is no edge; q must have one.
    insertion_factor: alpha.

    Returns positions, errors and ages with one more unit, the last; the given arrays are left as they were.
    """
    # method
    q = int(errors.argmax())
    neighbors = np.flatnonzero(ages[q] >= 0)
    f = neighbors[errors[neighbors].argmax()]
    positions = np.vstack([positions, (positions[q] + positions[f]) / 2])  # w_r = (w_q + w_f) / 2
    ages, r = np.pad(ages, (0, 1), constant_values=-1), len(ages)
    ages[q, f] = ages[f, q] = -1
    ages[q, r] = ages[r, q] = ages[f, r] = ages[r, f] = 0
    errors = np.append(errors, 0)
    errors[[q, f]] *= insertion_factor
    errors[r] = errors[q]
    # end of method
    return positions, errors, ages


@numba.njit(cache=True)
def _present(
    positions: np.ndarray,
    errors: np.ndarray,
    ages: np.ndarray,
    samples: np.ndarray,
    order: np.ndarray,
    winner_rate: float,
    neighbor_rate: float,
    decay: float,
    max_age: int,
) -> tuple[int, float]:
    """Present samples in order until the end, or until a unit has lost its last edge.

    Positions, errors and ages are changed in place. Returns the number of samples that were presented, and the sum of
    their distances to the nearest unit.
    """
    units, features = positions.shape
    total = 0.0
    # method
    for t in range(len(order)):
        x = samples[order[t]]
        least, second_least, first, second = np.inf, np.inf, 0, 0
        for i in range(units):
            distance = 0.0
            for j in range(features):
                distance += (np.float64(x[j]) - np.float64(positions[i, j])) ** 2
            if distance < least:
                second_least, second, least, first = least, first, distance, i
            elif distance < second_least:
                second_least, second = distance, i
        total += np.sqrt(least)
        for i in range(units):
            errors[i] *= decay  # the paper's last step, here before the next sample: no comparison changes
        errors[first] += least
        alone = False
        for i in range(units):
            if i == first or ages[first, i] >= 0:
                rate = winner_rate if i == first else neighbor_rate
                for j in range(features):
                    positions[i, j] += rate * (x[j] - positions[i, j])
            if ages[first, i] >= 0 and i != second:
                ages[first, i] += 1
                if ages[first, i] > max_age:
                    ages[first, i] = -1
                    alone = alone or (ages[i] >= 0).sum() == 1  # the edge to the winner was its last
                ages[i, first] = ages[first, i]
        ages[first, second] = ages[second, first] = 0
        if alone:
            return t + 1, total
    # end of method
    return len(order), total
