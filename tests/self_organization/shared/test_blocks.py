"""Blocks against the loop over the steps, bit for bit, where winners are clear and where they are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.self_organization import self_organizing_map
from lib.self_organization.shared import blocks, steps


def grid_of(rows: int, columns: int) -> steps.Grid:
    down, across = np.divmod(np.arange(rows * columns), columns)
    return steps.Grid(across, down, np.arange(columns) ** 2.0, np.arange(rows) ** 2.0)


def differing(weights: np.ndarray, samples: np.ndarray, shape: tuple[int, int], count: int = 100) -> int:
    """How many weights differ between blocks and the loop."""
    order, t = np.arange(count) % len(samples), np.arange(count)
    rates, radii = 0.9 * 0.05 ** (t / count), max(shape) / 2 * 0.3 ** (t / count)
    slow, fast = weights.copy(), weights.copy()
    self_organizing_map.train(slow, samples, order, rates, radii, grid_of(*shape))
    blocks.train(fast, samples, order, rates, radii, grid_of(*shape))
    assert np.isfinite(fast).all()
    return int((slow != fast).sum())


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


DATA = {
    "normal": lambda seed, *shape: normal(seed, *shape),
    "integers": lambda seed, *shape: normal(seed, *shape).round(),  # ties
    "bits": lambda seed, *shape: (normal(seed, *shape) > 0).astype(float),  # more ties
    "equal": lambda seed, *shape: np.broadcast_to(normal(seed, 1, shape[1]), shape).copy(),
    "repeated": lambda seed, *shape: normal(seed, *shape)[np.arange(shape[0]) % 3],
    "constant features": lambda seed, *shape: normal(seed, *shape) * (np.arange(shape[1]) % 4 == 0),
    "nearly equal": lambda seed, *shape: 1 + 1e-9 * normal(seed, *shape),
    "far away": lambda seed, *shape: 1e6 + normal(seed, *shape),
    "farther than rounding": lambda seed, *shape: 1e14 + normal(seed, *shape),
    "large": lambda seed, *shape: 1e18 * normal(seed, *shape),  # squares overflow in float32
    "small": lambda seed, *shape: 1e-22 * normal(seed, *shape),  # squares are 0 in float32
    "some large": lambda seed, *shape: normal(seed, *shape) * 10.0 ** (18 * (np.arange(shape[0])[:, None] % 5 == 4)),
}


@settings(max_examples=300)
@given(
    data=st.sampled_from(list(DATA)),
    start=st.sampled_from(["same", *DATA]),
    kind=st.sampled_from([np.float32, np.float64]),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    features=st.integers(1, 70),
    n=st.integers(1, 80),
    count=st.integers(1, 100),
    seed=st.integers(0, 1000),
)
def test_blocks_give_the_weights_of_the_loop(data, start, kind, shape, features, n, count, seed):
    samples = DATA[data](seed, n, features).astype(kind)
    units = shape[0] * shape[1]
    if start == "same":
        weights = samples[np.random.default_rng(seed).choice(n, units)]
    else:
        weights = DATA[start](seed + 1, units, features).astype(kind)
    assert differing(weights, samples, shape, count) == 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("data", DATA)
def test_many_features_give_the_weights_of_the_loop(data, kind):
    samples, weights = DATA[data](1, 150, 784).astype(kind), DATA[data](2, 100, 784).astype(kind)
    assert differing(weights, samples, (10, 10), 300) == 0


def test_numbers_beyond_single_precision_are_learned():
    for scale in (1e100, 1e-100):
        assert differing(scale * normal(1, 36, 50), scale * normal(2, 90, 50), (6, 6)) == 0


def test_a_winner_by_less_than_single_precision_shows_wins():
    samples = normal(1, 64, 100)
    weights = normal(2, 1, 100) + 1e-9 * normal(3, 49, 100)
    assert differing(weights, samples, (7, 7), 64) == 0


@pytest.mark.parametrize("data", ["normal", "bits", "nearly equal", "far away", "repeated", "small"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_table_is_within_its_margin(data, kind):
    size, features, units, grid = blocks.SIZE, 100, 36, grid_of(6, 6)
    x, weights = DATA[data](1, size, features).astype(kind), DATA[data](2, units, features).astype(kind)
    points, q = np.empty((units + size, features), np.float32), np.empty((size, units + size), np.float32)
    margin = blocks._distances(weights, x, points, q, np.finfo(kind).eps / 2)
    h, narrow, less = np.empty(units, kind), np.empty(units, np.float32), np.empty(units, np.float32)
    for t in range(size):
        exact = ((x[t].astype(np.longdouble) - weights) ** 2).sum(1)
        error = q[t, :units] - exact
        assert error.max() - error.min() <= margin
        steps.neighborhood(h, int(exact.argmin()), 0.9, 3.0, grid)
        blocks._move(q, t, h, narrow, less)
        weights += h[:, None] * (x[t] - weights)
    if data in ("normal", "bits", "repeated"):
        assert margin < 1e-2 * exact.max()  # so that few units are within it


def test_few_units_are_compared_by_their_weights(monkeypatch):
    compared = []
    nearest = blocks._nearest.py_func

    def counted(q, limit, *others):
        compared.append((q[: others[0].shape[0]] <= limit).sum())
        return nearest(q, limit, *others)

    monkeypatch.setattr(blocks, "_nearest", counted)
    samples, weights, count = normal(1, 96, 64), normal(2, 36, 64), np.arange(96)
    block = np.empty((blocks.SIZE, 64))
    blocks._train.py_func(weights, samples, count, 0.5 + 0 * count, 1.0 + 0 * count, grid_of(6, 6), block, 2.0**-53)
    assert sum(compared) < 0.1 * 96 * 36


def test_an_aligned_copy_is_a_copy():
    values = normal(1, 5, 7)
    copies = [blocks.aligned(part) for part in (values, values.T, values[:, 1:3], values.astype(np.float32))]
    for copy, part in zip(copies, (values, values.T, values[:, 1:3], values.astype(np.float32)), strict=True):
        assert copy.ctypes.data % 64 == 0 and copy.flags.c_contiguous and copy.dtype == part.dtype
        assert np.array_equal(copy, part) and not np.shares_memory(copy, part)


@pytest.mark.parametrize(
    ("sizes", "pays"),
    [((1000, 100, 784), True), ((1000, 400, 2), False), ((1, 100, 784), False), ((1000, 1, 784), False)],
)
def test_blocks_are_for_large_maps_with_many_features(sizes, pays):
    assert blocks.pay(*sizes) == pays
