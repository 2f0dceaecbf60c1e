"""Rounding in a network that is trained: one function in the forward pass, another in the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Through(torch.autograd.Function):
    """``there(values)`` forward, ``back(error)`` backward."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.back = back
        result = there(values)
        return result.clone() if result is values else result

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(error), None, None


def through(
    values: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor] = lambda error: error
) -> Tensor:
    """Compute ``there(values)``; in the backward pass, the values get ``back`` of the result's error.

    values: any shape.
    there: what is computed forward; its result has the shape of the values.
    back: error of the result -> error of the values; default: the same, straight through.

    >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
    >>> through(x, torch.round).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """
    return _Through.apply(values, there, back)
