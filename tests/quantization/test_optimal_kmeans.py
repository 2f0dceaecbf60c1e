"""The optimum against brute force, against its own defining properties, and against scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from lib.quantization import optimal_kmeans
from lib.quantization.optimal_kmeans import lloyd, optimal

KINDS = {
    "normal": lambda r, n: r.normal(size=n),
    "ties": lambda r, n: r.integers(0, 5, n).astype(float),
    "equally spaced": lambda r, n: np.arange(n) * 1.0,
    "constant": lambda r, n: np.full(n, 3.3),
    "tiny": lambda r, n: 1e-20 * r.normal(size=n),
    "far from zero": lambda r, n: 1e6 + r.normal(size=n),
    "heavy tails": lambda r, n: r.standard_cauchy(n),
    "float32": lambda r, n: r.normal(size=n).astype(np.float32),
}
MASSES = {
    "ones": lambda r, n: np.ones(n),
    "some zero": lambda r, n: r.integers(0, 3, n).astype(float),
    "random": lambda r, n: r.random(n),
    "all zero": lambda r, n: np.zeros(n),
}


def least_error(values: np.ndarray, k: int, weights: np.ndarray) -> float:
    """The least weighted squared error over all cuts of the sorted values into k intervals."""
    order = np.argsort(values, kind="stable")
    values, weights = np.asarray(values, dtype=float)[order], weights[order]

    def error(a: int, b: int) -> float:
        mass = weights[a:b].sum()
        return 0.0 if mass == 0 else (weights[a:b] * (values[a:b] - weights[a:b] @ values[a:b] / mass) ** 2).sum()

    price = {(a, b): error(a, b) for a, b in itertools.combinations(range(len(values) + 1), 2)}
    cuts = itertools.combinations(range(1, len(values)), k - 1)
    return min(sum(price[pair] for pair in itertools.pairwise([0, *cut, len(values)])) for cut in cuts)


@pytest.mark.parametrize("table", [optimal_kmeans.TABLE, 0])  # 0: ties are spliced, however small they are
@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_error_equals_brute_force(kind, mass, table, monkeypatch):
    monkeypatch.setattr(optimal_kmeans, "TABLE", table)
    rng = np.random.default_rng(0)
    for n, k in [(1, 1), (2, 1), (2, 2), (3, 2), (5, 4), (6, 3), (8, 2), (9, 3), (10, 4), (11, 3), (12, 4)]:
        values, weights = KINDS[kind](rng, n), MASSES[mass](rng, n)
        book, expected = optimal(values, k, weights), least_error(values, k, weights)
        rounding = 1e-24 * (weights @ values.astype(float) ** 2) + 1e-12 * (weights @ (values - values.mean()) ** 2)
        assert book.squared_error == pytest.approx(expected, rel=1e-9, abs=rounding)
        assert len(book.centroids) <= k and (np.diff(book.centroids) > 0).all()


numbers = st.lists(st.integers(-40, 40) | st.floats(-100, 100, width=32), min_size=1, max_size=25)


@given(numbers, st.data())
def test_codes_name_the_nearest_centroid_and_the_error_is_what_they_lose(values, data):
    k = data.draw(st.integers(1, len(values)))
    values = np.array(values, dtype=float)
    book = optimal(values, k)
    distance = np.abs(values[:, None] - book.centroids)
    scale = 1 + np.abs(values).max()
    assert np.allclose(distance[np.arange(len(values)), book.codes], distance.min(axis=1), rtol=0, atol=1e-9 * scale)
    assert book.squared_error == pytest.approx(((values - book.centroids[book.codes]) ** 2).sum())
    for code in range(len(book.centroids)):
        assert book.centroids[code] == pytest.approx(values[book.codes == code].mean(), abs=1e-9 * scale)


@given(numbers)
def test_as_many_centroids_as_distinct_values_lose_nothing(values):
    distinct = sorted({float(v) for v in values})
    book = optimal(np.array(values, dtype=float), len(distinct))
    assert book.squared_error == 0 and book.centroids.tolist() == distinct


def test_more_clusters_than_distinct_values_give_the_distinct_values():
    book = optimal(np.array([2.0, 1, 2, 1, 2]), 4)
    assert book.centroids.tolist() == [1, 2] and book.codes.tolist() == [1, 0, 1, 0, 1] and book.squared_error == 0


def test_error_never_rises_with_k():
    values = np.random.default_rng(1).normal(size=200)
    errors = [optimal(values, k).squared_error for k in range(1, 60)]
    assert all(b <= a for a, b in itertools.pairwise(errors))
    assert errors[0] == pytest.approx(200 * values.var())


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), min_size=1, max_size=12), st.integers(1, 4))
def test_whole_weights_are_repeated_points(pairs, k):
    values, weights = (np.array(x, dtype=float) for x in zip(*pairs, strict=True))
    if weights.sum() < k or len(values) < k:
        return
    weighted = optimal(values, k, weights)
    repeated = optimal(np.repeat(values, weights.astype(int)), k)
    assert weighted.squared_error == pytest.approx(repeated.squared_error, abs=1e-9)


@pytest.mark.parametrize("k", [2, 5, 16])
def test_shift_and_scale_change_nothing_but_the_scale(k):
    values = np.random.default_rng(2).normal(size=500)
    book, moved = optimal(values, k), optimal(8 * values - 100, k)
    assert np.array_equal(book.codes, moved.codes)
    np.testing.assert_allclose(moved.centroids, 8 * book.centroids - 100, rtol=1e-12)


@pytest.mark.parametrize("k", [2, 8, 15])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "ties"])
def test_scikit_learn_never_beats_the_optimum(kind, k):
    values = KINDS[kind](np.random.default_rng(3), 400)
    k = min(k, len(np.unique(values)))
    theirs = KMeans(k, n_init=20, random_state=0, tol=0).fit(values[:, None]).inertia_
    assert optimal(values, k).squared_error <= theirs * (1 + 1e-9)


def test_many_values_and_equal_gaps_reach_the_known_optimum():
    # 0 .. 9999 in 100 clusters: 100 runs of 100 neighbors, each losing (100^3 - 100) / 12
    book = optimal(np.random.default_rng(0).permutation(10_000), 100)
    assert book.squared_error == pytest.approx(100 * (100**3 - 100) / 12)
    assert np.bincount(book.codes).tolist() == [100] * 100


def test_spliced_clusters_of_every_tie_lose_as_little_as_the_table(monkeypatch):
    rng = np.random.default_rng(4)
    for n in (20, 70):
        for values in (np.arange(n) * 1.0, rng.integers(0, n, n).astype(float), np.round(rng.normal(size=n), 1)):
            for k in range(1, len(np.unique(values))):
                book = optimal(values, k)
                with monkeypatch.context() as patch:
                    patch.setattr(optimal_kmeans, "TABLE", 0)
                    spliced = optimal(values, k)
                assert len(spliced.centroids) == len(book.centroids) == k
                assert spliced.squared_error == pytest.approx(book.squared_error, rel=1e-9, abs=1e-12)


def test_more_clusters_than_a_table_has_room_for_tie_and_are_found():
    """0 to 29,999 in 13,000 clusters: pairs and threes."""
    n, k = 30_000, 13_000
    book = optimal(np.arange(n) * 1.0, k)
    sizes = np.bincount(book.codes)
    assert len(book.centroids) == k and k * n > optimal_kmeans.TABLE
    assert set(sizes) == {2, 3} and (sizes == 3).sum() == n - 2 * k
    assert book.squared_error == pytest.approx(0.5 * (sizes == 2).sum() + 2.0 * (sizes == 3).sum())


# -- Lloyd -------------------------------------------------------------------------------------------------------------


@given(numbers, st.data())
def test_lloyd_never_rises_and_never_beats_the_optimum(values, data):
    values = np.array(values, dtype=float)
    begin = data.draw(st.lists(st.floats(-120, 120), min_size=1, max_size=min(6, len(values))))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values))), dtype=float)
    errors = [lloyd(values, np.array(begin), weights, iterations=i).squared_error for i in range(6)]
    scale = 1e-9 * (1 + float(weights @ values**2))
    assert all(b <= a + scale for a, b in itertools.pairwise(errors))
    assert errors[-1] >= optimal(values, len(begin), weights).squared_error - scale


def test_lloyd_stops_where_assignment_and_means_agree():
    values = np.random.default_rng(4).normal(size=300)
    book = lloyd(values, np.linspace(-3, 3, 8), iterations=1000)
    again = lloyd(values, book.centroids, iterations=1)
    np.testing.assert_allclose(again.centroids, book.centroids, rtol=0, atol=1e-12)
    assert np.array_equal(again.codes, book.codes)


def test_lloyd_from_the_same_start_as_scikit_learn_ends_where_it_ends():
    values = np.random.default_rng(5).normal(size=300)
    begin = np.linspace(-2, 2, 7)
    theirs = KMeans(7, init=begin[:, None], n_init=1, max_iter=1000, tol=0).fit(values[:, None])
    ours = lloyd(values, begin, iterations=1000)
    np.testing.assert_allclose(ours.centroids, np.sort(theirs.cluster_centers_.ravel()), rtol=0, atol=1e-9)
    assert ours.squared_error == pytest.approx(theirs.inertia_)


def test_a_cluster_that_loses_all_values_keeps_its_centroid():
    book = lloyd(np.array([0.0, 1, 10]), np.array([0.5, 5, 10]))
    assert book.centroids.tolist() == [0.5, 5, 10] and book.codes.tolist() == [0, 0, 2]


def test_one_value_and_one_centroid():
    for book in (optimal(np.array([2.5]), 1), lloyd(np.array([2.5]), np.array([9.0]))):
        assert (book.centroids.tolist(), book.codes.tolist(), book.squared_error) == ([2.5], [0], 0)


# -- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_outside_1_to_n_is_refused(k):
    with pytest.raises(ValueError, match=rf"k = {k} clusters for 3 values: k must be in 1\.\.3"):
        optimal(np.arange(3), k)


def test_nothing_to_cluster_is_refused():
    with pytest.raises(ValueError, match="no values to cluster"):
        optimal(np.array([]), 1)
    with pytest.raises(ValueError, match="k = 0 clusters"):
        lloyd(np.arange(3), np.array([]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    for cluster in (lambda v: optimal(v, 1), lambda v: lloyd(v, np.zeros(1))):
        with pytest.raises(ValueError, match="NaN or infinity"):
            cluster(np.array([0.0, bad]))


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, np.nan], [1, np.inf]])
def test_weights_that_are_no_importances_are_refused(weights):
    with pytest.raises(ValueError, match="one finite weight that is not negative"):
        optimal(np.array([1.0, 2]), 1, np.array(weights))


def test_the_optimum_is_that_of_ckwrap():
    ckwrap = pytest.importorskip("ckwrap")
    for seed, k in ((0, 2), (1, 7), (2, 32)):
        values = np.random.default_rng(seed).standard_t(3, 2000)
        assert optimal(values, k).squared_error == pytest.approx(np.sum(ckwrap.ckmeans(values, k).withinss), rel=1e-9)
