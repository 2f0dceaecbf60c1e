"""The kernels against the expanded matrix: any shape, both widths of codes, both types of floats, no matrix written."""

import given
import numpy as np
import pytest
import torch
from torch import Tensor

from lib.hashing.shared import lookup
from lib.hashing.shared.lookup_kernels import LANES, Arrays, arrange, arrays, matrix, product

SHAPES = {  # of a weight: (outputs, inputs)
    "one weight": (1, 1),
    "one row": (1, 50),
    "one column": (50, 1),
    "less than a group": (LANES - 1, 20),
    "a whole group": (LANES, 20),
    "a row more": (LANES + 1, 20),
    "several groups": (3 * LANES + 5, 37),
}


def normal(*shape: int, dtype=torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


def made(shape: tuple[int, int], buckets: int, *, dtype=torch.float64, signed: bool = True) -> tuple[Arrays, Tensor]:
    """What the kernels take, and the matrix that it stands for."""
    coded = lookup.codes(shape[0] * shape[1], buckets, seed=3, signed=signed)
    values = normal(buckets, dtype=dtype)
    return arrays(*arrange(values, coded, shape)), lookup.expanded(values, coded).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("samples", [0, 1, 2, 7, 8, 9, 40])
def test_products_are_those_of_the_matrix(shape, samples):
    held, weight = made(shape, min(11, shape[0] * shape[1]))
    x = normal(samples, shape[1], seed=1)
    torch.testing.assert_close(product(x, held, shape[0]), x @ weight.T)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_matrix_is_that_of_the_codes(shape):
    held, weight = made(shape, min(11, shape[0] * shape[1]))
    assert torch.equal(matrix(held, shape[0]), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("buckets", [1, 40, 2**16 - 1, 2**16, 70_000])
def test_every_type_of_code_and_float_is_computed(dtype, signed, buckets):
    held, weight = made((300, 257), buckets, dtype=dtype, signed=signed)
    assert held.places.dtype == (np.uint16 if buckets < 2**16 else np.uint32)
    assert torch.equal(matrix(held, 300), weight)
    for samples in (1, 5):
        x = normal(samples, 257, dtype=dtype)
        y = product(x, held, 300)
        assert y.dtype == dtype
        torch.testing.assert_close(y, x @ weight.T, rtol=1e-4, atol=1e-4)


def test_a_place_without_a_value_is_zero():
    coded = torch.tensor([0, 4, 3, 4, 1, 2], dtype=torch.int32)  # 4 stands for no value
    held = arrays(*arrange(torch.tensor([1.5, 5.0]), coded, (2, 3)))
    assert matrix(held, 2).tolist() == [[1.5, 0, -5], [0, -1.5, 5]]
    assert product(torch.tensor([[1.0, 10, 100]]), held, 2).tolist() == [[-498.5, 485]]


def test_values_that_are_no_numbers_stay_in_their_rows():
    coded = torch.arange(0, 2 * 40 * 3, 2, dtype=torch.int32)
    values = normal(120)
    values[0], values[3] = float("nan"), float("inf")
    held, x = arrays(*arrange(values, coded, (40, 3))), torch.tensor([[1.0, 2, 3]], dtype=torch.float64)
    torch.testing.assert_close(product(x, held, 40), x @ values.reshape(40, 3).T, equal_nan=True)


def test_codes_take_half_of_the_memory_of_floats():
    values, places, signs, bias = arrange(normal(100), lookup.codes(640 * 100, 100, seed=0), (640, 100))
    assert (places.nbytes, signs.nbytes, len(values), len(bias)) == (2 * 640 * 100, 640 * 100 // 8, 101, 640)


def test_samples_may_lie_apart_in_memory():
    held, weight = made((45, 20), 11)
    x = normal(20, 10)[:, ::2].T
    torch.testing.assert_close(product(x, held, 45), x @ weight.T)


def test_the_bias_is_added_to_every_sample():
    coded, values, bias = lookup.codes(45 * 20, 11, seed=3), normal(11), normal(45, seed=2)
    held, weight = arrays(*arrange(values, coded, (45, 20), bias)), lookup.expanded(values, coded).reshape(45, 20)
    for samples in (1, 11):
        x = normal(samples, 20, seed=1)
        torch.testing.assert_close(product(x, held, 45), x @ weight.T + bias)


def test_a_code_out_of_range_is_found():
    values, places, signs, bias = arrange(normal(9), lookup.codes(200, 9, seed=0), (40, 5))
    arrays(values, places, signs, bias)
    for wrong in (10, -1):
        changed = places.clone()
        changed[0, 2, 3] = wrong
        with pytest.raises(ValueError, match=r"code (65535|10) is out of range"):
            arrays(values, changed, signs, bias)
    for wrong in ((signs[:, :-1], bias), (signs, bias[:-1])):
        with pytest.raises(ValueError, match="do not fit"):
            arrays(values, places, *wrong)


def test_vectors_are_those_of_numpy_bit_by_bit():
    held, _ = made((LANES, 6), 9)
    negative = held.signs.view(np.uint32)[..., None] >> np.arange(LANES, dtype=np.uint32) & 1
    expected = np.where(negative == 1, -held.values[held.places], held.values[held.places])[0]
    assert np.array_equal(matrix(held, LANES).numpy(), expected.T)
