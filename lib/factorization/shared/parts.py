"""The small layers that replace a large one, and the sequence that holds them."""

from collections.abc import Callable
from typing import TypedDict, TypeVar

import torch
from torch import Tensor, nn

from lib import weights

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Dense = nn.Linear | Convolution  # the layers that some technique can factorize
DenseLayer = TypeVar("DenseLayer", bound=Dense)
CONVOLUTIONS: dict[int, Callable[..., Convolution]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # weight's dimensions


def row(layer: Dense, *parts: nn.Module) -> nn.Sequential:
    """Put the factors in a row, with the layer's dtype, device and mode, and frozen where the layer was frozen."""
    stored = weights.compressed_form(layer)
    trained = any(tensor.requires_grad for tensor in stored[1]) if stored else layer.weight.requires_grad
    made = nn.Sequential(*parts).to(device=layer.weight.device, dtype=layer.weight.dtype).requires_grad_(trained)
    for part in parts:
        if isinstance(part.bias, Tensor) and layer.bias is not None:
            part.bias.requires_grad_(layer.bias.requires_grad)
    return made.train(layer.training)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Make a linear layer with copies of these values.

    weight: (outputs, inputs).
    bias: (outputs,), or None for a layer without.
    """
    outputs, inputs = weight.shape
    return _filled(nn.Linear(inputs, outputs, bias=bias is not None, device="meta"), weight, bias)


class Geometry(TypedDict):
    """How a convolution moves over its input: arguments of :func:`convolution`, one number for each dimension."""

    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: str


def convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    groups: int = 1,
) -> Convolution:
    """Make a convolution with copies of these values, in as many dimensions as its kernel has.

    weight: (outputs, inputs / groups, kernel), the kernel of 1 to 3 dimensions.
    bias: (outputs,), or None for a layer without.
    stride: of the windows; one number, or one for each dimension, default 1.
    padding: pixels added on both sides; one number, one for each dimension, "same" or "valid", default 0.
    dilation: distance between a kernel's entries; one number, or one for each dimension, default 1.
    padding_mode: what is added: "zeros" (default), "reflect", "replicate" or "circular".
    groups: parts into which the channels are split, default 1.
    """
    layer = CONVOLUTIONS[weight.dim()](
        weight.shape[1] * groups,
        len(weight),
        weight.shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        padding_mode=padding_mode,
        device="meta",
    )
    return _filled(layer, weight, bias)


def geometry(layer: Convolution) -> Geometry:
    """Return how a convolution moves over its input."""
    return Geometry(
        stride=layer.stride, padding=layer.padding, dilation=layer.dilation, padding_mode=layer.padding_mode
    )


def apart(layer: nn.Conv2d) -> tuple[Geometry, Geometry]:
    """Return how the halves of a separable convolution move: down the rows (d x 1), then across the columns (1 x d).

    >>> down, across = apart(nn.Conv2d(1, 1, 3, stride=(2, 1), padding=1))
    >>> down["stride"], down["padding"], across["stride"], across["padding"]
    ((2, 1), (1, 0), (1, 1), (0, 1))
    """
    (sy, sx), (dy, dx), padding = layer.stride, layer.dilation, layer.padding
    py, px = (padding, padding) if isinstance(padding, str) else ((padding[0], 0), (0, padding[1]))
    mode = layer.padding_mode
    down = Geometry(stride=(sy, 1), padding=py, dilation=(dy, 1), padding_mode=mode)
    return down, Geometry(stride=(1, sx), padding=px, dilation=(1, dx), padding_mode=mode)


def _filled(layer: DenseLayer, weight: Tensor, bias: Tensor | None) -> DenseLayer:
    layer.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
