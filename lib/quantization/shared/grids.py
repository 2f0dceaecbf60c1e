"""Affine grids: which real numbers a tensor's integers represent, and rounding to them.

:mod:`lib.quantization.affine` has the equations.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The real numbers S (q - Z) for the integers q from low to high.

    scale: S, float32, above 0; a scalar, or of a shape that broadcasts against what is quantized.
    zero: Z, int64, of the same shape.
    low: the lowest integer.
    high: the highest integer.

    >>> signed = grid(-1.0, 1.0, bits=2, symmetric=True)  # -1, 0 and 1
    >>> signed.quantize(torch.tensor([-3.0, 0.2, 0.6])).tolist()
    [-1, 0, 1]
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    def quantize(self, r: Tensor) -> Tensor:
        """Round the real numbers r to the grid; return the integers, int64."""
        return self._codes(r).long()

    # method
    def dequantize(self, q: Tensor) -> Tensor:
        """Return the real numbers, float32, that the integers q represent."""
        exact = torch.float64 if self.high - self.low >= 2**16 else torch.float32  # float32 holds 24 bits
        return (q.to(exact) - self.zero).mul_(self.scale).float()

    # end of method

    def fake(self, r: Tensor) -> Tensor:
        """Round r to the grid and keep r's type; the gradient is 1 inside the range and 0 outside."""
        return StraightThrough.apply(r, self)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest number of the grid."""
        lower, upper = (self.dequantize(torch.full_like(self.zero, end)) for end in (self.low, self.high))
        return lower, upper

    # method
    def _codes(self, r: Tensor) -> Tensor:
        r = r.double() if self.high - self.low >= 2**16 else r
        return (r / self.scale).round_().add_(self.zero).clamp_(self.low, self.high)

    # end of method


class StraightThrough(torch.autograd.Function):
    """Rounds to a grid; its gradient is 1 inside the range and 0 outside."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, grid: Grid) -> Tensor:
        if ctx.needs_input_grad[0]:
            lower, upper = grid.bounds()
            slack = 2**-20 * (upper - lower)  # S is rounded; the value that set the range must count as inside
            ctx.save_for_backward((r >= lower - slack) & (r <= upper + slack))
        return grid.dequantize(grid._codes(r)).to(r.dtype)

    # method
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None

    # end of method


def grid(lower: Tensor | float, upper: Tensor | float, *, bits: int = 8, symmetric: bool = False) -> Grid:
    """Choose the grid of 2^bits integers for a range of values.

    lower: smallest value, a number or a tensor with one entry for each grid; 0 is used if it is above 0.
    upper: largest value, of the same shape; 0 is used if it is below 0.
    bits: 1 to 32, or 2 to 32 if symmetric.
    symmetric: whether Z is 0 and the lowest integer is left out.

    Returns the grid; a range of zero width gets S = 1.
    Raises ValueError for bits out of range, and for ranges that are not finite or whose lower end is above the upper.

    >>> four = grid(-1.0, 2.0, bits=2)  # the numbers -1, 0, 1 and 2
    >>> four.scale.item(), four.zero.item(), four.low, four.high
    (1.0, -1, -2, 1)
    """
    bits = checked_bits(bits, 2 if symmetric else 1, 32)
    lower, upper = torch.as_tensor(lower).double(), torch.as_tensor(upper).double()
    if not bool((torch.isfinite(lower) & torch.isfinite(upper) & (lower <= upper)).all()):
        raise ValueError(f"the range {lower.tolist()} to {upper.tolist()} must have finite ends, in order")
    # method
    lower, upper = lower.clamp(max=0), upper.clamp(min=0)
    high = 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    width = torch.maximum(-lower, upper) / high if symmetric else (upper - lower) / (high - low)
    scale = width.clamp(max=torch.finfo(torch.float32).max).float()
    scale = torch.where(scale > 0, scale, 1.0)
    zero = torch.zeros_like(lower) if symmetric else (low - lower / scale).round().clamp(low, high)
    return Grid(scale, zero.long(), low, high)
    # end of method


def checked_bits(bits: object, least: int, most: int) -> int:
    """Return a number of bits; raise ValueError unless it is a whole number from ``least`` to ``most``.

    bits: a Python or numpy integer.
    least: the fewest that are accepted.
    most: the most that are accepted.

    >>> checked_bits(8, 1, 16)
    8
    """
    if isinstance(bits, bool) or not isinstance(bits, Integral):
        raise ValueError(f"bits must be in {least}..{most}, not {bits}: a whole number is needed")
    if not least <= int(bits) <= most:
        raise ValueError(f"bits must be in {least}..{most}, not {bits}")
    return int(bits)
