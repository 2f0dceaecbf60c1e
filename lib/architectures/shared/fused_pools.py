r"""A convolution and the average pool directly after it as one convolution (mamalet2012simplifying).

.. math:: K'_{o,i} = K_{o,i} \circledast \tfrac{1}{p^2} \mathbf 1_{p \times p}

K are the filters of the convolution, and p is the size of the pool. The stride is p times as large.
"""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.architectures.shared.network import Network


def fused(convolution: nn.Conv2d, pool: nn.AvgPool2d) -> nn.Conv2d:
    """Make the one convolution that equals a convolution and the average pool directly after it.

    convolution: any, also grouped, strided, dilated or padded; it is not changed.
    pool: without padding and ``ceil_mode``, whose windows at the border hold fewer places.

    Returns a convolution with larger filters, and the product of both strides.
    Raises ValueError for another pool, for weights that are not finite, and for padding that is not even.

    >>> fused(nn.Conv2d(3, 4, 5, padding=2), nn.AvgPool2d(2))
    Conv2d(3, 4, kernel_size=(6, 6), stride=(2, 2), padding=(2, 2))
    """
    size, jump = _pair(pool.kernel_size), _pair(pool.stride)
    if _pair(pool.padding) != (0, 0) or pool.ceil_mode:
        raise ValueError(f"only an average pool without padding and ceil_mode can be fused, not {pool}")
    kernel, padding = weight_of(convolution), padding_of(convolution)
    divisor = pool.divisor_override or size[0] * size[1]
    # method
    # K'[c] = sum of K[a] / p^2 over all a + s b = c, where b is a place in the window and s the stride of K
    window = torch.full((1, 1, *size), 1 / divisor, dtype=torch.float64, device=kernel.device)
    filters = kernel.double().flatten(0, 1)[None]
    larger = functional.conv_transpose2d(
        window, filters, stride=convolution.stride, dilation=convolution.dilation
    ).unflatten(1, kernel.shape[:2])[0]
    # end of method
    layer = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        (larger.shape[2], larger.shape[3]),
        stride=(convolution.stride[0] * jump[0], convolution.stride[1] * jump[1]),
        padding=padding,
        groups=convolution.groups,
        bias=convolution.bias is not None,
        padding_mode=convolution.padding_mode,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    with torch.no_grad():
        layer.weight.copy_(larger)
        if layer.bias is not None and convolution.bias is not None:
            layer.bias.copy_(convolution.bias * (size[0] * size[1] / divisor))
    return layer.train(convolution.training)


def fuse(model: nn.Sequential, *, pools: Iterable[str] | None = None) -> nn.Sequential:
    """Copy a network, and make one convolution of each average pool and the convolution directly before it.

    The copy answers the same, up to rounding. An activation between the two is refused: it must follow the pool.

    model: layers one after another, some of them in an nn.Sequential within; it is not changed.
    pools: names of the average pools to fuse; default: every ``nn.AvgPool2d`` among these layers.

    Returns the copy, in which each of these pools is an ``nn.Identity``.
    Raises ValueError for another network or name, for no pool, and for a pool that does not follow a convolution
    directly, has hooks, cannot be fused, or runs at several places.

    >>> fuse(nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.AvgPool2d(2), nn.Tanh()))[:2]
    Sequential(
      (0): Conv2d(1, 6, kernel_size=(6, 6), stride=(2, 2), padding=(2, 2))
      (1): Identity()
    )
    """
    if not _is_chain(model):
        raise ValueError(f"layers one after another (nn.Sequential) are needed, not {type(model).__name__}")
    chain = list(_chain(model))
    averages = [name for name, layer in chain if isinstance(layer, nn.AvgPool2d)]
    names = averages if pools is None else list(dict.fromkeys(pools))
    if not names or not {*names} <= {*averages}:
        raise ValueError(f"pools must be names of average pools, from {averages}, not {names}")
    before = {name: chain[i - 1] if i else ("", None) for i, (name, _) in enumerate(chain)}
    replaced: dict[str, nn.Module] = {}
    for name in names:
        (first, convolution), pool = before[name], model.get_submodule(name)
        if not isinstance(convolution, nn.Conv2d) or not isinstance(pool, nn.AvgPool2d):
            between = f"{first!r} ({type(convolution).__name__})" if convolution is not None else "nothing"
            raise ValueError(
                f"average pool {name!r} follows {between}, not a convolution: only a pool directly after a convolution,"
                " with the activation after the pool, can be fused with it"
            )
        if (
            convolution._forward_hooks
            or convolution._forward_pre_hooks
            or pool._forward_hooks
            or pool._forward_pre_hooks
        ):
            raise ValueError(f"{first!r} or {name!r} has hooks, which one convolution cannot have: remove them first")
        replaced |= {first: fused(convolution, pool), name: nn.Identity()}
    changed = copy.deepcopy(model)
    for name, layer in replaced.items():
        parent, _, child = name.rpartition(".")
        setattr(changed.get_submodule(parent), child, layer)
    for name, layer in _chain(changed):
        if layer is not replaced.get(name, layer) or (name not in replaced and layer in replaced.values()):
            raise ValueError(
                f"{name!r} belongs to layers that run at several places, and not all of these can be fused alike"
            )
    return changed


def weight_of(convolution: nn.Conv2d) -> Tensor:
    """Return the filters of a convolution, without gradient.

    convolution: it is not changed.

    Raises ValueError for weights that are not finite, and for a class that does more than convolve.

    >>> weight_of(nn.Conv2d(3, 4, 5)).shape
    torch.Size([4, 3, 5, 5])
    """
    kind = type(convolution)
    if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
        raise ValueError(f"an nn.Conv2d is needed, not {kind.__name__}, which computes something else")
    if not convolution.weight.isfinite().all():
        raise ValueError("weights of the convolution hold NaN or infinity: finite ones are needed")
    return convolution.weight.detach()


def padding_of(convolution: nn.Conv2d) -> tuple[int, int]:
    """Return the pixels that a convolution adds above and below, and on the left and on the right.

    convolution: its padding is in pixels, "valid" or "same".

    Raises ValueError where the two sides get different numbers.

    >>> padding_of(nn.Conv2d(3, 4, (3, 5), padding="same"))
    (1, 2)
    """
    if not isinstance(convolution.padding, str):
        return _pair(convolution.padding)
    if convolution.padding == "valid":
        return 0, 0
    total = [step * (size - 1) for step, size in zip(convolution.dilation, convolution.kernel_size, strict=True)]
    if any(pixels % 2 for pixels in total):
        raise ValueError(f"padding must be the same on both sides, unlike that of {convolution}")
    return total[0] // 2, total[1] // 2


def _is_chain(module: nn.Module) -> bool:
    """Whether the children of a module run one after another, and nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward in (nn.Sequential.forward, Network.forward)


def _chain(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers in the order in which they run; ``named_children`` would leave out one that runs twice."""
    for name, layer in model._modules.items():
        if layer is not None and _is_chain(layer):
            yield from _chain(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield f"{prefix}{name}", layer


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
