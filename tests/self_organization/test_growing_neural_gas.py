"""The gas against the paper's nine steps in plain Python, against minigng, and on rings whose shape it must find."""

import copy

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.utils.estimator_checks import parametrize_with_checks

from lib.self_organization import growing_neural_gas
from lib.self_organization.growing_neural_gas import GrowingNeuralGas

UNIFORM = np.random.default_rng(0).random((400, 2))


def ring(samples: int, center: float = 0.0) -> np.ndarray:
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, samples)
    return np.column_stack([np.cos(angles) + center, np.sin(angles)])


def shape(graph) -> tuple:
    """Units, edges, components, and the different degrees."""
    return len(graph.positions), len(graph.edges), graph.components, set(graph.degrees.tolist())


class NineSteps:
    """The algorithm as the paper lists it, with dictionaries of units and edges."""

    def __init__(self, a: np.ndarray, b: np.ndarray, gas: GrowingNeuralGas) -> None:
        self.w, self.error, self.age, self.gas = {0: a.copy(), 1: b.copy()}, {0: 0.0, 1: 0.0}, {}, gas
        self.signals, self.removed = 0, 0

    def neighbors(self, unit: int) -> list[int]:
        return sorted(next(iter(edge - {unit})) for edge in self.age if unit in edge)

    def present(self, x: np.ndarray) -> None:
        gas, self.signals = self.gas, self.signals + 1
        s1, s2 = sorted(self.w, key=lambda unit: ((x - self.w[unit]) ** 2).sum())[:2]
        for n in self.neighbors(s1):
            self.age[frozenset((s1, n))] += 1
        self.error[s1] += ((x - self.w[s1]) ** 2).sum()
        self.w[s1] += gas.winner_rate * (x - self.w[s1])
        for n in self.neighbors(s1):
            self.w[n] += gas.neighbor_rate * (x - self.w[n])
        self.age[frozenset((s1, s2))] = 0
        self.age = {edge: age for edge, age in self.age.items() if age <= gas.max_age}
        for unit in [unit for unit in self.w if not self.neighbors(unit)]:
            self.removed += 1
            del self.w[unit], self.error[unit]
        if self.signals % gas.insert_every == 0 and len(self.w) < gas.max_units:
            q = max(self.w, key=lambda unit: self.error[unit])
            f = max(self.neighbors(q), key=lambda unit: self.error[unit])
            r = max(self.w) + 1
            self.w[r] = (self.w[q] + self.w[f]) / 2
            del self.age[frozenset((q, f))]
            self.age[frozenset((q, r))] = self.age[frozenset((r, f))] = 0
            self.error[q] *= gas.insertion_factor
            self.error[f] *= gas.insertion_factor
            self.error[r] = self.error[q]
        for unit in self.error:
            self.error[unit] *= gas.decay


@parametrize_with_checks([GrowingNeuralGas(6, steps=60, insert_every=10)])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("options", "features"),
    [({}, 2), ({"max_age": 4, "insert_every": 15}, 2), ({"neighbor_rate": 0.05, "decay": 0.9, "max_age": 9}, 5)],
)
def test_the_gas_follows_the_nine_steps_of_the_paper(options, features):
    random = np.random.default_rng(2)
    X = np.concatenate([random.normal(size=(700, features)), random.normal(size=(700, features)) + 8])  # it moves
    gas = GrowingNeuralGas(20, snapshots=(0,), **{"insert_every": 40, **options})
    gas.partial_fit(X[:333]).partial_fit(X[333:])
    other = NineSteps(*gas.snapshots_[0].positions, gas)
    for x in X:
        other.present(x)
    assert (other.removed > 0) == (options.get("max_age") == 4)
    names = list(other.w)
    np.testing.assert_allclose(gas.positions_, list(other.w.values()), rtol=0, atol=1e-12)
    ages = {frozenset(names[i] for i in e): a for e, a in zip(gas.graph_.edges.tolist(), gas.graph_.ages, strict=True)}
    assert ages == other.age
    np.testing.assert_allclose(gas.errors_ * gas.decay, list(other.error.values()), rtol=1e-9)


def test_neighbors_move_by_their_own_vectors():
    gas = GrowingNeuralGas(2, winner_rate=0.5, neighbor_rate=0.1, snapshots=(0, 1, 2))
    gas.partial_fit(np.array([[0.0, 0.0], [10.0, 0.0]]))  # the first step only connects the two units
    before = gas.positions_.copy()
    winner, x = int((before**2).sum(1).argmin()), np.array([0.0, 4.0])
    gas.partial_fit(x[None])
    moved = gas.positions_ - before
    np.testing.assert_allclose(moved[winner], 0.5 * (x - before[winner]))
    np.testing.assert_allclose(moved[1 - winner], 0.1 * (x - before[1 - winner]))
    assert not np.allclose(moved[1 - winner], 0.1 * (x - before[winner]))  # the bug of a public package


