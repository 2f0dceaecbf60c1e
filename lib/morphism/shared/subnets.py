"""Replace one layer by several, or by several branches of several (wei2016network, wei2017modularized)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.arguments import check_sizes
from lib.morphism.shared.branches import Branches
from lib.morphism.shared.checks import check, proved, replaced
from lib.morphism.shared.factors import factored, padded
from lib.morphism.shared.layers import check_kernel, check_odd, layer_named, padding_for, resized, spatial
from lib.morphism.shared.p_activation import PActivation


def morph_depth(
    model: nn.Module,
    layer: str,
    example: Tensor,
    *,
    kernels: tuple[int, ...] | None = None,
    width: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Replace a layer by several, with P-activations between them: a :func:`subnet` of one branch (wei2016network).

    model: any network; not changed.
    layer: a convolution of odd kernels, or a linear layer.
    example: one or more inputs, (n, ...).
    kernels: of the layers, odd; default that of the layer and 3, or two ones for a linear layer.
    width: channels between them; default as many as the layer has inputs or outputs, whichever is more.
    seed: of the start of the least squares; default 0.

    Returns the copy, in which the layer is an ``nn.Sequential``. Raises ValueError as :func:`subnet` does.

    >>> deeper = morph_depth(nn.Sequential(nn.Conv2d(1, 4, 3)), "0", torch.zeros(1, 1, 8, 8), width=8)
    >>> [tuple(value.shape) for name, value in deeper.named_parameters() if "weight" in name]
    [(8, 1, 3, 3), (4, 8, 3, 3)]
    """
    if kernels is None:
        old = layer_named(model, layer)
        kernels = (max(old.kernel_size), 3) if spatial(old) else (1, 1)
    return subnet(model, layer, example, branches=(kernels,), width=width, seed=seed)


@torch.no_grad()
def subnet(
    model: nn.Module,
    layer: str,
    example: Tensor,
    *,
    branches: Sequence[Sequence[int]],
    width: int | None = None,
    seed: int = 0,
) -> nn.Module:
    r"""Replace a layer by a subnet: parallel branches, each a sequence of layers, whose outputs are added.

    The layer G is shared among B branches, each of which computes G / B. In a branch of several layers,

    .. math:: \tilde G = F_{l+1} \circledast F_l

    is solved by alternating least squares (wei2016network), where :math:`\tilde G` is G with zeros around
    its kernel. Between them is a P-activation, which begins as the identity (:class:`PActivation`). The first layer has
    the padding of all, the last one the stride and the bias: padding in between would change the borders.

    model: any network; not changed.
    layer: a convolution of odd kernels, also grouped or depthwise, or a linear layer.
    example: one or more inputs, (n, ...).
    branches: kernel sizes of the layers of each branch, odd, such as ((3, 3), (5,)): a branch of two layers and one of
        one. Those of a branch reach at least as far as the layer's kernel: sum(k - 1) >= kernel - 1. Ones for a linear
        layer.
    width: channels between layers, a multiple of the layer's groups; default as many as the layer has inputs or
        outputs, whichever is more. With fewer there may be no exact solution.
    seed: of the start of the least squares; default 0.

    Returns the copy. Raises ValueError for a layer that does not exist or shares a weight with another one, even
    kernels, branches that do not reach far enough, and where there is no exact solution.

    >>> model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1))
    >>> morphed, x = subnet(model, "0", torch.zeros(1, 2, 8, 8), branches=((3, 1), (3,))), torch.ones(1, 2, 8, 8)
    >>> bool((morphed(x) - model(x)).abs().max() < 1e-5)
    True
    """
    check(model, example)
    old: Any = layer_named(model, layer)
    check_odd(layer, old)
    groups = getattr(old, "groups", 1)
    inputs, own = old.weight.shape[1] * groups, max(old.weight.shape[2:], default=1)
    if not branches or not all(isinstance(kernels, Sequence) and kernels for kernels in branches):
        raise ValueError(f"branches must be one or more, each of one kernel size or more, not {branches!r}")
    for kernels in branches:
        for kernel in kernels:
            check_kernel(kernel, "each kernel of branches")
        reach = sum(kernels) - len(kernels) + 1
        if reach < own or (reach > 1 and not spatial(old)):
            raise ValueError(
                f"kernels {tuple(kernels)} together reach {reach}, and layer {layer!r} has the kernel {own}:"
                f" {'they must reach as far' if spatial(old) else 'it is linear, so all must be 1'}"
            )
    width = max(inputs, len(old.weight)) if width is None else width
    check_sizes({"width": width, "seed": seed}, {"seed": 0})
    if width % groups:
        raise ValueError(f"width must be a positive multiple of the {groups} groups of layer {layer!r}, not {width}")
    generator = torch.Generator().manual_seed(seed)
    # method
    share = old.weight.detach().double().cpu().unflatten(0, (groups, -1)) / len(branches)
    paths = [_path(layer, old, share, kernels, width // groups, len(branches), generator) for kernels in branches]
    # end of method
    new = paths[0] if len(paths) == 1 else Branches(paths, allocation="replicate", merge="add")
    return proved(model, replaced(model, layer, new.train(old.training)), example, f"a subnet for layer {layer!r}")


def _path(
    name: str, old: Any, rest: Tensor, kernels: Sequence[int], width: int, parts: int, generator: torch.Generator
) -> nn.Module:
    """One branch: the layers whose composition is ``rest``, (groups, outputs, inputs, *kernel)."""
    weights = []
    for i, kernel in enumerate(kernels[:-1]):
        reach = sum(kernels[i + 1 :]) - len(kernels[i + 1 :]) + 1
        pair = factored(rest, (kernel, reach), width, generator)
        if pair is None:
            raise ValueError(
                f"layer {name!r} has no exact subnet of kernels {tuple(kernels)} and {width} channels per group between"
                " them: give a larger width or larger kernels"
            )
        first, rest = pair
        weights.append(padded(first, kernel).flatten(0, 1))
    weights.append(padded(rest, kernels[-1]).flatten(0, 1))
    layers: list[nn.Module] = []
    padding = padding_for(old, sum(kernels) - len(kernels) + 1) if spatial(old) else ()
    nothing, ones = (0,) * spatial(old), (1,) * spatial(old)
    for i, weight in enumerate(weights):
        last = i == len(weights) - 1
        new = resized(old, weight, padding=nothing if i else padding, stride=None if last else ones)
        if old.bias is not None:
            bias = old.bias.detach() / parts if last else old.bias.new_zeros(len(weight))
            new.bias = nn.Parameter(bias, old.bias.requires_grad)
        if i:
            layers.append(PActivation(nn.ReLU(), device=old.weight.device, dtype=old.weight.dtype))
        layers.append(new)
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
