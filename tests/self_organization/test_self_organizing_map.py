"""The map against its equations in plain numpy, against minisom, and against what it must become."""

import copy

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

from lib.self_organization.self_organizing_map import SelfOrganizingMap

SQUARE = np.random.default_rng(0).random((500, 2))
WIDE = np.random.default_rng(0).random((300, 784))


def coordinates(grid: tuple[int, int], topology: str) -> np.ndarray:
    """(units, 2): where each unit is, with neighbors at distance 1."""
    rows, columns = (part.ravel() for part in np.indices(grid).astype(float))
    if topology == "square":
        return np.stack([rows, columns], axis=1)
    return np.stack([rows * 3**0.5 / 2, columns + rows % 2 / 2], axis=1)


def by_equations(start: np.ndarray, samples: np.ndarray, rates: np.ndarray, radii: np.ndarray, topology: str):
    """The weights after one step for each sample, from the equations."""
    places, weights = coordinates(start.shape[:2], topology), start.reshape(-1, start.shape[2]).copy()
    for x, rate, radius in zip(samples, rates, radii, strict=True):
        winner = np.argmin(np.linalg.norm(x - weights, axis=1))
        near = np.exp(-((places - places[winner]) ** 2).sum(1) / (2 * radius**2))
        weights += rate * near[:, None] * (x - weights)
    return weights.reshape(start.shape)


@parametrize_with_checks([SelfOrganizingMap(steps=100), SelfOrganizingMap((3, 4), topology="hexagonal", steps=50)])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("schedule", ["exponential", "asymptotic"])
@pytest.mark.parametrize("topology", ["square", "hexagonal"])
@pytest.mark.parametrize(("grid", "features"), [((4, 5), 1), ((4, 5), 2), ((4, 5), 9), ((6, 7), 80), ((9, 4), 784)])
def test_weights_follow_the_equations(grid, features, topology, schedule):
    random, steps = np.random.default_rng(1), 400
    X, start = random.normal(size=(steps, features)), random.normal(size=(*grid, features))
    som = SelfOrganizingMap(grid, topology=topology, steps=steps, schedule=schedule, start=start, shuffle=False)
    t, radius = np.arange(steps), max(grid) / 2
    if schedule == "exponential":
        rates, radii = 0.5 * 0.02 ** (t / steps), radius * (0.5 / radius) ** (t / steps)
    else:
        rates, radii = 0.5 / (1 + 2 * t / steps), radius / (1 + 2 * t / steps)
    expected = by_equations(start, X, rates, radii, topology)
    np.testing.assert_allclose(som.fit(X).weights_, expected, rtol=0, atol=1e-12)
    assert som.n_iter_ == steps and som.weights_.dtype == np.float64


@pytest.mark.parametrize("grid", [(10, 10), (7, 4), (1, 6)])
@pytest.mark.parametrize("data", ["uniform", "lattice", "digits", "wide"])
def test_weights_equal_those_of_minisom(data, grid):
    minisom = pytest.importorskip("minisom")
    X = {
        "uniform": SQUARE,
        "lattice": np.argwhere(np.ones((8, 8))).astype(float),  # ties
        "digits": load_digits().data[:400],
        "wide": WIDE,
    }[data]
    theirs = minisom.MiniSom(*grid, X.shape[1], sigma=3.0, random_seed=1)
    theirs.random_weights_init(X)
    start = theirs.get_weights().copy()
    ours = SelfOrganizingMap(grid, steps=3000, schedule="asymptotic", radius=3.0, start=start, shuffle=False).fit(X)
    theirs.train(X, 3000)
    np.testing.assert_allclose(ours.weights_, theirs.get_weights(), rtol=0, atol=1e-12)
    assert ours.quantization_error(X) == pytest.approx(theirs.quantization_error(X), abs=1e-12)
    assert ours.topographic_error(X) == theirs.topographic_error(X)


