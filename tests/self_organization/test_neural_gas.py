"""The gas against its equations in plain numpy, online k-means, and shapes that its edges must find."""

import copy

import numpy as np
import pytest
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist
from sklearn.utils.estimator_checks import parametrize_with_checks

from lib.self_organization.neural_gas import DEMO, PAPER, NeuralGas
from lib.self_organization.shared.graphs import UnitGraph

UNIFORM = np.random.default_rng(0).random((400, 2))


def ring(samples: int, center: float = 0.0) -> np.ndarray:
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, samples)
    return np.column_stack([np.cos(angles) + center, np.sin(angles)])


def by_equations(start: UnitGraph, X: np.ndarray, first_step: int, gas: NeuralGas):
    """Positions and ages {edge: age} after one step for each sample, from the equations."""
    w = start.positions.astype(float).copy()
    ages = (
        {} if start.ages is None else {frozenset(e): a for e, a in zip(start.edges.tolist(), start.ages, strict=True)}
    )
    for t, x in enumerate(X, start=first_step):
        past = min(t / gas.steps, 1)
        rate, reach, lifetime = (a * (b / a) ** past for a, b in (gas.learning_rate, gas.neighborhood, gas.lifetime))
        ranking = np.linalg.norm(x - w, axis=1).argsort(kind="stable")
        ranks = ranking.argsort()
        w += rate * np.exp(-ranks / reach)[:, None] * (x - w)
        ages[frozenset(ranking[:2].tolist())] = 0
        for edge in list(ages):
            if ranking[0] in edge:
                ages[edge] += 1
                if ages[edge] > lifetime:
                    del ages[edge]
    return w, ages


@parametrize_with_checks([NeuralGas(6, steps=60)])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("schedules", "features"), [(PAPER, 1), (DEMO, 3), ({**PAPER, "lifetime": (2, 9)}, 2)])
def test_positions_and_ages_follow_the_equations(schedules, features):
    X = np.random.default_rng(1).normal(size=(400, features))
    gas = NeuralGas(9, steps=300, snapshots=(0,), **schedules)  # the last 100 steps are after the schedule
    gas.partial_fit(X[:150]).partial_fit(X[150:])
    w, ages = by_equations(gas.snapshots_[0], X, 0, gas)
    np.testing.assert_allclose(gas.positions_, w, rtol=0, atol=1e-12)
    assert {frozenset(e): a for e, a in zip(gas.graph_.edges.tolist(), gas.graph_.ages, strict=True)} == ages
    assert gas.n_iter_ == gas.graph_.step == 400


def test_without_a_neighborhood_the_gas_is_online_k_means():
    gas = NeuralGas(5, steps=400, neighborhood=(1e-4, 1e-4), snapshots=(0,)).partial_fit(UNIFORM)
    centers = gas.snapshots_[0].positions.copy()
    for t, x in enumerate(UNIFORM):
        nearest = np.linalg.norm(x - centers, axis=1).argmin()
        centers[nearest] += 0.5 * 0.01 ** (t / 400) * (x - centers[nearest])
    np.testing.assert_allclose(gas.positions_, centers, rtol=0, atol=1e-12)


def test_small_steps_lower_the_cost_of_the_gas():
    reach = 2.0

    def cost(positions):
        ranks = cdist(UNIFORM, positions).argsort(1).argsort(1)
        return (np.exp(-ranks / reach) * cdist(UNIFORM, positions) ** 2).sum()

    options = {"learning_rate": (0.01, 0.01), "neighborhood": (reach, reach)}
    gas = NeuralGas(12, steps=4000, snapshots=(0, 1000, 2000, 4000), **options).fit(UNIFORM)
    costs = [cost(snapshot.positions) for snapshot in gas.snapshots_]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.7 * costs[0]


def test_units_on_a_line_that_hardly_move_become_a_chain():
    line = np.random.default_rng(0).random((3000, 1))
    gas = NeuralGas(20, steps=3000, learning_rate=(1e-12, 1e-12), lifetime=(1e6, 1e6)).fit(line)
    order = gas.positions_[:, 0].argsort()
    chain = {frozenset(pair) for pair in zip(order[:-1].tolist(), order[1:].tolist(), strict=True)}
    assert {frozenset(edge) for edge in gas.graph_.edges.tolist()} == chain


@pytest.mark.parametrize("schedules", [PAPER, DEMO])
@pytest.mark.parametrize("seed", range(3))
def test_a_ring_and_two_rings_are_found(schedules, seed):
    one = NeuralGas(24, steps=8000, random_state=seed, **schedules).fit(ring(1500)).graph_
    assert len(one.edges) == 24 and set(one.degrees) == {2} and one.components == 1
    both = np.concatenate([ring(1000), ring(1000, center=4)])
    two = NeuralGas(30, steps=10_000, random_state=seed, **schedules).fit(both).graph_
    assert len(two.edges) == 30 and set(two.degrees) == {2} and two.components == 2


def test_dense_units_connect_as_the_induced_triangulation():
    gas = NeuralGas(40, steps=20_000, learning_rate=(0.5, 1e-9), lifetime=(1e6, 1e6)).fit(UNIFORM)
    fixed = NeuralGas(40, steps=1, learning_rate=(1e-12, 1e-12), lifetime=(1e6, 1e6))
    many = np.random.default_rng(3).random((20_000, 2))
    fixed.fit(gas.positions_).partial_fit(many)
    triangles = Delaunay(fixed.positions_).simplices
    allowed = {frozenset(p) for t in triangles.tolist() for p in ((t[0], t[1]), (t[0], t[2]), (t[1], t[2]))}
    made = {frozenset(edge) for edge in fixed.graph_.edges.tolist()}
    assert made <= allowed and len(made) > 0.8 * len(allowed)


