"""The look-up against indexing and loops, its gradients of any order, and where it is not compiled."""

import given
import numpy as np
import pytest
import torch
from torch import Tensor

from lib.hashing.shared import lookup, mixing
from lib.hashing.shared.lookup import codes, collected, expanded


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways to compute: what holds for one holds for the other."""
    if request.param == "torch":
        monkeypatch.setattr(lookup, "COMPILED", ())
    return request.param


def normal(*shape: int, dtype=torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


def parts(coded: Tensor) -> tuple[Tensor, Tensor]:
    """Buckets and signs."""
    return coded // 2, 1 - 2 * (coded % 2)


def test_codes_hold_the_buckets_and_signs_of_the_hash():
    found, signs = parts(codes(5000, buckets=70, seed=3))
    np.testing.assert_array_equal(found.numpy(), mixing.buckets(np.arange(5000), 70, 3))
    np.testing.assert_array_equal(signs.numpy(), mixing.signs(np.arange(5000), 3))
    plain, ones = parts(codes(5000, buckets=70, seed=3, signed=False))
    assert torch.equal(plain, found) and bool((ones == 1).all())


def test_codes_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    whole = codes(1000, buckets=7, seed=1)
    monkeypatch.setattr(lookup, "AT_ONCE", 64)
    assert torch.equal(codes(1000, buckets=7, seed=1), whole) and whole.dtype == torch.int32
    assert torch.equal(codes(100, buckets=7, seed=1), whole[:100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_signs_times_the_values_of_buckets(way, dtype):
    values, coded = normal(70, dtype=dtype), codes(5000, buckets=70, seed=3)
    place, sign = parts(coded)
    assert torch.equal(expanded(values, coded), values[place] * sign)


def test_sums_are_those_of_a_loop(way):
    coded, weights = codes(300, buckets=5, seed=2), normal(300)
    expected = [0.0] * 5
    for code, weight in zip(coded.tolist(), weights.tolist(), strict=True):
        expected[code // 2] += weight if code % 2 == 0 else -weight
    assert collected(weights, coded, 5).tolist() == pytest.approx(expected, rel=1e-12)


def test_one_bucket_for_each_weight_is_the_dense_layer(way):
    weight = normal(6, 4)
    identity = 2 * torch.arange(24, dtype=torch.int32)
    assert torch.equal(expanded(weight.flatten(), identity).reshape(6, 4), weight)
    assert torch.equal(collected(weight.flatten(), identity, 24).reshape(6, 4), weight)


def test_a_weight_without_a_bucket_is_zero_and_adds_nothing(way):
    values, coded = torch.tensor([2.0, -3.0], requires_grad=True), torch.tensor([4, 3, 4, 0], dtype=torch.int32)
    weights = expanded(values, coded)
    assert weights.tolist() == [0, 3, 0, 2] and not weights.signbit()[[0, 2]].any()
    weights.backward(torch.tensor([5.0, 7.0, 11.0, 13.0]))
    assert values.grad.tolist() == [13, -7]


def test_each_pass_is_the_transpose_of_the_other(way):
    coded, values, weights = codes(400, buckets=9, seed=0), normal(9), normal(400, seed=1)
    assert (expanded(values, coded) @ weights).item() == pytest.approx((values @ collected(weights, coded, 9)).item())


def test_gradients_of_first_and_second_order_are_right(way):
    coded = codes(20, buckets=4, seed=5)
    values, weights = normal(4).requires_grad_(), normal(20).requires_grad_()

    def both(values: Tensor, weights: Tensor) -> Tensor:  # not linear, so that second gradients are not zero
        return expanded(values, coded).sin() * collected(weights.square(), coded, 4)[coded // 2]

    assert torch.autograd.gradcheck(both, (values, weights)) and torch.autograd.gradgradcheck(both, (values, weights))


def test_a_third_gradient_is_that_of_indexing(way):
    coded = codes(60, buckets=4, seed=5)
    place, sign = parts(coded)
    thirds = []
    for look in (lambda v: expanded(v, coded), lambda v: v[place] * sign):
        values = normal(4).requires_grad_()
        gradient = (look(values).pow(5) * normal(60, seed=1)).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(gradient.sum(), values, create_graph=True)
        thirds.append(gradient.detach())
    torch.testing.assert_close(*thirds)


def test_the_gradient_of_a_sum_is_one_number_everywhere(way):
    values, coded = normal(6, dtype=torch.float32).requires_grad_(), codes(500, buckets=6, seed=1)
    expanded(values, coded).sum().backward()  # torch hands down a gradient that is one number in memory
    place, sign = parts(coded)
    assert values.grad.tolist() == [int(sign[place == k].sum()) for k in range(6)]


def test_strided_values_and_gradients_are_read_rightly(way):
    coded, values, weights = codes(90, buckets=6, seed=1), normal(12)[::2], normal(2, 90).T[:, 1]
    assert torch.equal(expanded(values, coded), expanded(values.clone(), coded))
    assert torch.equal(collected(weights, coded, 6), collected(weights.clone(), coded, 6))
    twice = torch.stack([coded, coded], dim=1)[:, 0]
    assert torch.equal(expanded(values, twice), expanded(values, coded))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_added_in_float32(dtype):
    ones = torch.full((5000,), 0.125, dtype=dtype)  # added in bfloat16 they would stop at 32
    assert collected(ones, torch.zeros(5000, dtype=torch.int32), 1).tolist() == [ones.new_tensor(625.0).item()]
    values, coded = normal(5, dtype=dtype).requires_grad_(), codes(100, buckets=5, seed=0)
    weights = expanded(values, coded)
    assert weights.dtype == dtype and torch.equal(weights.float(), expanded(values.float(), coded))
    weights.sum().backward()
    assert values.grad.dtype == dtype


def test_a_million_weights_of_one_bucket_lose_no_digits():
    total = collected(torch.full((10**6,), 0.1), torch.zeros(10**6, dtype=torch.int32), 1)
    assert total.item() == np.float32(10**6 * float(np.float32(0.1)))


def test_many_values_at_once_are_many_look_ups():
    coded, values, weights = codes(50, buckets=4, seed=0), normal(3, 4), normal(3, 50, seed=1)
    looked = torch.func.vmap(lambda v: expanded(v, coded))(values)
    assert torch.equal(looked, torch.stack([expanded(v, coded) for v in values]))
    per_sample = torch.func.vmap(torch.func.grad(lambda v, w: (expanded(v, coded) * w).sum()), in_dims=(None, 0))
    expected = torch.stack([collected(w, coded, 4) for w in weights])
    torch.testing.assert_close(per_sample(values[0], weights), expected)
    torch.testing.assert_close(torch.func.vmap(lambda w: collected(w, coded, 4), in_dims=1)(weights.T), expected)


@pytest.mark.parametrize("wrong", [-1, 5, 2**31 - 1])
def test_a_code_out_of_range_is_refused(wrong):
    coded = torch.tensor([0, wrong], dtype=torch.int32)
    with pytest.raises(ValueError, match="a code is out of range"):
        expanded(torch.zeros(2), coded)
    with pytest.raises(ValueError, match="a code is out of range"):
        collected(torch.zeros(2), coded, 2)


def test_codes_of_another_type_or_number_are_refused():
    for coded in (torch.tensor([0, 1]), torch.zeros(1, 2, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"codes must be \(n,\) int32"):
            expanded(torch.zeros(2), coded)
    with pytest.raises(ValueError, match="one code for each weight, not 2"):
        collected(torch.zeros(3), torch.zeros(2, dtype=torch.int32), 2)


@pytest.mark.parametrize("buckets", [0, -1, 2**30])
def test_too_few_or_too_many_buckets_are_refused(buckets):
    with pytest.raises(ValueError, match=rf"from 1 to 2\^30 - 1, not {buckets}"):
        codes(3, buckets=buckets, seed=0)