@pytest.mark.parametrize("seed", range(10))
def test_a_ring_is_found(seed):
    gas = GrowingNeuralGas(30, steps=12_000, random_state=seed).fit(ring(2000))
    assert shape(gas.graph_) == (30, 30, 1, {2}) and gas.graph_.euler_characteristic() == 0


@pytest.mark.parametrize("seed", range(10))
def test_two_rings_are_two_components(seed):
    both = np.concatenate([ring(1000), ring(1000, center=4)])
    gas = GrowingNeuralGas(40, steps=12_000, random_state=seed).fit(both)
    assert shape(gas.graph_) == (40, 40, 2, {2})


def test_a_line_becomes_a_chain():
    line = np.random.default_rng(0).random((1000, 1)) * [3.0, 1.0]
    graph = GrowingNeuralGas(20, steps=12_000).fit(line).graph_
    assert shape(graph) == (20, 19, 1, {1, 2}) and (graph.degrees == 1).sum() == 2


@pytest.mark.parametrize(("X", "units"), [(ring(2000), 30), (np.concatenate([ring(800), ring(800, center=4)]), 40)])
def test_minigng_finds_the_same_topology(X, units):
    minigng = pytest.importorskip("minigng")
    state = np.random.get_state()
    try:
        np.random.seed(0)
        theirs = minigng.MiniGNG(n_epochs=6, max_units=units).fit(X)
    finally:
        np.random.set_state(state)
    ours = GrowingNeuralGas(units, steps=6 * len(X)).fit(X).graph_
    degrees = {len(unit.neighbors) for unit in theirs.units}
    assert shape(ours)[:2] == (len(theirs.units), len(theirs.edges)) and set(ours.degrees.tolist()) == degrees == {2}


def test_with_two_units_and_no_neighbors_it_is_online_k_means():
    gas = GrowingNeuralGas(2, neighbor_rate=0, snapshots=(0,)).partial_fit(UNIFORM)
    centers = gas.snapshots_[0].positions.copy()
    for x in UNIFORM:
        nearest = np.linalg.norm(x - centers, axis=1).argmin()
        centers[nearest] += 0.2 * (x - centers[nearest])
    np.testing.assert_allclose(gas.positions_, centers, rtol=0, atol=1e-12)


def test_insertion_shares_errors_and_edges():
    ages = np.array([[-1, 5, 3], [5, -1, -1], [3, -1, -1]])
    positions, errors, new = growing_neural_gas.insert(np.array([[0.0], [2], [6]]), np.array([8.0, 2, 4]), ages, 0.25)
    assert positions.ravel().tolist() == [0, 2, 6, 3]
    assert errors.tolist() == [2, 2, 1, 2]
    assert new.tolist() == [[-1, 5, -1, 0], [5, -1, -1, -1], [-1, -1, -1, 0], [0, -1, 0, -1]]
    assert ages[0, 2] == 3  # what was given is left as it was


def test_units_stay_in_the_hull_and_edges_below_the_oldest_age():
    X = np.random.default_rng(2).normal(size=(300, 4))
    gas = GrowingNeuralGas(25, steps=6000, max_age=7).fit(X)
    directions = np.random.default_rng(3).normal(size=(200, 4))
    assert ((gas.positions_ @ directions.T).max(0) <= (X @ directions.T).max(0) + 1e-12).all()
    assert gas.graph_.ages.max() <= 7 and gas.graph_.degrees.min() >= 1


def test_growth_ends_when_the_target_is_met():
    gas = GrowingNeuralGas(100, steps=40_000, target=0.08).fit(UNIFORM)
    assert gas.quantization_error(UNIFORM) == pytest.approx(0.08, abs=0.02)
    assert len(gas.positions_) < 100 and gas.n_iter_ == gas.graph_.step < 40_000 and gas.n_iter_ % 100 == 0
    finer = GrowingNeuralGas(100, steps=40_000, target=0.05).fit(UNIFORM)
    assert len(finer.positions_) > len(gas.positions_) and finer.n_iter_ > gas.n_iter_


def test_growth_goes_on_when_the_target_is_missed_again():
    gas = GrowingNeuralGas(100, target=0.1)
    for _ in range(10):
        gas.partial_fit(UNIFORM)
    settled = len(gas.positions_)
    gas.partial_fit(UNIFORM)
    assert len(gas.positions_) <= settled
    wide = np.random.default_rng(5).random((4000, 2)) * 3
    assert len(gas.partial_fit(wide).positions_) > settled


def test_the_gas_follows_data_that_move_without_any_schedule():
    random = np.random.default_rng(0)
    cluster = np.arange(5000) % 3
    first = random.normal(size=(5000, 2)) * 0.3 + np.array([[0, 0], [5, 0], [0, 5]])[cluster]
    second = random.normal(size=(5000, 2)) * 0.3 + np.array([[0, 0], [5, 0], [9, 9]])[cluster]
    gas = GrowingNeuralGas(30).partial_fit(first)
    before = gas.quantization_error(first)
    assert gas.quantization_error(second) > 5 * before
    assert gas.partial_fit(second).quantization_error(second) <= 1.5 * before


