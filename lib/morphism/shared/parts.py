"""The parts of a layer: the same function in several pieces (cai2018path)."""

from typing import Any

import torch
from torch import nn

from lib.morphism.shared.layers import resized
from lib.structure.apart import copied
from lib.structure.group import CONVOLUTION, PER_CHANNEL

POOLS = nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d | nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d
BY_CHANNEL = nn.Identity | POOLS | nn.ReLU | nn.Hardtanh | nn.LeakyReLU | nn.SiLU | nn.GELU | nn.Tanh | nn.Sigmoid


def dense(name: str, layer: Any, n: int, *, inputs: bool) -> list[nn.Module]:
    """Cut a layer into parts that read parts of its inputs (and are added), or compute parts of its outputs.

    name: of the layer, for errors.
    layer: a convolution without groups, or a linear layer; not changed.
    n: number of parts; of c channels the first c % n parts get one more.
    inputs: whether the inputs are divided among the parts; otherwise the outputs.

    Raises ValueError for other layers, and for fewer channels than parts.

    >>> dense("0", nn.Linear(3, 4), 2, inputs=True)
    [Linear(in_features=2, out_features=4, bias=True), Linear(in_features=1, out_features=4, bias=True)]
    """
    if not isinstance(layer, CONVOLUTION | nn.Linear) or getattr(layer, "groups", 1) > 1:
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__}: only convolutions without groups and linear layers can share"
            " their inputs or outputs among branches"
        )
    axis = 1 if inputs else 0
    _check_channels(name, n, layer.weight.shape[axis])
    parts: list[nn.Module] = []
    # method
    for i, weight in enumerate(layer.weight.detach().tensor_split(n, axis)):
        part = resized(layer, weight.clone())
        if layer.bias is not None:
            bias = layer.bias.detach()
            once = bias if i == 0 else torch.zeros_like(bias)  # of parts that are added, one has the bias
            part.bias = nn.Parameter((once if inputs else bias.tensor_split(n)[i]).clone(), layer.bias.requires_grad)
        parts.append(part)
    # end of method
    return parts


def by_channel(name: str, layer: Any, n: int, *, channels: int) -> list[nn.Module]:
    """Cut a layer that works on each channel, or each group of channels, by itself into parts of its channels.

    name: of the layer, for errors.
    layer: a grouped convolution, batch norm, pooling, an activation or the identity; not changed.
    n: number of parts; of c channels the first c % n parts get one more.
    channels: that the layer reads.

    Raises ValueError for other layers, fewer channels than parts, and groups that cannot be shared equally.

    >>> by_channel("0", nn.BatchNorm1d(3), 2, channels=3)[1].num_features
    1
    """
    grouped = isinstance(layer, CONVOLUTION) and layer.groups > 1
    if not (grouped or isinstance(layer, PER_CHANNEL | BY_CHANNEL)):
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__}: only grouped convolutions, batch norm, pooling, activations"
            " and the identity work on each channel by itself"
        )
    _check_channels(name, n, layer.groups if grouped else channels)
    if isinstance(layer, BY_CHANNEL):
        return [copied(layer, {}) for _ in range(n)]
    if grouped and layer.groups % n:
        raise ValueError(f"the {layer.groups} groups of layer {name!r} cannot be shared equally among {n} branches")
    parts: list[nn.Module] = []
    for i in range(n):
        part: Any = copied(layer, {})
        for slot in ("weight", "bias", "running_mean", "running_var"):
            if (value := getattr(layer, slot, None)) is not None:
                piece = value.detach().tensor_split(n)[i].clone()
                setattr(part, slot, nn.Parameter(piece, value.requires_grad) if "running" not in slot else piece)
        if grouped:
            part.groups, part.in_channels = layer.groups // n, layer.in_channels // n
            part.out_channels = layer.out_channels // n
        else:
            part.num_features = (channels + n - 1 - i) // n
        parts.append(part)
    return parts


def _check_channels(name: str, n: int, channels: int) -> None:
    if n > channels:
        raise ValueError(f"layer {name!r} has {channels} channels to share, fewer than {n} branches")
