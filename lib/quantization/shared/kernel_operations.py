"""The operations of a network on torch's quantized tensors: uint8 with a scale and a zero point.

Each is made from the name of its layer, the module of the simulated network that it replaces, the grids of its inputs,
and the grid of its output. All numbers that affect an answer are buffers. Weights are packed for the kernels when the
layer first runs, and again when a buffer has changed.
"""

import copy
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib.quantization.affine import form_on_grid
from lib.quantization.shared import operations
from lib.quantization.shared.fixed_types import FixedTypes, check_numbers
from lib.quantization.shared.grids import Grid


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warning that quantized tensors are deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*", category=UserWarning)
        yield


def weight_of(codes: Tensor, scale: Tensor) -> Tensor:
    """Make the quantized weight that the kernels' packing functions take.

    codes: -127 to 127, (outputs, ...).
    scale: S of each output, (outputs,).
    """
    zeros = torch.zeros(len(codes), dtype=torch.int64)
    wide = codes.float() * scale.float().reshape(-1, *[1] * (codes.dim() - 1))
    with quiet():
        return torch.quantize_per_channel(wide, scale.double(), zeros, 0, torch.qint8)


class Kernel(FixedTypes):
    """Base of the modules that return uint8 on a grid.

    name: of the layer, for errors.
    after: the grid, of 8 bits.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, name: str, after: Grid) -> None:
        super().__init__()
        check_eight(name, after)
        self.hold("scale", after.scale)
        self.hold("zero", after.zero - after.low)
        self._ready: tuple[list[Tensor | None], list[int] | None, Any] = [], None, None

    def prepare(self) -> Any:
        """Build the kernel's arguments from the buffers."""
        return self.scale.item(), int(self.zero.item())

    def ready(self) -> Any:
        """Return the kernel's arguments, rebuilt by :meth:`prepare` if a buffer has changed."""
        tensors, versions, made = self._ready
        buffers = self._buffers.values()
        same = len(tensors) == len(buffers) and all(map(operator.is_, tensors, buffers))
        if not same or versions is None or versions != _versions(tensors):
            made = self.prepare()
            self._ready = list(buffers), _versions(buffers), made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": ([], None, None)}  # a copy packs its own

    def quantized(self, r: Tensor) -> Tensor:
        """Round real numbers to the grid."""
        scale, zero = self.ready()
        return torch.quantize_per_tensor(r.float(), scale, zero, torch.quint8)


def _versions(tensors: Iterable[Tensor | None]) -> list[int] | None:
    """How often each tensor was written to; None for tensors made in inference mode, for which torch does not count."""
    try:
        return [tensor._version for tensor in tensors if tensor is not None]
    except RuntimeError:
        return None


def check_eight(name: str, grid: Grid) -> None:
    """Raise ValueError if a grid does not have 8 bits."""
    if grid.high - grid.low != 255:
        bits = (grid.high - grid.low).bit_length()
        raise ValueError(f"layer {name!r}: the kernels take activations of 8 bits, not of {bits}")


class Quantize(Kernel):
    """Turns float into uint8.

    after: grid of the numbers.
    """

    def __init__(self, after: Grid) -> None:
        super().__init__("input", after)

    def forward(self, r: Tensor) -> Tensor:
        check_numbers(r)
        return self.quantized(r)


class Dequantize(nn.Module):
    """Turns uint8 into real numbers; the tensors carry their grid.

    before: the grid.
    dtype: of the numbers.
    """

    def __init__(self, before: Grid, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, q: Tensor) -> Tensor:
        return q.dequantize().to(self.dtype)


