"""Rounding in a network that is trained: another function on the way back than on the way there."""

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
    """Compute ``there(values)``, and give ``back`` of the result's error to the values.

    values: any shape.
    there: what is computed forward; its result has the shape of the values.
    back: error of the result -> error of the values; default: the same, straight through.

    >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
    >>> through(x, torch.round).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """
    return _Through.apply(values, there, back)
