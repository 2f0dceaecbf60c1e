"""The two ends of an integer network: real numbers to the integers of a grid, and back."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lib.quantization.shared.fixed_types import FixedTypes, check_numbers
from lib.quantization.shared.grids import Grid
from lib.quantization.shared.integer_arithmetic import rescale


class Integers(FixedTypes):
    """Base of the modules that return integers of a grid.

    after: the grid.
    rounding: "twice" or "once", see :func:`lib.quantization.shared.integer_arithmetic.rescale`.
    """

    ends: Tensor  # the lowest and the highest integer, and Z
    once: Tensor

    def __init__(self, after: Grid, *, rounding: str = "twice") -> None:
        super().__init__()
        self.hold("ends", torch.tensor([after.low, after.high, int(after.zero)]))
        self.hold("once", torch.tensor(rounding == "once"))

    @property
    def low(self) -> int:
        return int(self.ends[0])

    @property
    def high(self) -> int:
        return int(self.ends[1])

    @property
    def z3(self) -> int:
        return int(self.ends[2])

    def rescaled(self, q: Tensor, factor: Iterable[Tensor]) -> Tensor:
        """Multiply by M, round; int64."""
        return rescale(q, *factor, rounding="once" if self.once else "twice")

    def brought(self, q: Tensor, factor: Iterable[Tensor]) -> Tensor:
        """Multiply by M, round, and bring to the grid; int32."""
        return (self.rescaled(q, factor) + self.z3).clamp(self.low, self.high).int()


class Quantize(Integers):
    """Turns real numbers into the integers of a grid.

    after: the grid.
    """

    scale: Tensor

    def __init__(self, after: Grid) -> None:
        super().__init__(after)
        self.hold("scale", after.scale)

    @property
    def grid(self) -> Grid:
        return Grid(self.scale, self.ends[2], self.low, self.high)

    def forward(self, r: Tensor) -> Tensor:
        check_numbers(r)
        return self.grid.quantize(r).int()


class Dequantize(Quantize):
    """Turns the integers of a grid into real numbers.

    before: the grid.
    dtype: of the numbers.
    """

    def __init__(self, before: Grid, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(before)
        self.dtype = dtype

    def forward(self, q: Tensor) -> Tensor:
        return self.grid.dequantize(q).to(self.dtype)
