"""Make the kernel of a convolution larger (wei2016network)."""

from typing import Any

import torch
from torch import Tensor, nn

from lib.morphism.shared.checks import check, proved, replaced
from lib.morphism.shared.factors import padded
from lib.morphism.shared.layers import check_kernel, check_odd, layer_named, padding_for, resized
from lib.structure.group import CONVOLUTION


@torch.no_grad()
def grow_kernel(model: nn.Module, layer: str, example: Tensor, *, kernel: int) -> nn.Module:
    """Make the kernel of a convolution larger: zeros around the old one, and more padding to match (wei2016network).

    model: any network; not changed.
    layer: a convolution of odd kernels; also grouped, depthwise, with a stride or dilated.
    example: one or more inputs, (n, ...).
    kernel: size along each axis, odd, larger than now along at least one axis.

    Returns the copy with the larger kernel. Raises ValueError for a layer that is no such convolution or shares a
    weight with another one, and for a kernel that is even or not larger.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    >>> grown = grow_kernel(model, "0", torch.zeros(1, 1, 8, 8), kernel=5)[0]
    >>> grown.kernel_size, grown.padding
    ((5, 5), (2, 2))
    """
    check(model, example)
    old: Any = layer_named(model, layer, CONVOLUTION)
    check_kernel(kernel)
    check_odd(layer, old)
    if kernel < max(old.kernel_size) or kernel == min(old.kernel_size):
        raise ValueError(
            f"the kernel of layer {layer!r} must be larger than the present {old.kernel_size}, not {kernel}"
        )
    # method
    weight = padded(old.weight.detach()[None], kernel)[0]
    new = resized(old, weight, padding=padding_for(old, kernel))
    # end of method
    return proved(model, replaced(model, layer, new), example, f"growing the kernel of layer {layer!r}")
