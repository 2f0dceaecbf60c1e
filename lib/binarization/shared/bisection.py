"""Where a monotone function of whole numbers, or of all floats, crosses a threshold, found by bisection."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Crossing:
    """Where a comparison changes, if it does, elementwise.

    place: the first number for which the comparison holds; where ``below``, the last. Means nothing where ``constant``.
    below: bool, True where the comparison holds up to ``place``, and not above.
    constant: bool, True where it is the same for all numbers.
    at_low: bool, whether it holds for the lowest number.
    """

    place: Tensor
    below: Tensor
    constant: Tensor
    at_low: Tensor


def bisect(reached: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Crossing:
    """Find where a comparison changes between two whole numbers, for each of many comparisons.

    reached: numbers -> bool, both of the shape of ``low``; each changes at most once from low to high.
    low: int64.
    high: int64, above low.

    >>> found = bisect(lambda x: x * x >= 50, torch.tensor([0]), torch.tensor([100]))
    >>> found.place.item(), found.below.item()
    (8, False)
    """
    at_low, at_high = reached(low), reached(high)
    below = at_low & ~at_high
    a, b = low, high  # reached(a) == at_low and reached(b) == at_high, always
    while (b - a > 1).any():
        middle = (a + b) // 2
        as_high = reached(middle) == at_high
        a, b = torch.where(as_high, a, middle), torch.where(as_high, middle, b)
    return Crossing(torch.where(below, a, b), below, at_low == at_high, at_low)


def as_ordered(x: Tensor) -> Tensor:
    """Floats as whole numbers in the same order; both zeros are 0.

    x: float32.

    >>> as_ordered(torch.tensor([-1.0, 0.0, 1e-45])).tolist()
    [-1065353216, 0, 1]
    """
    bits = x.view(torch.int32).long()
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def as_float(ordered: Tensor) -> Tensor:
    """The float32 that :func:`as_ordered` turned into this whole number.

    ordered: int64.
    """
    bits = torch.where(ordered < 0, ordered.abs() | 0x80000000, ordered)
    return torch.where(bits >= 2**31, bits - 2**32, bits).int().view(torch.float32)
