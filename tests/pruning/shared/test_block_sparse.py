"""Products in blocks against the dense product of the masked weight, and the blocks kept against all of them sorted."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.pruning.shared.block_sparse import ROWS, Blocks, mask


def weight(outputs, inputs, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def same(matrix, x):
    """Sums of float32 in another order: each differs by a few of the last bits of the sum of its magnitudes."""
    blocks, exact = Blocks(matrix), matrix.double() @ x.double()
    size = matrix.double().abs() @ x.double().abs()
    for _ in range(2):  # a product leaves nothing behind
        product = blocks @ x
        assert product.shape == exact.shape and product.dtype == torch.float32
        assert ((product - exact).abs() <= 1e-6 * size + 1e-30).all()


@pytest.mark.parametrize("n", [None, 1, 2, 3, 16, 31, 32, 37])
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (15, 7), (17, 33), (100, 41), (64, 3)])
@pytest.mark.parametrize("density", [1e-9, 0.1, 0.5, 1.0])
def test_the_product_is_the_dense_one_of_the_masked_weight(n, shape, density):
    matrix = weight(*shape)
    same(matrix * mask(matrix, density=density), weight(shape[1], n or 1, seed=1)[:, 0 if n is None else slice(None)])


@pytest.mark.parametrize("blocks", range(18))
def test_any_number_of_blocks_in_a_group(blocks):
    matrix = weight(16, 17)
    matrix[:, torch.arange(17) >= blocks] = 0
    assert len(Blocks(matrix).values) == blocks
    for n in (1, 5, 40):
        same(matrix, weight(17, n, seed=1))


def test_no_block_left_gives_zeros():
    blocks = Blocks(torch.zeros(20, 5))
    assert len(blocks.values) == 0
    assert torch.equal(blocks @ torch.ones(5), torch.zeros(20))
    assert torch.equal(blocks @ torch.ones(5, 3), torch.zeros(20, 3))
    assert torch.equal(blocks @ torch.ones(5, 40), torch.zeros(20, 40))


def test_rows_and_whole_groups_of_zeros():
    matrix = weight(80, 11)
    matrix[3] = 0
    matrix[16:48] = 0
    matrix[70:] = 0
    same(matrix, weight(11, 4, seed=1))
    same(matrix, weight(11, 50, seed=1))
    same(matrix, weight(11, 1, seed=1)[:, 0])


def test_scattered_zeros_are_stored_and_give_the_same_product():
    matrix = weight(50, 30) * (weight(50, 30, seed=2) > 1)
    same(matrix, weight(30, 6, seed=1))
    assert np.count_nonzero(Blocks(matrix).values) == matrix.count_nonzero()


def test_inputs_need_not_lie_together_in_memory():
    same(weight(20, 6), weight(4, 6, seed=1).T)
    same(weight(20, 6), weight(6, 8, seed=1)[:, ::2])
    assert (Blocks(weight(20, 6)) @ torch.zeros(6, 0)).shape == (20, 0)


def test_the_weight_is_copied():
    matrix = weight(16, 4)
    blocks = Blocks(matrix)
    before = blocks @ torch.ones(4)
    matrix.zero_()
    assert torch.equal(blocks @ torch.ones(4), before)


def test_a_trained_parameter_is_taken_without_its_gradient():
    layer, x = nn.Linear(8, 40, bias=False), weight(3, 8).requires_grad_()
    product = Blocks(layer.weight) @ x.T
    assert not product.requires_grad and torch.allclose(product.T, layer(x), atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 10), (40, 7), (5, 20)])
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_the_kept_blocks_are_those_of_largest_mean_magnitude(shape, density):
    matrix = weight(*shape)
    means = {
        (r, c): matrix[r : r + ROWS, c].abs().mean().item() for r in range(0, shape[0], ROWS) for c in range(shape[1])
    }
    kept = sorted(means, key=means.get, reverse=True)[: max(1, round(density * len(means)))]
    expected = torch.zeros(shape, dtype=torch.bool)
    for r, c in kept:
        expected[r : r + ROWS, c] = True
    assert torch.equal(mask(matrix, density=density), expected)


def test_half_precision_is_compared_in_32_bits():
    matrix = torch.full((16, 2), 6e4, dtype=torch.float16)  # sixteen of them add up to more than the type can hold
    matrix[0, 0] = 5e4
    assert mask(matrix, density=0.5).sum(0).tolist() == [0, 16]


@pytest.mark.parametrize("bad", [torch.zeros(4), torch.zeros(0, 4), torch.full((2, 2), torch.nan)])
def test_a_weight_without_blocks_is_refused(bad):
    with pytest.raises(ValueError, match="accepted are rows and columns of finite numbers"):
        mask(bad, density=0.5)


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan")])
def test_a_density_out_of_range_is_refused(density):
    with pytest.raises(ValueError, match="density must be in"):
        mask(weight(4, 4), density=density)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(4), "rows and columns of float32"),
        (torch.zeros(4, 0), "rows and columns of float32"),
        (torch.zeros(4, 4, dtype=torch.float64), "torch.float64"),
        (torch.zeros(4, 4, device="meta"), "on meta"),
        (torch.full((2, 2), torch.inf), "NaN or infinity"),
    ],
)
def test_a_weight_that_has_no_product_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Blocks(bad)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3), torch.zeros(4, 2, 2), torch.zeros(3, 4), torch.zeros(4).double(), torch.zeros(4, device="meta")],
)
def test_inputs_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=r"accepted are \(4,\) and \(4, n\) of float32"):
        Blocks(weight(5, 4)) @ bad
