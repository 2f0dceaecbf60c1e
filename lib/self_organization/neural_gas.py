r"""Neural gas: units without a grid that spread over the samples, and edges between units nearest to one sample.

For each sample x the units are ranked by distance, :math:`k_i = 0` for the nearest, and all of them move,

.. math:: w_i \leftarrow w_i + \epsilon(t)\, e^{-k_i / \lambda(t)} (x - w_i)

(martinetz1991neural; martinetz1993neural, equation 7). Which units move together depends on the samples alone: unlike a
self-organizing map, a gas takes any shape. *Competitive Hebbian learning* then shows that shape: each sample connects
its two nearest units. Where units are dense enough, these edges are the neighborhoods of the data
(martinetz1994topology). An edge gets older when one of its units wins without using it; past its lifetime T(t) it is
removed.

Each of :math:`\epsilon, \lambda, T` changes as :math:`g(t) = g_i (g_f / g_i)^{t / t_{max}}`, so the number of steps
must be known beforehand.
"""

from typing import Final, Self, TypedDict

import numba
import numpy as np

from lib.self_organization.shared import inputs, schedules
from lib.self_organization.shared.estimator import GraphEstimator, check_snapshots
from lib.self_organization.shared.graphs import UnitGraph, stops


class Schedules(TypedDict):
    """First and last value of each schedule, as in ``NeuralGas(**DEMO)``."""

    learning_rate: tuple[float, float]
    neighborhood: tuple[float, float]
    lifetime: tuple[float, float]


# The values of the papers, for 40,000 steps (martinetz1991neural).
PAPER: Final[Schedules] = {"learning_rate": (0.5, 0.005), "neighborhood": (10.0, 0.01), "lifetime": (20.0, 200.0)}
# The values of DemoGNG, the well-known program by Loos and Fritzke; also for 40,000 steps.
DEMO: Final[Schedules] = {"learning_rate": (0.3, 0.05), "neighborhood": (30.0, 0.01), "lifetime": (20.0, 200.0)}