def test_units_stay_in_the_hull_of_the_samples():
    X = np.random.default_rng(2).normal(size=(200, 4))
    gas = NeuralGas(15, steps=3000).fit(X)
    directions = np.random.default_rng(3).normal(size=(200, 4))
    assert ((gas.positions_ @ directions.T).max(0) <= (X @ directions.T).max(0) + 1e-12).all()


def test_no_edge_outlives_its_lifetime():
    gas = NeuralGas(30, steps=3000, lifetime=(5, 9)).fit(UNIFORM)
    assert 1 <= gas.graph_.ages.max() <= 9


def test_snapshots_are_in_order_and_change_nothing():
    gas = NeuralGas(7, steps=300, snapshots=[300, 0, 120]).fit(UNIFORM)
    assert [s.step for s in gas.snapshots_] == [0, 120, 300]
    assert len(gas.snapshots_[0].edges) == 0 and np.isin(gas.snapshots_[0].positions, UNIFORM).all()
    assert np.array_equal(gas.snapshots_[2].positions, gas.positions_)
    plain = NeuralGas(7, steps=300).fit(UNIFORM)
    assert np.array_equal(plain.positions_, gas.positions_) and plain.snapshots_ == []


def test_the_same_seed_gives_the_same_gas_and_moves_no_other():
    before = copy.deepcopy(np.random.get_state()[1])
    first, second, other = (NeuralGas(8, steps=200, random_state=s).fit(UNIFORM) for s in (4, 4, 5))
    assert np.array_equal(first.positions_, second.positions_)
    assert not np.array_equal(first.positions_, other.positions_)
    assert np.array_equal(before, np.random.get_state()[1])


def test_a_copy_learns_on_alike():
    gas = NeuralGas(8, steps=900).partial_fit(UNIFORM)
    twin = copy.deepcopy(gas).partial_fit(UNIFORM[::-1])
    once = NeuralGas(8, steps=900).partial_fit(UNIFORM).partial_fit(UNIFORM[::-1])
    assert np.array_equal(twin.positions_, once.positions_) and twin.n_iter_ == 800 and gas.n_iter_ == 400
    assert np.array_equal(twin.graph_.ages, once.graph_.ages)


def test_float32_stays_float32_and_is_close():
    gas = NeuralGas(6, steps=500).fit(UNIFORM)
    short = NeuralGas(6, steps=500).fit(UNIFORM.astype(np.float32))
    assert short.positions_.dtype == short.transform(UNIFORM.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(short.positions_, gas.positions_, atol=1e-4)
    assert short.partial_fit(UNIFORM).positions_.dtype == np.float32


def test_distances_and_nearest_units_are_those_of_scipy():
    gas = NeuralGas(6, steps=500).fit(UNIFORM)
    np.testing.assert_allclose(gas.transform(UNIFORM), cdist(UNIFORM, gas.positions_))
    assert np.array_equal(gas.predict(UNIFORM), cdist(UNIFORM, gas.positions_).argmin(1))
    assert gas.quantization_error(UNIFORM) == pytest.approx(cdist(UNIFORM, gas.positions_).min(1).mean())
    assert gas.get_feature_names_out()[-1] == "neuralgas5"


@pytest.mark.parametrize("X", [[[1.0, 2.0]], np.ones((30, 2)), [[0.0, 0.0], [1.0, 1.0]]])
def test_more_units_than_samples_and_constant_features_are_accepted(X):
    gas = NeuralGas(7, steps=200).fit(X)
    assert np.isfinite(gas.positions_).all() and len(gas.positions_) == 7 and len(gas.graph_.edges) >= 1
    assert gas.quantization_error(X) < 1e-2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": 1}, "units is 1; it must be a whole number, 2 or more"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.5}, "learning_rate is 0.5; it must be two numbers"),
        ({"learning_rate": (1.5, 0.1)}, r"learning_rate\[0\] is 1.5"),
        ({"learning_rate": (0.1, 0.5)}, "learning_rate rises from 0.1 to 0.5"),
        ({"neighborhood": (1, 2)}, "neighborhood rises from 1 to 2"),
        ({"neighborhood": (1, 0)}, r"neighborhood\[1\] is 0"),
        ({"neighborhood": (np.nan, 1)}, r"neighborhood\[0\] is nan"),
        ({"lifetime": (50, 20)}, "lifetime goes from 50 to 20; it must begin at 1 or more and must not fall"),
        ({"lifetime": (0.5, 20)}, "lifetime goes from 0.5 to 20"),
        ({"snapshots": (200,)}, "snapshots has the step 200; fit makes 100 steps"),
        ({"random_state": -1}, "random_state is -1"),
    ],
)
def test_other_parameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        NeuralGas(**{"units": 3, "steps": 100, **options}).fit(UNIFORM)


def test_a_sample_that_is_not_finite_is_refused_and_nothing_changes():
    gas = NeuralGas(4, steps=100).fit(UNIFORM)
    before = copy.deepcopy(gas.__dict__)
    for method in (gas.fit, gas.partial_fit, gas.predict, gas.transform):
        with pytest.raises(ValueError, match="X has nan in row 1, column 0"):
            method([[0.0, 1.0], [np.nan, 1.0]])
    assert gas.__dict__.keys() == before.keys() and gas.graph_.step == before["graph_"].step
    assert np.array_equal(gas.positions_, before["graph_"].positions)


def test_another_number_of_units_is_refused_in_the_middle():
    gas = NeuralGas(4, steps=100).fit(UNIFORM).set_params(units=5)
    with pytest.raises(ValueError, match="units is 5, but the gas has 4; call fit for another number"):
        gas.partial_fit(UNIFORM)
    assert len(gas.fit(UNIFORM).positions_) == 5
