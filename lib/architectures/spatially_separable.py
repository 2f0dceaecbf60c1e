r"""Spatially separable filters, and convolution fused with subsampling (mamalet2012simplifying).

Three ways to make a convolution of k x k filters and the average pool after it cheaper:

- separable: each filter of an input map i and an output map o is a column times a row,
  :math:`K_{o,i} = u_{o,i} v_{o,i}^\top`, so that it runs as k x 1 and then 1 x k: 2 k weights, not :math:`k^2`.
- fused: without an activation between them, convolution and average over p x p are *one* convolution, whose stride is
  p times as large, with the filters

  .. math:: K'_{o,i} = K_{o,i} \circledast \tfrac{1}{p^2} \mathbf 1_{p \times p}

  of (k + p - 1) x (k + p - 1): for k = 5 and p = 2, 36 multiply-adds for each output in place of 4 times 25.
- fused and separable: :math:`K'` is separable where K is.

These filters are separable in *space*. MobileNet's are separable into space and channels, which is another thing. Left
out: an activation between column and row, and the gain and bias that LeNet-5 trains for each pool.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import weights
from lib.architectures.shared.network import Network, scaled
from lib.arguments import check_sizes
from lib.seeding import seeded

Filters = Literal["full", "separable", "fused", "fused separable"]


class Separable(nn.Module):
    """A convolution whose filters are columns times rows: k x 1 for each pair of input and output map, then 1 x k.

    inputs: channels of the input, 1 or more.
    outputs: channels of the output, 1 or more.
    size: k, height and width of the filters in pixels, 1 or more.
    stride: of both directions, 1 or more, default 1.
    padding: pixels of zeros on each side, 0 or more, default 0.

    Input (n, inputs, height, width); output (n, outputs, ...) as of a convolution with the filters :meth:`kernel`.
    Raises ValueError for other numbers.

    >>> layer = Separable(3, 4, 5, padding=2)
    >>> layer(torch.zeros(1, 3, 8, 8)).shape, layer.kernel().shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([1, 4, 8, 8]), torch.Size([4, 3, 5, 5]), 124)
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, padding: int = 0) -> None:
        check_sizes({"inputs": inputs, "outputs": outputs, "size": size, "stride": stride})
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ValueError(f"padding must be a whole number of 0 or more, not {padding!r}")
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        pairs = inputs * outputs
        self.columns = nn.Conv2d(inputs, pairs, (size, 1), (stride, 1), (padding, 0), groups=inputs, bias=False)
        self.rows = nn.Conv2d(pairs, outputs, (1, size), (1, stride), (0, padding), groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        # method
        maps = self.columns(x).unflatten(1, (self.inputs, self.outputs))
        # all maps of one output stand together for the rows, which add them up
        return self.rows(maps.transpose(1, 2).flatten(1, 2))
        # end of method

    def kernel(self) -> Tensor:
        """Give the filters that columns and rows are together, (outputs, inputs, size, size), each of rank 1."""
        columns = self.columns.weight.unflatten(0, (self.inputs, self.outputs)).transpose(0, 1)  # (o, i, 1, size, 1)
        return columns.squeeze(2) * self.rows.weight  # (o, i, size, 1) times (o, i, 1, size)


class RankOne(NamedTuple):
    """Filters as columns times rows: (o, i, height), (o, i, width), and the relative error of each filter, (o, i)."""

    columns: Tensor
    rows: Tensor
    errors: Tensor


def nearest(kernel: Tensor) -> RankOne:
    r"""Give the separable filters that are nearest to given ones, by the singular value decomposition of each.

    .. math:: u v^\top = \sigma_1 a_1 b_1^\top, \qquad
              \lVert K - u v^\top \rVert^2 / \lVert K \rVert^2 = \sum_{j > 1} \sigma_j^2 / \sum_j \sigma_j^2

    kernel: filters (outputs, inputs, height, width), finite floats.

    Returns columns, rows and errors, of the kernel's type; the error of a filter of zeros is 0.
    Raises ValueError for another shape or type, and for values that are not finite.

    >>> nearest(torch.tensor([[[[2.0, 4.0], [1.0, 2.0]], [[3.0, 0.0], [0.0, 4.0]]]])).errors
    tensor([[0.0000, 0.6000]])
    """
    if kernel.dim() != 4 or not kernel.numel() or not kernel.is_floating_point():
        raise ValueError(
            "kernel must be floats (outputs, inputs, height, width), none of them 0, not"
            f" {kernel.dtype} {tuple(kernel.shape)}"
        )
    if not kernel.isfinite().all():
        raise ValueError("the kernel holds NaN or infinity: finite values are needed")
    # method
    left, sigma, right = torch.linalg.svd(kernel.detach().double(), full_matrices=False)
    root = sigma[..., :1].sqrt()
    columns, rows = left[..., 0] * root, right[..., 0, :] * root
    errors = sigma[..., 1:].norm(dim=-1) / sigma.norm(dim=-1).clamp(min=torch.finfo(torch.float64).tiny)
    # end of method
    return RankOne(columns.to(kernel.dtype), rows.to(kernel.dtype), errors.to(kernel.dtype))


def separate(convolution: nn.Conv2d) -> tuple[Separable, Tensor]:
    """Make the separable layer that is nearest to a convolution.

    convolution: of square filters and one group, with one stride and one padding of zeros for both directions, and
        without dilation; it is left as it was.

    Returns the layer, and the relative error of each filter, (outputs, inputs).
    Raises ValueError for another layer, and for weights that are not finite.

    >>> layer, errors = separate(nn.Conv2d(3, 4, 5, stride=2, padding=1))
    >>> layer(torch.zeros(1, 3, 9, 9)).shape, errors.shape
    (torch.Size([1, 4, 4, 4]), torch.Size([4, 3]))
    """
    height, width = convolution.kernel_size
    (pad, other), (step, across) = _padding(convolution), convolution.stride
    odd = convolution.groups != 1 or convolution.padding_mode != "zeros" or convolution.dilation != (1, 1)
    if odd or height != width or pad != other or step != across:
        raise ValueError(
            "a separable layer has square filters, one stride, one padding of zeros, one group and no dilation, unlike"
            f" {convolution}"
        )
    columns, rows, errors = nearest(_weight(convolution))
    layer = Separable(convolution.in_channels, convolution.out_channels, height, stride=step, padding=pad)
    layer.to(device=columns.device, dtype=columns.dtype).train(convolution.training)
    with torch.no_grad():
        layer.columns.weight.copy_(columns.transpose(0, 1).flatten(0, 1)[:, None, :, None])
        layer.rows.weight.copy_(rows[:, :, None])
        if layer.rows.bias is not None:
            layer.rows.bias.copy_(torch.zeros(()) if convolution.bias is None else convolution.bias)
    return layer, errors


def fused(convolution: nn.Conv2d, pool: nn.AvgPool2d) -> nn.Conv2d:
    """Make the one convolution that a convolution and the average pool directly after it are.

    convolution: any, also grouped, strided, dilated or padded; it is left as it was.
    pool: without padding and ``ceil_mode``, whose windows at the border hold fewer places.

    Returns a convolution with larger filters, and the product of both strides.
    Raises ValueError for another pool, for weights that are not finite, and for padding that is not even.

    >>> fused(nn.Conv2d(3, 4, 5, padding=2), nn.AvgPool2d(2))
    Conv2d(3, 4, kernel_size=(6, 6), stride=(2, 2), padding=(2, 2))
    """
    size, jump = _pair(pool.kernel_size), _pair(pool.stride)
    if _pair(pool.padding) != (0, 0) or pool.ceil_mode:
        raise ValueError(f"only an average pool without padding and ceil_mode can be fused, not {pool}")
    kernel, padding = _weight(convolution), _padding(convolution)
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

    model: layers one after another, some of them in an nn.Sequential within; it is left as it was.
    pools: names of the average pools to fuse; default: every ``nn.AvgPool2d`` among these layers.

    Returns the copy; the name of each pool is that of an ``nn.Identity`` now.
    Raises ValueError for another network or name, for no pool, and for a pool that does not follow a convolution
    directly, has hooks, cannot be fused, or runs at several places.

    >>> network = fuse(convnet(channels=1, classes=10))
    >>> network.conv1, network.pool1
    (Conv2d(1, 6, kernel_size=(6, 6), stride=(2, 2), padding=(2, 2)), Identity())
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
                " with the activation after the pool, is one convolution with it"
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
                f"{name!r} belongs to layers that run at several places, of which not all can be fused alike"
            )
    return changed