def test_far_from_the_origin_weights_equal_those_of_minisom():
    minisom, X = pytest.importorskip("minisom"), WIDE + 1e6
    theirs, start = minisom.MiniSom(10, 10, 784, sigma=3.0), X[:100].reshape(10, 10, 784)
    theirs._weights = start.copy()
    theirs.train(X, 1000)
    options = {"steps": 1000, "schedule": "asymptotic", "radius": 3.0, "start": start, "shuffle": False}
    ours = SelfOrganizingMap(**options).fit(X)
    np.testing.assert_allclose(ours.weights_, theirs.get_weights(), rtol=1e-12)


def test_hexagonal_weights_equal_those_of_minisom():
    minisom = pytest.importorskip("minisom")
    theirs = minisom.MiniSom(6, 7, 2, sigma=3.0, random_seed=1, topology="hexagonal")  # columns first, rows odd
    start = theirs.get_weights().transpose(1, 0, 2).copy()
    options = {"topology": "hexagonal", "schedule": "asymptotic", "radius": 3.0, "start": start, "shuffle": False}
    ours = SelfOrganizingMap((7, 6), steps=3000, **options).fit(SQUARE)
    theirs.train(SQUARE, 3000)
    np.testing.assert_allclose(ours.weights_, theirs.get_weights().transpose(1, 0, 2), rtol=0, atol=1e-12)


def test_without_a_radius_the_map_is_online_k_means():
    start = SQUARE[:12].reshape(3, 4, 2)
    som = SelfOrganizingMap((3, 4), steps=500, radius=1e-200, final_radius=1e-200, start=start, shuffle=False)
    centers = SQUARE[:12].copy()
    for t, x in enumerate(SQUARE):
        nearest = np.argmin(((x - centers) ** 2).sum(1))
        centers[nearest] += 0.5 * 0.02 ** (t / 500) * (x - centers[nearest])
    np.testing.assert_allclose(som.fit(SQUARE).weights_.reshape(-1, 2), centers, atol=1e-13)


def test_weights_stay_in_the_convex_hull_of_samples_and_start():
    random = np.random.default_rng(2)
    corners = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 3.0]])
    X, start = (random.dirichlet([0.3] * 3, n) @ corners for n in (300, 25))
    weights = SelfOrganizingMap((5, 5), learning_rate=1.0, steps=2000, start=start.reshape(5, 5, 2)).fit(X).weights_
    shares = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), np.vstack([weights.reshape(-1, 2).T, np.ones(25)]))
    assert shares.min() > -1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("topology", ["square", "hexagonal"])
def test_a_map_unfolds_over_a_square(topology, seed):
    X = np.random.default_rng(seed).random((2000, 2))
    som = SelfOrganizingMap(topology=topology, random_state=seed).fit(X)
    assert som.topographic_error(X) <= 0.08 and som.quantization_error(X) <= 0.06
    assert SelfOrganizingMap(topology=topology, steps=1, random_state=seed).fit(X).topographic_error(X) > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_grid_on_a_ring_leaves_units_in_the_hole(seed):
    random = np.random.default_rng(seed)
    angle, radius = random.uniform(0, 2 * np.pi, 2000), random.uniform(0.8, 1.0, 2000)
    X = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    som = SelfOrganizingMap(random_state=seed).fit(X)
    wins = np.bincount(som.predict(X), minlength=100)
    assert (wins == 0).mean() >= 0.05
    assert (np.linalg.norm(som.weights_, axis=2) < 0.8).sum() >= (wins == 0).sum() // 2


