"""Feature hashing against a loop, and what its hashes promise on average."""

import given
import numpy as np
import pytest
import torch

from lib.hashing.feature_hashing import FeatureHashing
from lib.hashing.shared import mixing

DRAWS = {True: 8000, False: 2000}  # seeds, with and without signs


def samples(n: int, inputs: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, inputs, generator=given.generator(), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("inputs", "features"), [(1, 1), (7, 3), (64, 16), (5, 100)])
@pytest.mark.parametrize("signed", [True, False])
def test_a_feature_is_the_sum_of_the_inputs_in_its_bucket(inputs, features, signed):
    x, keys = samples(4, inputs), np.arange(inputs)
    buckets, signs = mixing.buckets(keys, features, 9).tolist(), mixing.signs(keys, 9).tolist()
    expected = torch.zeros(4, features, dtype=torch.float64)
    for i in range(4):
        for j in range(inputs):
            expected[i, buckets[j]] += x[i, j] * (signs[j] if signed else 1)
    torch.testing.assert_close(FeatureHashing(features, seed=9, signed=signed).transform(x), expected)


@pytest.fixture(scope="module")
def products():
    """Signed or not -> inner products of two hashed samples, over many seeds; the samples and K."""
    x = torch.tensor([[1.0, 2, 0, -1, 0.5, 3], [2.0, 0.5, 1, 1, -1, 1]], dtype=torch.float64)

    def product(seed: int, signed: bool) -> float:
        first, second = FeatureHashing(4, seed=seed, signed=signed).transform(x)
        return float(first @ second)

    return {signed: np.array([product(seed, signed) for seed in range(n)]) for signed, n in DRAWS.items()}, x, 4


def test_inner_products_are_right_on_average(products):
    drawn, (x, y), _ = products
    error = drawn[True].std(ddof=1) / DRAWS[True] ** 0.5
    assert abs(drawn[True].mean() - float(x @ y)) < 4 * error


def test_their_variance_is_the_formula(products):
    drawn, (x, y), features = products
    outer = torch.outer(x.square(), y.square()) + torch.outer(x * y, x * y)
    expected = float(outer.sum() - outer.diagonal().sum()) / features
    squares = (drawn[True] - drawn[True].mean()) ** 2
    assert abs(squares.mean() - expected) < 4 * squares.std() / DRAWS[True] ** 0.5


def test_without_signs_inner_products_are_biased_by_other_inputs(products):
    drawn, (x, y), features = products
    bias = float(x.sum() * y.sum() - x @ y) / features
    error = drawn[False].std(ddof=1) / DRAWS[False] ** 0.5
    assert bias > 20 * error and abs(drawn[False].mean() - float(x @ y) - bias) < 4 * error


def test_lengths_are_kept_ever_better_by_more_features():
    x = samples(1, 50)
    x /= x.norm()
    spread = [np.std([float(FeatureHashing(k, seed=s).transform(x).norm() ** 2) for s in range(300)]) for k in (8, 128)]
    assert spread[1] == pytest.approx(spread[0] / 4, rel=0.25)  # as 1 / sqrt(K)


def test_the_map_is_linear():
    hashing, (x, y) = FeatureHashing(5, seed=1), samples(2, 20)[:, None]
    torch.testing.assert_close(
        hashing.transform(2 * x - 3 * y), 2 * hashing.transform(x) - 3 * hashing.transform(y), rtol=1e-12, atol=1e-12
    )


def test_gradients_pass_to_the_inputs():
    x = samples(3, 6).requires_grad_()
    assert torch.autograd.gradcheck(FeatureHashing(4, seed=0).transform, x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_and_tensors_give_the_same(dtype):
    x = samples(6, 9).numpy().astype(dtype)
    hashing = FeatureHashing(3, seed=2)
    expected = hashing.transform(torch.from_numpy(x.copy()))
    backwards = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]  # negative strides, which torch does not take
    for given_as in (x, np.asfortranarray(x), backwards):
        out = hashing.transform(given_as)
        assert out.dtype == dtype and np.array_equal(out, expected.numpy())


def test_short_floats_are_added_in_float32():
    x = torch.full((1, 3000), 0.125, dtype=torch.bfloat16)  # added in bfloat16 they would stop at 32
    assert FeatureHashing(1, seed=0, signed=False).transform(x).tolist() == [[376.0]]  # the nearest to 375


def test_the_same_seed_gives_the_same_features_and_others_do_not():
    x = samples(2, 30)
    outs = [FeatureHashing(8, seed=seed).transform(x) for seed in (4, 4, 5)]
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("features", [0, -1, 2.5, True])
def test_other_numbers_of_features_are_refused(features):
    with pytest.raises(ValueError, match=f"features must be a whole number from 1 up, not {features}"):
        FeatureHashing(features, seed=0)


def test_other_seeds_are_refused():
    with pytest.raises(ValueError, match="seed must be a whole number"):
        FeatureHashing(3, seed=-1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3), r"x must be \(n, D\) with at least one sample and one input, not \(3,\)"),
        (torch.zeros(0, 3), r"not \(0, 3\)"),
        (torch.zeros(3, 0), r"not \(3, 0\)"),
        (np.zeros((2, 2, 2)), r"not \(2, 2, 2\)"),
        (torch.zeros(2, 2, dtype=torch.uint8), "x is torch.uint8: floating-point numbers are needed"),
        (np.ones((2, 2), dtype=int), "x is torch.int64"),
        (torch.tensor([[1.0, float("nan")]]), "x holds NaN or infinity"),
        (np.array([[1.0, np.inf]]), "x holds NaN or infinity"),
    ],
)
def test_other_samples_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        FeatureHashing(3, seed=0).transform(x)