def convnet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    filters: Filters = "full",
    side: int = 28,
) -> Network:
    """Build a network of the size of LeNet-5, with filters of one of four kinds; tanh follows the pools.

    Two convolutions of 5 x 5 that keep the size, each with an average pool of 2 x 2, and three linear layers. A
    convolution that is fused with its pool has 6 x 6 filters and stride 2.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor of the 6 and 16 filters and of the 120 and 84 hidden units, default 1.
    filters: "full" (default), "separable", "fused" or "fused separable".
    side: pixels, height and width of the images, 4 or more, default 28; maps of larger ones are averaged in the end.

    Input (n, channels, side, side), output (n, classes) logits.
    Raises ValueError for other filters and sizes.

    >>> from lib import measure
    >>> models = [convnet(channels=1, classes=10, filters=kind) for kind in get_args(Filters)]
    >>> [measure.multiply_adds(model, (1, 28, 28)) for model in models]
    [693000, 340200, 316680, 210840]
    """
    check_sizes({"channels": channels, "classes": classes, "side": side})
    weights.check_one_of("filters", filters, get_args(Filters))
    if side < 4:
        raise ValueError(f"side must be 4 or more, so that two pools leave a pixel, not {side}")
    first, second, third, fourth = (scaled(n, width) for n in (6, 16, 120, 84))
    size, stride = (6, 2) if filters.startswith("fused") else (5, 1)
    with seeded(seed):
        layers = OrderedDict[str, nn.Module]()
        for i, (inputs, outputs) in enumerate(((channels, first), (first, second)), 1):
            if filters.endswith("separable"):
                layers[f"conv{i}"] = Separable(inputs, outputs, size, stride=stride, padding=2)
            else:
                layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, size, stride, padding=2)
            layers |= {f"pool{i}": nn.AvgPool2d(2)} if stride == 1 else {}
            layers[f"tanh{i}"] = nn.Tanh()
        layers |= OrderedDict(average=nn.AdaptiveAvgPool2d(side // 4), flatten=nn.Flatten())
        layers |= OrderedDict(fc1=nn.Linear(second * (side // 4) ** 2, third), tanh3=nn.Tanh())
        layers |= OrderedDict(fc2=nn.Linear(third, fourth), tanh4=nn.Tanh(), fc3=nn.Linear(fourth, classes))
        return Network(layers, channels=channels, least=side)


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


def _weight(convolution: nn.Conv2d) -> Tensor:
    """The filters of a convolution; ValueError where they are not finite, or where it does more than to convolve."""
    kind = type(convolution)
    if kind.forward is not nn.Conv2d.forward or kind._conv_forward is not nn.Conv2d._conv_forward:
        raise ValueError(f"an nn.Conv2d is needed, not {kind.__name__}, which computes something else")
    if not convolution.weight.isfinite().all():
        raise ValueError("weights of the convolution hold NaN or infinity: finite ones are needed")
    return convolution.weight.detach()


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _padding(convolution: nn.Conv2d) -> tuple[int, int]:
    """Pixels that are added above and below, and on the left and on the right."""
    if not isinstance(convolution.padding, str):
        return _pair(convolution.padding)
    if convolution.padding == "valid":
        return 0, 0
    total = [step * (size - 1) for step, size in zip(convolution.dilation, convolution.kernel_size, strict=True)]
    if any(pixels % 2 for pixels in total):
        raise ValueError(f"padding must be the same on both sides, unlike that of {convolution}")
    return total[0] // 2, total[1] // 2
