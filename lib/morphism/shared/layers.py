"""Layers to morph: which there are, how far they reach, and new ones like them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import skip_init

from lib.structure.apart import copied
from lib.structure.group import CONVOLUTION

Layer = CONVOLUTION | nn.Linear


def layer_named(model: nn.Module, name: str, kinds: Any = Layer) -> Any:
    """Return a layer of a network. Raises ValueError where there is none, or its weights are not finite.

    model: any network.
    name: of the layer.
    kinds: of layers that are accepted; default convolution and linear layers.

    >>> layer_named(nn.Sequential(nn.Linear(2, 3)), "0")
    Linear(in_features=2, out_features=3, bias=True)
    """
    found = {n: module for n, module in model.named_modules() if n and isinstance(module, kinds)}
    if name not in found:
        some = list(found)[:8]
        accepted = (", ".join(some) + (", ..." if len(found) > len(some) else "")) or "none"
        raise ValueError(f"{type(model).__name__} has no layer {name!r} that this works on: accepted are {accepted}")
    for slot, value in found[name].named_parameters():
        if not value.isfinite().all():
            raise ValueError(f"the {slot} of layer {name!r} holds NaN or infinity: only finite values are accepted")
    return found[name]


def check_kernel(kernel: int, what: str = "kernel") -> None:
    """Raise ValueError for a kernel that is not an odd number of 1 or more.

    kernel: to check.
    what: its name.

    >>> check_kernel(3)
    """
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{what} must be an odd number of 1 or more, not {kernel!r}: an even one has no middle")


def check_odd(name: str, layer: Any) -> None:
    """Raise ValueError for a convolution with a kernel that is even along an axis.

    name: of the layer.
    layer: convolution or linear.

    >>> check_odd("0", nn.Conv2d(1, 1, (1, 3)))
    """
    if isinstance(layer, CONVOLUTION) and any(size % 2 == 0 for size in layer.kernel_size):
        raise ValueError(f"the kernel of layer {name!r} is {layer.kernel_size}: it must be odd along each axis")


def padding_for(layer: Any, kernel: int) -> tuple[int, ...]:
    """Return the padding with which a larger kernel, the old one with zeros around it, reads the same places.

    layer: convolution of odd kernels.
    kernel: the larger size, odd.

    >>> padding_for(nn.Conv2d(1, 1, (1, 3), padding="same", dilation=2), 5)
    (4, 4)
    """
    own: Sequence[int]
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        own = [d * (k - 1) // 2 if same else 0 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    else:
        own = layer.padding
    grown = zip(own, layer.dilation, layer.kernel_size, strict=True)
    return tuple(p + d * (kernel - k) // 2 for p, d, k in grown)


def resized(
    like: Any, weight: Tensor, *, padding: Sequence[int] | None = None, stride: Sequence[int] | None = None
) -> Any:
    """Copy a layer, with a weight of other sizes. Its bias stays.

    like: convolution or linear layer; not changed.
    weight: (outputs, inputs per group, *kernel).
    padding, stride: of a convolution, for each axis; default those of ``like``.

    >>> resized(nn.Linear(2, 3), nn.Linear(4, 3).weight.detach())
    Linear(in_features=4, out_features=3, bias=True)
    """
    layer: Any = copied(like, {})
    layer.weight = nn.Parameter(weight.to(like.weight).contiguous(), like.weight.requires_grad)
    if isinstance(like, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
        return layer
    layer.out_channels, layer.in_channels = len(weight), weight.shape[1] * like.groups
    layer.kernel_size = tuple(weight.shape[2:])
    if stride is not None:
        layer.stride = tuple(stride)
    if padding is not None:
        layer.padding = tuple(padding)
        layer._reversed_padding_repeated_twice = [side for side in reversed(layer.padding) for _ in range(2)]
    return layer


def blank(like: Any, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> Any:
    """Make a convolution that keeps sizes, or a linear layer, of zeros, with a given layer's device, dtype and mode.

    like: convolution or linear layer.
    inputs, outputs: of the new one.
    kernel: odd; ignored for a linear layer.
    bias: whether it has one; default True.

    >>> blank(nn.Conv2d(1, 4, 5, stride=2), 4, 6, 3)
    Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    where = {"device": like.weight.device, "dtype": like.weight.dtype}
    new: Any
    if isinstance(like, CONVOLUTION):
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial(like) - 1]
        new = skip_init(kind, inputs, outputs, kernel, padding=kernel // 2, bias=bias, **where)
    else:
        new = skip_init(nn.Linear, inputs, outputs, bias=bias, **where)
    for value in new.parameters():
        value.detach().zero_()
    return new.train(like.training)


def spatial(layer: nn.Module) -> int:
    """Count the spatial axes of what a layer reads and writes: 0 for a linear layer.

    layer: convolution or linear.

    >>> spatial(nn.Conv2d(1, 1, 3)), spatial(nn.Linear(1, 1))
    (2, 0)
    """
    return len(layer.kernel_size) if isinstance(layer, CONVOLUTION) else 0
