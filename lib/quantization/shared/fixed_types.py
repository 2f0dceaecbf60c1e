"""Buffers that keep their types, and so their exact numbers, when a network is moved to another type."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class FixedTypes(nn.Module):
    """A module whose tensors keep their types: ``.half()``, ``.to(torch.float64)`` and the like leave them alone.

    They still move to another device. In a narrower type, integers and their scales would change, and so would the
    answers of an integer network.

    >>> module = FixedTypes()
    >>> module.hold("scale", torch.tensor(0.1))
    >>> module.half().scale.dtype
    torch.float32
    """

    def hold(self, name: str, value: Tensor | None) -> None:
        """Keep a copy of a tensor as a buffer."""
        with torch.inference_mode(False):  # a copy made in inference mode could not be written to outside it
            self.register_buffer(name, None if value is None else value.clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


def check_numbers(images: Tensor) -> None:
    """Raise ValueError if images hold NaN, for which a grid has no integer.

    images: of any shape.

    >>> check_numbers(torch.tensor([1.0, float("inf")]))
    """
    # Summing is quicker than checking each value, but the sum is NaN also if infinities cancel.
    if math.isnan(images.sum().item()) and images.isnan().any():
        raise ValueError("the images hold NaN: numbers are needed")