def test_a_fit_is_the_same_however_it_is_interrupted():
    whole = GrowingNeuralGas(15, insert_every=30).partial_fit(UNIFORM)
    pieces = GrowingNeuralGas(15, insert_every=30, snapshots=(31, 77))
    for begin, end in [(0, 1), (1, 47), (47, 90), (90, 400)]:
        pieces.partial_fit(UNIFORM[begin:end])
    start = GrowingNeuralGas(15, insert_every=30).partial_fit(UNIFORM[:1])
    for begin, end in [(1, 200), (200, 400)]:
        start = copy.deepcopy(start).partial_fit(UNIFORM[begin:end])
    assert np.array_equal(pieces.positions_, start.positions_) and np.array_equal(pieces.errors_, start.errors_)
    assert [s.step for s in pieces.snapshots_] == [31, 77] and len(whole.positions_) == len(pieces.positions_) == 15


def test_the_same_seed_gives_the_same_gas_and_moves_no_other():
    before = np.random.get_state()[1].copy()
    first, second, other = (GrowingNeuralGas(8, steps=900, random_state=s).fit(UNIFORM) for s in (4, 4, 5))
    assert np.array_equal(first.positions_, second.positions_)
    assert not np.array_equal(first.positions_, other.positions_)
    assert np.array_equal(before, np.random.get_state()[1])


def test_snapshots_show_growth():
    gas = GrowingNeuralGas(20, steps=1000, snapshots=(0, 450, 1000)).fit(UNIFORM)
    assert [(s.step, len(s.positions)) for s in gas.snapshots_] == [(0, 2), (450, 6), (1000, 12)]
    assert np.array_equal(gas.snapshots_[2].positions, gas.positions_) and len(gas.snapshots_[0].edges) == 0


def test_float32_stays_float32_and_finds_the_same_ring():
    gas = GrowingNeuralGas(30, steps=12_000).fit(ring(2000).astype(np.float32))
    assert gas.positions_.dtype == np.float32 and shape(gas.graph_) == (30, 30, 1, {2})
    assert gas.partial_fit(ring(100)).positions_.dtype == np.float32


def test_distances_and_nearest_units_are_those_of_scipy():
    gas = GrowingNeuralGas(9, steps=1500).fit(UNIFORM)
    np.testing.assert_allclose(gas.transform(UNIFORM), cdist(UNIFORM, gas.positions_))
    assert np.array_equal(gas.predict(UNIFORM), cdist(UNIFORM, gas.positions_).argmin(1))


@pytest.mark.parametrize("X", [[[1.0, 2.0]], np.ones((30, 2))])
def test_without_an_error_no_unit_is_added(X):
    gas = GrowingNeuralGas(50, steps=2000).fit(X)
    assert shape(gas.graph_) == (2, 1, 1, {1}) and np.array_equal(gas.positions_, np.ones((2, 2)) * np.asarray(X)[0])


def test_more_units_than_samples_are_accepted():
    gas = GrowingNeuralGas(12, steps=3000).fit([[0.0], [1.0], [5.0]])
    assert len(gas.positions_) == 12 and gas.quantization_error([[0.0], [1.0], [5.0]]) < 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_units": 1}, "max_units is 1; it must be a whole number, 2 or more"),
        ({"steps": 0}, "steps is 0"),
        ({"insert_every": 2.5}, "insert_every is 2.5"),
        ({"winner_rate": 0}, "winner_rate is 0"),
        ({"neighbor_rate": -0.1}, "neighbor_rate is -0.1"),
        ({"max_age": 0}, "max_age is 0"),
        ({"insertion_factor": 2}, "insertion_factor is 2"),
        ({"decay": float("nan")}, "decay is nan"),
        ({"target": -1}, "target is -1"),
        ({"snapshots": (101,)}, "snapshots has the step 101; fit makes 100 steps"),
        ({"random_state": None}, "random_state is None"),
    ],
)
def test_other_parameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        GrowingNeuralGas(**{"max_units": 3, "steps": 100, **options}).fit(UNIFORM)


def test_a_sample_that_is_not_finite_is_refused_and_nothing_changes():
    gas = GrowingNeuralGas(4, steps=100).fit(UNIFORM)
    graph, errors = gas.graph_, gas.errors_.copy()
    for method in (gas.fit, gas.partial_fit, gas.predict, gas.transform):
        with pytest.raises(ValueError, match="X has inf in row 1, column 0"):
            method([[0.0, 1.0], [np.inf, 1.0]])
    assert gas.graph_ is graph and np.array_equal(gas.errors_, errors) and gas.n_iter_ == 100