class Layer(Kernel):
    """A linear layer, or a 1-d or 2-d convolution; a 1-d one runs as a 2-d one of height 1.

    packing: takes the name, the shape of the weight, and stride, padding, dilation and groups (None for a linear
        layer); returns a context in which the weight is packed for kernels that add exactly.
    """

    codes: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        name: str,
        layer: operations.LAYERS,
        before: list[Grid],
        after: Grid,
        *,
        packing: Callable[..., AbstractContextManager[None]],
    ) -> None:
        super().__init__(name, after)
        form, weight = form_on_grid(layer, name)
        grid, self.name, self.packing = form.grid(weight), name, packing
        self.line, self.place = isinstance(layer, nn.Conv1d), _place(layer)
        if not (isinstance(layer, nn.Linear) or self.place) or form.bits > 8 or not form.symmetric:
            raise ValueError(
                f"layer {name!r}: the kernels take linear layers, 1-d and 2-d convolutions with a border of zeros, as"
                " wide on either side, and symmetric weights of at most 8 bits"
            )
        check_eight(name, before[0])
        codes = grid.quantize(weight).to(torch.int8)
        self.hold("codes", codes[:, :, None] if self.line else codes)
        self.hold("weight_scale", grid.scale.flatten().expand(len(weight)))
        self.hold("bias", None if layer.bias is None else layer.bias.detach().float())

    def prepare(self) -> Any:
        weight = weight_of(self.codes, self.weight_scale)
        with self.packing(self.name, tuple(self.codes.shape), self.place):
            if self.place is None:
                packed = torch.ops.quantized.linear_prepack(weight, self.bias)
            else:
                packed = torch.ops.quantized.conv2d_prepack(weight, self.bias, *self.place)
        return packed, *super().prepare()

    def forward(self, q: Tensor) -> Tensor:
        packed, scale, zero = self.ready()
        if self.place is None:
            return torch.ops.quantized.linear.default(q, packed, scale, zero)
        run = torch.ops.quantized.conv2d.new  # the overload without stride and padding
        if not self.line:
            return run(q, packed, scale, zero)
        if q.dim() == 2:  # (n, features), of a batch norm
            return run(q[:, :, None, None], packed, scale, zero)[:, :, 0, 0]
        return run(q[:, :, None], packed, scale, zero)[:, :, 0]


def _place(layer: nn.Module) -> tuple[Any, ...] | None:
    """Stride, padding, dilation and groups for a 2-d kernel; None for all but convolutions that the kernels take."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.padding_mode != "zeros":
        return None
    border = layer._reversed_padding_repeated_twice  # also of the padding "same": the last side first, before and after
    padding = tuple(border[::-2])
    if padding != tuple(border[::-1][1::2]):
        return None
    if isinstance(layer, nn.Conv1d):
        return (1, *layer.stride), (0, *padding), (1, *layer.dilation), layer.groups
    return layer.stride, padding, layer.dilation, layer.groups


class Sum(Kernel):
    """a + b."""

    def __init__(self, name: str, layer: operations.Sum, before: list[Grid], after: Grid) -> None:
        super().__init__(name, after)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.quantized.add(a, b, *self.ready())


class Product(Kernel):
    """a b."""

    def __init__(self, name: str, layer: operations.Product, before: list[Grid], after: Grid) -> None:
        super().__init__(name, after)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.quantized.mul(a, b, *self.ready())


class Concatenation(Kernel):
    """Joins tensors, each brought to the grid of the output."""

    def __init__(self, name: str, layer: operations.Concatenation, before: list[Grid], after: Grid) -> None:
        super().__init__(name, after)
        self.dim = layer.dim

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.ops.quantized.cat(list(parts), self.dim, *self.ready())


class ByFloat(Kernel):
    """An operation without a kernel that rounds to its own grid: a mean, a function of one number, a weighted sum."""

    def __init__(self, name: str, layer: nn.Module, before: list[Grid], after: Grid) -> None:
        super().__init__(name, after)
        self.layer = copy.deepcopy(layer)

    def forward(self, *parts: Tensor) -> Tensor:
        return self.quantized(self.layer(*(part.dequantize() for part in parts)))


class Clamp(FixedTypes):
    """ReLU, ReLU6 or Hardtanh; the tensors carry their grid."""

    ends: Tensor
    needed: Tensor

    def __init__(self, name: str, clamp: nn.Module, before: list[Grid], after: Grid, *, fused: bool = False) -> None:
        super().__init__()
        codes = after.quantize(torch.tensor(operations.bounds(clamp)))
        self.hold("ends", after.dequantize(codes))
        # Right after an operation with the same grid, uint8 has clipped already if the bounds are its ends.
        self.hold("needed", torch.tensor(not fused or codes.tolist() != [after.low, after.high]))

    def forward(self, q: Tensor) -> Tensor:
        return q.clamp(*self.ends.tolist()) if self.needed else q


def weighed_sum(name: str, layer: operations.Sum, before: list[Grid], after: Grid) -> nn.Module:
    """The kernel for a + b; a + alpha b is computed in float."""
    return (Sum if layer.alpha == 1 else ByFloat)(name, layer, before, after)


def fused_clamp(name: str, clamp: nn.Module, before: list[Grid], after: Grid) -> nn.Module | None:
    """The clamp right after an operation with the same grid; None for a ReLU that uint8's range has done already."""
    part = Clamp(name, clamp, before, after, fused=True)
    return part if isinstance(clamp, nn.Hardtanh) or part.needed else None
