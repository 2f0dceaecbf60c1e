"""Products with a few rows: their values, their gradients, and no gradient of a gradient."""

import pytest
import torch
from given import generator

from lib.hashing.shared.active_products import ActiveProducts


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
def test_active_products_are_those_of_the_dense_layer(bias):
    x, weight, active = drawn(3, 4), drawn(5, 4, seed=1), torch.tensor([[4, 0], [1, 2], [2, 4]])
    added = drawn(5, seed=2) if bias else None
    kept = torch.zeros(3, 5, dtype=torch.bool).scatter(1, active, True)
    expected = torch.nn.functional.linear(x, weight, added) * kept
    torch.testing.assert_close(ActiveProducts.apply(x, weight, added, active), expected, rtol=1e-12, atol=1e-12)


def test_the_products_have_the_gradients_of_finite_differences():
    x, weight, bias = drawn(3, 4), drawn(5, 4, seed=1), drawn(5, seed=2)
    active = torch.tensor([[4, 0], [1, 2], [2, 4]])
    tensors = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: ActiveProducts.apply(*t, active), tensors)


def test_only_wanted_gradients_are_computed_and_only_once():
    x, weight, active = drawn(3, 4).requires_grad_(), drawn(5, 4, seed=1), torch.tensor([[4, 0], [1, 2], [2, 4]])
    z = ActiveProducts.apply(x, weight, None, active)
    (gradient,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, 2 * z.detach() @ weight, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
