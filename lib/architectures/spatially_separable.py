r"""Spatially separable filters, and convolution fused with subsampling (mamalet2012simplifying).

Three ways to make a convolution of k x k filters and the average pool after it cheaper:

- separable: each filter of an input map i and an output map o is a column times a row,
  :math:`K_{o,i} = u_{o,i} v_{o,i}^\top`, so that it runs as k x 1 and then 1 x k: 2 k weights, not :math:`k^2`.
- fused: without an activation between them, convolution and average over p x p are *one* convolution, whose stride is
  p times as large, with the filters

  .. math:: K'_{o,i} = K_{o,i} \circledast \tfrac{1}{p^2} \mathbf 1_{p \times p}

  of (k + p - 1) x (k + p - 1): for k = 5 and p = 2, 36 multiply-adds for each output in place of 4 times 25
  (:mod:`lib.architectures.shared.fused_pools`).
- fused and separable: :math:`K'` is separable where K is.

These filters are separable in *space*. MobileNet's are separable into space and channels, which is something else. Left
out: an activation between column and row, and the gain and bias that LeNet-5 trains for each pool.
"""

from collections import OrderedDict
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lib.architectures.shared.fused_pools import padding_of, weight_of
from lib.architectures.shared.network import Network, scaled
from lib.arguments import check_one_of, check_sizes
from lib.seeding import seeded

Filters = Literal["full", "separable", "fused", "fused separable"]


class Separable(nn.Module):
    """A convolution whose filters are columns times rows: k x 1 for each pair of input and output map, then 1 x k.

    inputs: channels of the input, 1 or more.
    outputs: channels of the output, 1 or more.
    size: k, height and width of the filters in pixels, 1 or more.
    stride: of both directions, 1 or more, default 1.
    padding: pixels of zeros on each side, 0 or more, default 0.

    Input (n, inputs, height, width); output (n, outputs, ...) as from a convolution with the filters :meth:`kernel`.
    Raises ValueError for other numbers.

    >>> layer = Separable(3, 4, 5, padding=2)
    >>> layer(torch.zeros(1, 3, 8, 8)).shape, layer.kernel().shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([1, 4, 8, 8]), torch.Size([4, 3, 5, 5]), 124)
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, padding: int = 0) -> None:
        sizes = {"inputs": inputs, "outputs": outputs, "size": size, "stride": stride, "padding": padding}
        check_sizes(sizes, {"padding": 0})
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        pairs = inputs * outputs
        self.columns = nn.Conv2d(inputs, pairs, (size, 1), (stride, 1), (padding, 0), groups=inputs, bias=False)
        self.rows = nn.Conv2d(pairs, outputs, (1, size), (1, stride), (0, padding), groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        # method
        maps = self.columns(x).unflatten(1, (self.inputs, self.outputs))
        # the maps of one output have to be next to each other, so that the rows add them up
        return self.rows(maps.transpose(1, 2).flatten(1, 2))
        # end of method

    def kernel(self) -> Tensor:
        """Give the filters that columns and rows form together, (outputs, inputs, size, size), each of rank 1."""
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
        without dilation; it is not changed.

    Returns the layer, and the relative error of each filter, (outputs, inputs).
    Raises ValueError for another layer, and for weights that are not finite.

    >>> layer, errors = separate(nn.Conv2d(3, 4, 5, stride=2, padding=1))
    >>> layer(torch.zeros(1, 3, 9, 9)).shape, errors.shape
    (torch.Size([1, 4, 4, 4]), torch.Size([4, 3]))
    """
    height, width = convolution.kernel_size
    (pad, other), (step, across) = padding_of(convolution), convolution.stride
    odd = convolution.groups != 1 or convolution.padding_mode != "zeros" or convolution.dilation != (1, 1)
    if odd or height != width or pad != other or step != across:
        raise ValueError(
            "a separable layer has square filters, one stride, one padding of zeros, one group and no dilation, unlike"
            f" {convolution}"
        )
    columns, rows, errors = nearest(weight_of(convolution))
    layer = Separable(convolution.in_channels, convolution.out_channels, height, stride=step, padding=pad)
    layer.to(device=columns.device, dtype=columns.dtype).train(convolution.training)
    with torch.no_grad():
        layer.columns.weight.copy_(columns.transpose(0, 1).flatten(0, 1)[:, None, :, None])
        layer.rows.weight.copy_(rows[:, :, None])
        if layer.rows.bias is not None:
            layer.rows.bias.copy_(torch.zeros(()) if convolution.bias is None else convolution.bias)
    return layer, errors


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
    side: pixels, height and width of the images, 4 or more, default 28; maps of larger images are averaged at the end.

    Input (n, channels, side, side), output (n, classes) logits.
    Raises ValueError for other filters and sizes.

    >>> from lib import measure
    >>> models = [convnet(channels=1, classes=10, filters=kind) for kind in get_args(Filters)]
    >>> [measure.multiply_adds(model, (1, 28, 28)) for model in models]
    [693000, 340200, 316680, 210840]
    """
    check_sizes({"channels": channels, "classes": classes, "side": side})
    check_one_of("filters", filters, get_args(Filters))
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