@pytest.mark.parametrize("topology", ["square", "hexagonal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_equal_brute_force(dtype, topology):
    random = np.random.default_rng(3)
    X, weights = random.normal(size=(200, 3)).astype(dtype), random.normal(size=(5, 4, 3)).astype(dtype)
    som = SelfOrganizingMap((5, 4), topology=topology, steps=1).fit(X)
    som.weights_ = weights
    distances = np.linalg.norm(X[:, None].astype(float) - weights.reshape(-1, 3), axis=2)
    nearest = distances.argsort(axis=1, kind="stable")[:, :2]
    assert np.array_equal(som.predict(X), nearest[:, 0])
    np.testing.assert_allclose(som.transform(X), distances, rtol=1e-6 if dtype == np.float32 else 1e-14)
    assert som.quantization_error(X) == pytest.approx(distances.min(axis=1).mean(), rel=1e-6)
    places = coordinates((5, 4), topology)
    apart = np.linalg.norm(places[nearest[:, 0]] - places[nearest[:, 1]], axis=1)
    assert som.topographic_error(X, diagonal=False) == np.mean(apart > 1.01)
    assert som.topographic_error(X) == np.mean(apart > (1.5 if topology == "square" else 1.01))


def test_units_that_touch_at_a_corner_are_neighbors_unless_excluded():
    som = SelfOrganizingMap((2, 2), steps=1).fit(SQUARE)
    som.weights_ = np.array([[[0.0, 0.0], [9.0, 9.0]], [[8.0, 8.0], [1.0, 1.0]]])
    assert som.topographic_error([[0.4, 0.4]]) == 0
    assert som.topographic_error([[0.4, 0.4]], diagonal=False) == 1


def test_parts_of_the_samples_teach_as_the_whole():
    options = {"steps": 500, "start": SQUARE[:20].reshape(4, 5, 2), "shuffle": False}
    whole, parts = SelfOrganizingMap((4, 5), **options).fit(SQUARE), SelfOrganizingMap((4, 5), **options)
    for part in np.split(SQUARE, [1, 200, 350]):
        parts.partial_fit(part)
    assert np.array_equal(whole.weights_, parts.weights_) and parts.n_iter_ == 500


def test_parts_of_wide_samples_teach_as_the_whole():
    options = {"steps": 300, "start": WIDE[:100].reshape(10, 10, 784), "shuffle": False}
    whole, parts = SelfOrganizingMap(**options).fit(WIDE), SelfOrganizingMap(**options)
    for part in np.split(WIDE, [1, 100, 145]):  # whole blocks, a part of one, and too few for a block
        parts.partial_fit(part)
    assert np.array_equal(whole.weights_, parts.weights_) and parts.n_iter_ == 300


def test_learning_goes_on_at_the_final_values_and_not_from_the_first():
    som = SelfOrganizingMap((4, 5), steps=300).fit(SQUARE)
    before = som.weights_.copy()
    som.partial_fit(SQUARE[:50])
    expected = by_equations(before, SQUARE[:50], np.full(50, 0.01), np.full(50, 0.5), "square")
    np.testing.assert_allclose(som.weights_, expected, atol=1e-14)
    assert som.n_iter_ == 350 and som.fit(SQUARE).n_iter_ == 300


def test_fewer_steps_than_samples_still_draw_from_all_of_them():
    X = np.repeat([[0.0], [1.0]], 100, axis=0)
    som = SelfOrganizingMap((1, 1), steps=100, learning_rate=0.1, final_learning_rate=0.1).fit(X)
    assert 0.2 < som.weights_.item() < 0.8


@pytest.mark.parametrize("X", [SQUARE, WIDE])
def test_float32_stays_and_agrees_with_float64(X):
    options = {"grid": (6, 6), "steps": 300, "shuffle": False, "start": X[:36].reshape(6, 6, -1)}
    single, double = (SelfOrganizingMap(**options).fit(X.astype(kind)) for kind in (np.float32, np.float64))
    assert single.weights_.dtype == single.transform(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(single.weights_, double.weights_, atol=1e-4)
    assert single.partial_fit(X).weights_.dtype == np.float32


def test_a_start_is_left_as_it_was():
    for X in (SQUARE, WIDE):
        start = np.ascontiguousarray(X[:36].reshape(6, 6, -1))
        before = start.copy()
        som = SelfOrganizingMap((6, 6), steps=100, start=start).fit(X)
        kept = som.weights_
        weights = kept.copy()
        som.partial_fit(X)
        assert np.array_equal(start, before) and np.array_equal(kept, weights)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    first, again, other = (SelfOrganizingMap((3, 3), steps=50, random_state=s).fit(SQUARE).weights_ for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_copy_learns_by_itself():
    som = SelfOrganizingMap((3, 3), steps=50).fit(SQUARE)
    twin, before = copy.deepcopy(som), som.weights_.copy()
    twin.partial_fit(SQUARE)
    assert np.array_equal(som.weights_, before) and not np.array_equal(twin.weights_, before)


@pytest.mark.parametrize("X", [[[0.3, 0.7]], np.full((50, 2), 4.0), SQUARE[:5]])
def test_one_sample_constant_features_and_few_samples_are_accepted(X):
    som = SelfOrganizingMap((4, 4), steps=3000).fit(X)
    assert som.quantization_error(X) < 0.01
    assert np.isfinite(som.weights_).all() and 0 <= som.topographic_error(X) <= 1


def test_a_map_of_one_unit_is_a_mean_without_a_topographic_error():
    som = SelfOrganizingMap((1, 1), steps=5000).fit(SQUARE)
    np.testing.assert_allclose(som.weights_[0, 0], SQUARE.mean(0), atol=0.05)
    assert set(som.predict(SQUARE)) == {0}
    with pytest.raises(ValueError, match="a map of one unit has no topographic error"):
        som.topographic_error(SQUARE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": (0, 5)}, r"grid\[0\] is 0; it must be a whole number, 1 or more"),
        ({"grid": 10}, "grid is 10; it must be two numbers, rows and columns"),
        ({"topology": "torus"}, "topology is 'torus'; it must be one of 'square', 'hexagonal'"),
        ({"steps": 0}, "steps is 0"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"learning_rate": 1.5}, "learning_rate is 1.5; .* at most 1"),
        ({"learning_rate": 0.1, "final_learning_rate": 0.2}, "learning_rate rises from 0.1 to 0.2"),
        ({"radius": 1.0, "final_radius": 2.0}, "radius rises from 1.0 to 2.0"),
        ({"radius": 0}, "radius is 0; .* above 0"),
        ({"final_radius": 0}, "final_radius is 0"),
        ({"shuffle": "yes"}, "shuffle is 'yes'; it must be True or False"),
        ({"start": np.zeros((3, 3, 2))}, r"start has the shape \(3, 3, 2\); .* of the shape \(10, 10, 'features'\)"),
        ({"start": np.full((10, 10, 2), np.nan)}, "start has the shape .* finite numbers"),
        ({"start": np.zeros((10, 10, 3))}, "X has 2 features; .* ask for 3"),
        ({"random_state": -1}, "random_state is -1"),
    ],
)
def test_bad_parameters_are_refused_and_change_nothing(options, words):
    som = SelfOrganizingMap(steps=10).fit(SQUARE)
    weights, others = som.weights_.copy(), SQUARE[:3]
    som.set_params(**options)
    for call in (som.fit, SelfOrganizingMap(**options).partial_fit):
        with pytest.raises(ValueError, match=words):
            call(others)
    assert np.array_equal(som.weights_, weights) and som.n_iter_ == 10


def test_another_grid_cannot_go_on():
    som = SelfOrganizingMap((3, 3), steps=10).fit(SQUARE).set_params(grid=(3, 4))
    with pytest.raises(ValueError, match=r"grid is \(3, 4\), but the map has \(3, 3\)"):
        som.partial_fit(SQUARE)


@pytest.mark.parametrize("X", [[[np.nan, 1.0]], [[1.0, np.inf]], np.zeros((0, 2)), [[1.0, 2.0, 3.0]], [[1e200, 0.0]]])
def test_bad_samples_are_refused_and_change_nothing(X):
    som = SelfOrganizingMap((3, 3), steps=10).fit(SQUARE)
    weights = som.weights_.copy()
    for call in (som.partial_fit, som.predict, som.transform, som.quantization_error, som.topographic_error):
        with pytest.raises(ValueError, match=r"finite|minimum of 1|features"):
            call(X)
    assert np.array_equal(som.weights_, weights)
