"""Products with only a few rows of a linear layer's weight, other rows for each sample."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class ActiveProducts(torch.autograd.Function):
    """The product w_i x + b_i for the active i of each sample, and 0 for the others.

    torch has no such product, but ``embedding_bag`` computes a weighted sum of a few rows, s = sum_i g_i w_i. The
    derivative of s x by g_i is w_i x, the output; its derivative by w_i is g_i x, the gradient of the weight.

    >>> x, weight, active = torch.ones(2, 3), torch.arange(12.0).view(4, 3), torch.tensor([[0, 3], [1, 2]])
    >>> ActiveProducts.apply(x, weight, None, active)
    tensor([[ 3.,  0.,  0., 30.],
            [ 0., 12., 21.,  0.]])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, active: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, active)
        # method
        with torch.inference_mode(False), torch.enable_grad():
            x, rows, numbers = (t.clone() if t.is_inference() else t.detach() for t in (x, weight, active))
            g = torch.zeros(active.shape, dtype=x.dtype, device=x.device, requires_grad=True)
            sums = functional.embedding_bag(numbers, rows, per_sample_weights=g, mode="sum")
            (z,) = torch.autograd.grad(sums, g, x)  # w_i x
        z = z if bias is None else z + bias[active]
        return x.new_zeros(len(x), len(weight)).scatter(1, active, z)
        # end of method

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, active = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        # method
        g = gradient.gather(1, active)
        with torch.enable_grad():
            rows = weight.detach().requires_grad_()
            sums = functional.embedding_bag(active, rows, per_sample_weights=g, mode="sum")  # sum_i g_i w_i
            row_gradients = torch.autograd.grad(sums, rows, x)[0] if of_weight else None  # g_i x
        # end of method
        biases = g.new_zeros(len(weight)).index_add(0, active.flatten(), g.flatten()) if of_bias else None
        return sums.detach() if of_x else None, row_gradients, biases, None