class NeuralGas(GraphEstimator):
    """Spread a fixed number of units over the samples, and connect neighbors (martinetz1991neural).

    units: number of units, 2 or more; more units than samples are accepted.
    steps: t_max, the number of samples that ``fit`` draws, 1 or more.
    learning_rate: epsilon at the first and the last step, above 0, at most 1; it must not rise.
    neighborhood: lambda, in ranks, at the first and the last step, above 0; it must not rise.
    lifetime: T of an edge, in wins of its units, at the first and the last step, 1 or more; it must not fall. The
        defaults of all three are those of the papers, ``PAPER``; ``DEMO`` has those of DemoGNG.
    snapshots: steps at which to keep the graph in ``snapshots_``; 0 is before the first sample.
    random_state: seed of the first positions and of the order of samples, a whole number, 0 or more.

    Units begin on random samples. Attributes after fitting: those of
    :class:`lib.self_organization.shared.estimator.GraphEstimator`.
    Memory grows with the square of the number of units.
    Methods raise ValueError for parameters and samples that are not accepted, before anything is changed.

    >>> angles = np.linspace(0, 2 * np.pi, 500)
    >>> gas = NeuralGas(12, steps=5000).fit(np.column_stack([np.cos(angles), np.sin(angles)]))
    >>> gas.graph_.degrees.tolist()  # each unit has two neighbors on the ring
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """

    def __init__(
        self,
        units: int = 50,
        *,
        steps: int = 40_000,
        learning_rate: tuple[float, float] = PAPER["learning_rate"],
        neighborhood: tuple[float, float] = PAPER["neighborhood"],
        lifetime: tuple[float, float] = PAPER["lifetime"],
        snapshots: tuple[int, ...] = (),
        random_state: int = 0,
    ) -> None:
        self.units = units
        self.steps = steps
        self.learning_rate = learning_rate
        self.neighborhood = neighborhood
        self.lifetime = lifetime
        self.snapshots = snapshots
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present t_max samples, drawn with replacement, to a new gas.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the gas itself.
        """
        self._check()
        check_snapshots(self.snapshots, last=self.steps)
        random = inputs.generator(self.random_state)
        samples = inputs.samples(self, X, reset=True)
        self._start(samples, random)
        self._learn(samples, random.integers(len(samples), size=self.steps))
        return self

    def partial_fit(self, X: np.ndarray, y: None = None) -> Self:
        """Present each sample once, in the order given; the schedules continue where the last call ended.

        After t_max steps the schedules keep their last values. The first call makes a new gas.

        X: (n, features) finite numbers, one sample or more.
        y: not used.

        Returns the gas itself.
        """
        self._check()
        check_snapshots(self.snapshots, last=None)
        random = inputs.generator(self.random_state)
        if not hasattr(self, "graph_"):
            samples = inputs.samples(self, X, reset=True)
            self._start(samples, random)
        elif len(self.positions_) != self.units:
            raise ValueError(
                f"units is {self.units}, but the gas has {len(self.positions_)}; call fit for another number"
            )
        else:
            samples = inputs.samples(self, X, reset=False, dtype=self.positions_.dtype)
        self._learn(samples, np.arange(len(samples)))
        return self

    def _check(self) -> None:
        inputs.check_count("units", self.units, least=2)
        inputs.check_count("steps", self.steps)
        for name, most in (("learning_rate", 1), ("neighborhood", None), ("lifetime", None)):
            pair = getattr(self, name)
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"{name} is {pair!r}; it must be two numbers, for the first and the last step")
            for i, value in enumerate(pair):
                inputs.check_number(f"{name}[{i}]", value, above=0, most=most)
        schedules.check_falling("learning_rate", *self.learning_rate)
        schedules.check_falling("neighborhood", *self.neighborhood)
        first, last = self.lifetime
        if not 1 <= first <= last:  # with a falling lifetime, edges away from the winner would outlive it
            raise ValueError(f"lifetime goes from {first} to {last}; it must begin at 1 or more and must not fall")

    def _start(self, samples: np.ndarray, random: np.random.Generator) -> None:
        positions = samples[np.resize(random.permutation(len(samples)), self.units)]
        self.graph_ = UnitGraph.from_ages(0, positions, np.full((self.units, self.units), -1))
        self.snapshots_ = [self.graph_] if 0 in self.snapshots else []
        self.n_iter_ = 0

    def _learn(self, samples: np.ndarray, order: np.ndarray) -> None:
        begin, end = self.n_iter_, self.n_iter_ + len(order)
        t = np.arange(begin, end)
        rates, ranges, lifetimes = (
            schedules.power(*pair, t, self.steps) for pair in (self.learning_rate, self.neighborhood, self.lifetime)
        )
        positions, ages = self.positions_.copy(), self.graph_.age_table()
        for stop in stops(begin, end, at=tuple(self.snapshots)):
            now = slice(self.n_iter_ - begin, stop - begin)
            present(positions, ages, samples, order[now], rates[now], ranges[now], lifetimes[now])
            self.n_iter_, self.graph_ = stop, UnitGraph.from_ages(stop, positions, ages)
            if stop in self.snapshots:
                self.snapshots_.append(self.graph_)


@numba.njit(cache=True)
def present(
    positions: np.ndarray,
    ages: np.ndarray,
    samples: np.ndarray,
    order: np.ndarray,
    rates: np.ndarray,
    ranges: np.ndarray,
    lifetimes: np.ndarray,
) -> None:
    """Present samples to the units of a gas, and connect the nearest two (martinetz1991neural); compiled.

    positions: (units, features) float32 or float64, changed in place.
    ages: (units, units) of the edges, -1 where there is none, changed in place.
    samples: (n, features) of the type of the positions.
    order: (T,) which sample is presented at each step.
    rates: (T,) epsilon at each step.
    ranges: (T,) lambda at each step.
    lifetimes: (T,) T(t) at each step.
    """
    units, features = positions.shape
    distances = np.empty(units)
    # method
    for t in range(len(order)):
        x = samples[order[t]]
        for i in range(units):
            distances[i] = 0.0
            for j in range(features):
                distances[i] += (np.float64(x[j]) - np.float64(positions[i, j])) ** 2
        # of units at the same distance, the first counts as nearer
        ranking = np.argsort(distances, kind="mergesort")
        # w_i += epsilon exp(-k_i / lambda) (x - w_i)
        for k in range(units):
            pull = rates[t] * np.exp(-k / ranges[t])
            w = positions[ranking[k]]
            for j in range(features):
                w[j] += pull * (x[j] - w[j])
        # connect the nearest two; all edges of the nearest get older,
        # and those past their lifetime are removed
        first, second = ranking[0], ranking[1]
        ages[first, second] = ages[second, first] = 0
        for i in range(units):
            if ages[first, i] >= 0:
                age = ages[first, i] + 1
                ages[first, i] = ages[i, first] = age if age <= lifetimes[t] else -1
    # end of method
