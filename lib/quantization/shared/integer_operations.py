"""The operations of an integer network, except for its layers; they pass int32 tensors to each other.

Each is made from the name of its layer, the module of the simulated network that it replaces, the grids of its inputs,
and the grid of its output. All numbers that affect an answer are buffers.
"""

import copy

import torch
from torch import Tensor, nn

from lib.quantization.shared import operations
from lib.quantization.shared.fixed_types import FixedTypes
from lib.quantization.shared.grids import Grid
from lib.quantization.shared.integer_arithmetic import multiplier, narrowed
from lib.quantization.shared.integer_ends import Integers
from lib.quantization.shared.windows import windows


class Clamp(FixedTypes):
    """ReLU, ReLU6 or Hardtanh on integers: clips them to the integers of its two bounds."""

    ends: Tensor

    def __init__(self, name: str, clamp: nn.Module, before: list[Grid], after: Grid) -> None:
        super().__init__()
        ends = torch.tensor(operations.bounds(clamp), device=after.scale.device)
        self.hold("ends", after.quantize(ends).int())

    def forward(self, q: Tensor) -> Tensor:
        return q.clamp(*self.ends.tolist())


class Sum(Integers):
    """a + alpha b, for integers of two grids.

    Both sides are brought to a common scale, finer than the coarser of the two by as many bits as int32 leaves, but at
    most 20; for 16-bit grids these are 15, as in TensorFlow Lite. Their sum is brought to the output's grid.
    """

    zeros: Tensor
    factors: Tensor  # M_0 and -n of either side and of the sum
    shift: Tensor

    def __init__(self, name: str, layer: operations.Sum, before: list[Grid], after: Grid, *, rounding: str = "twice"):
        super().__init__(after, rounding=rounding)
        self.sign = -1 if layer.alpha < 0 else 1
        scales = [side.scale.double() * size for side, size in zip(before, (1, abs(layer.alpha)), strict=True)]
        twice = 2 * torch.maximum(*scales)
        shift = min(20, 31 - max((side.high - side.low).bit_length() for side in before))
        wanted = [*(scale / twice for scale in scales), twice / (2**shift * after.scale.double())]
        self.hold("zeros", torch.stack([side.zero for side in before]))
        self.hold("factors", torch.stack([torch.stack(multiplier(factor)) for factor in wanted]))
        self.hold("shift", torch.tensor(shift))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = (
            self.rescaled((side.long() - zero) << self.shift, factor)
            for side, zero, factor in zip((a, b), self.zeros, self.factors, strict=False)
        )
        return self.brought(first + self.sign * second, self.factors[2])


class Product(Integers):
    """a b, for integers of two grids: (q_a - Z_a) (q_b - Z_b) times M = S_a S_b / S_3."""

    zeros: Tensor
    factor: Tensor
    most: Tensor

    def __init__(
        self, name: str, layer: operations.Product, before: list[Grid], after: Grid, *, rounding: str = "twice"
    ) -> None:
        super().__init__(after, rounding=rounding)
        a, b = before
        sizes = [max(int(side.zero) - side.low, side.high - int(side.zero)) for side in before]
        most, excess = sizes[0] * sizes[1], narrowed(torch.zeros(1).long(), sizes[0] * sizes[1])[1]
        factor = excess * a.scale.double() * b.scale.double() / after.scale.double()
        self.hold("zeros", torch.stack([a.zero, b.zero]))
        self.hold("factor", torch.stack(multiplier(factor)))
        self.hold("most", torch.tensor(most))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total, _ = narrowed((a.long() - self.zeros[0]) * (b.long() - self.zeros[1]), int(self.most))
        return self.brought(total, self.factor)


class Mean(Integers):
    """Average pooling and other means: a sum of N integers, times M = S_1 / (N S_3)."""

    zero: Tensor
    scales: Tensor
    span: Tensor

    def __init__(
        self, name: str, layer: operations.MEANS, before: list[Grid], after: Grid, *, rounding: str = "twice"
    ) -> None:
        super().__init__(after, rounding=rounding)
        self.layer, (read,) = copy.deepcopy(layer), before
        self.hold("zero", read.zero)
        self.hold("scales", torch.stack([read.scale, after.scale]).double())
        self.hold("span", torch.tensor(read.high - read.low))

    def forward(self, q: Tensor) -> Tensor:
        total, counts = windows(self.layer, q.long() - self.zero)
        total, smaller = narrowed(total, int(self.span) * int(counts.max()))
        return self.brought(total, multiplier(smaller * self.scales[0] / (counts * self.scales[1])))


class Table(Integers):
    """A function of one number, tabulated: the integer of the output for each integer of the input."""

    table: Tensor
    first: Tensor

    def __init__(
        self, name: str, function: nn.Module, before: list[Grid], after: Grid, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(after)
        (read,) = before
        with torch.no_grad():
            codes = torch.arange(read.low, read.high + 1, device=after.scale.device)
            values = function(read.dequantize(codes).to(dtype))
        if not values.isfinite().all():
            raise ValueError(f"{name!r} is not finite for all integers of its input's grid")
        self.hold("table", after.quantize(values).int())
        self.hold("first", torch.tensor(read.low))

    def forward(self, q: Tensor) -> Tensor:
        return self.table[(q - self.first).long()]


class Concatenation(nn.Module):
    """Joins integers of several grids, each brought to the grid of the output by a table."""

    def __init__(self, name: str, layer: operations.Concatenation, before: list[Grid], after: Grid) -> None:
        super().__init__()
        self.dim = layer.dim
        self.tables = nn.ModuleList(Table(name, nn.Identity(), [part], after) for part in before)

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat([table(part) for table, part in zip(self.tables, parts, strict=True)], self.dim)


class Pool(nn.Module):
    """A pooling that torch does not have for int32, computed in float64, which holds the same integers."""

    def __init__(self, name: str, layer: nn.Module, before: list[Grid], after: Grid) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)

    def forward(self, q: Tensor) -> Tensor:
        return self.layer(q.double()).int()


class Spread(FixedTypes):
    """Puts the integer that represents zero between the integers of a map, and around it."""

    zero: Tensor

    def __init__(self, name: str, layer: operations.Spread, before: list[Grid], after: Grid) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.hold("zero", after.zero.int())

    def forward(self, q: Tensor) -> Tensor:
        return self.layer(q, int(self.zero))
