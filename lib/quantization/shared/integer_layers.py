"""Linear and convolution layers on the integers of grids."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.quantization.affine import form_on_grid
from lib.quantization.shared import operations
from lib.quantization.shared.grids import Grid
from lib.quantization.shared.integer_arithmetic import INT32, accumulate, multiplier
from lib.quantization.shared.integer_ends import Integers


class Layer(Integers):
    """A linear or convolution layer. Raises ValueError if one of its sums may overflow int32."""

    q2: Tensor
    z2: Tensor
    bias: Tensor
    bias_scale: Tensor
    factor: Tensor  # M_0 and -n of each output
    zero: Tensor

    def __init__(
        self, name: str, layer: operations.LAYERS, before: list[Grid], after: Grid, *, rounding: str = "twice"
    ) -> None:
        super().__init__(after, rounding=rounding)
        form, weight = form_on_grid(layer, name)
        (read,), grid = before, form.grid(weight)
        z1 = int(read.zero.item())
        scale, zero = (of.flatten().expand(len(weight)) for of in (grid.scale.double(), grid.zero))
        q2, bias = grid.quantize(weight), torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        # A bias must fit int32: if the weights' S is too fine for it, the weights take a coarser one.
        coarse = torch.maximum(scale, bias.abs().double() / (read.scale.double() * 2**30))
        wide = [-1] + [1] * (weight.dim() - 1)
        q2 = ((q2 - zero.reshape(wide)) * (scale / coarse).reshape(wide)).round().long() + zero.reshape(wide)
        bias_scale = read.scale.double() * coarse
        q_b = (bias.double() / bias_scale).round().int()
        most = max(z1 - read.low, read.high - z1) * (q2 - zero.reshape(wide)).abs().flatten(1).sum(1)
        if (worst := (most + q_b.long().abs()).max().item()) > INT32.max:
            raise ValueError(f"a sum in layer {name!r} may reach {worst}: int32 ends at {INT32.max}, take fewer bits")
        self.name, self.geometry = name, Geometry(layer)
        self.hold("q2", q2.int())
        self.hold("z2", zero.int())
        self.hold("zero", torch.tensor(z1))
        self.hold("bias", q_b)
        self.hold("bias_scale", bias_scale)
        self.hold("factor", torch.stack(multiplier(bias_scale / after.scale.double())))

    @property
    def z1(self) -> int:
        return int(self.zero)

    @property
    def m0(self) -> Tensor:
        return self.factor[0]

    @property
    def exponent(self) -> Tensor:
        return self.factor[1]

    def forward(self, q1: Tensor) -> Tensor:
        z1, geometry = self.z1, self.geometry
        single = geometry.per_feature and q1.dim() == 2
        q1 = geometry.padded(q1[..., None] if single else q1, z1)
        total = accumulate(q1, z1, self.q2, self.z2, geometry.product)
        wide = [-1] + [1] * (self.q2.dim() - 2)
        q3 = self.brought(total + self.bias.reshape(wide), [part.reshape(wide) for part in self.factor])
        return q3[..., 0] if single else q3


class Geometry:
    """How a linear or convolution layer moves over its input.

    layer: the layer; its weights are not kept.
    """

    def __init__(self, layer: operations.LAYERS) -> None:
        self.per_feature = isinstance(layer, operations.PerFeature)
        self.convolve: Callable[..., Tensor] | None = None
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            self.convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(layer.kernel_size) - 1]
            self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
            self.mode, self.border = layer.padding_mode, list(layer._reversed_padding_repeated_twice)

    def padded(self, q1: Tensor, z1: int) -> Tensor:
        """Pad as the layer does; a border of zeros becomes one of Z_1."""
        if self.convolve is None:
            return q1
        mode, value = ("constant", z1) if self.mode == "zeros" else (self.mode, None)
        return functional.pad(q1, self.border, mode, value)

    def product(self, q1: Tensor, q2: Tensor) -> Tensor:
        """Compute the sums of products of int32, without a bias; the input is padded already."""
        if q1.device.type != "cpu":  # no int32 kernels there; float64 holds every sum that int32 holds
            return self._product(q1.double(), q2.double()).int()
        return self._product(q1, q2)

    def _product(self, q1: Tensor, q2: Tensor) -> Tensor:
        if self.convolve is None:
            return functional.linear(q1, q2)
        if max(self.dilation) > 1:  # torch has no int32 kernel for it: the gaps are filled with zeros
            reach = [(side - 1) * step + 1 for side, step in zip(q2.shape[2:], self.dilation, strict=True)]
            holes = q2.new_zeros(*q2.shape[:2], *reach)
            places: Any = (..., *(slice(None, None, step) for step in self.dilation))
            holes[places] = q2
            q2 = holes
        return self.convolve(q1, q2, None, self.stride, 0, 1, self.groups)
