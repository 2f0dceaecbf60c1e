r"""MobileNet: depthwise separable convolutions throughout, and two numbers that trade accuracy for cost.

The width multiplier alpha scales the channels of every layer, the resolution multiplier rho the images and with them
every map. One layer of M to N channels on a map of D x D then costs

.. math:: (k^2 \, \alpha M + \alpha M \, \alpha N)\, (\rho D)^2 , \qquad 0 < \rho \le 1

multiply-adds (howard2017mobilenets, sections 3.3 and 3.4). Batch norm and ReLU follow both halves of each layer.

The paper's table gives the last depthwise convolution a stride of 2, but its map does not shrink there, so the stride
is 1. Left out is how the paper trains: little or no weight decay on the depthwise filters, which have few weights.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

from torch import Tensor, nn

from lib.architectures.depthwise_separable import DepthwiseSeparable
from lib.architectures.shared.network import Network, scaled
from lib.architectures.shared.strides import check_strides, least
from lib.arguments import check_sizes
from lib.seeding import seeded


class Resize(nn.Module):
    """Scale images to a share of their height and width; each new pixel is the mean of what it covers.

    resolution: share, above 0 and at most 1. Height and width are rounded.

    >>> import torch
    >>> tuple(Resize(0.857)(torch.zeros(1, 3, 224, 224)).shape)
    (1, 3, 192, 192)
    """

    def __init__(self, resolution: float) -> None:
        super().__init__()
        _check_resolution(resolution)
        self.resolution = resolution

    def forward(self, images: Tensor) -> Tensor:
        height, width = (scaled(side, self.resolution) for side in images.shape[2:])
        return nn.functional.interpolate(images, size=(height, width), mode="area")

    def extra_repr(self) -> str:  # no weight tells two resolutions apart, and the cache knows a network by its text
        return f"resolution={self.resolution}"


def mobilenet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    resolution: float = 1.0,
    strides: tuple[int, ...] = (2, 2, 2, 2, 2),
    middle: int = 5,
    full: bool = False,
) -> Network:
    """Build MobileNet (howard2017mobilenets, table 1).

    With the defaults it has 4,231,976 parameters, and 568,740,352 multiply-adds for an image of 224 x 224.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: alpha, factor above 0 for the channels of all layers, default 1.
    resolution: rho, above 0 and at most 1, default 1. Below 1 a first layer, ``resize``, scales the images.
    strides: of the first convolution and of the four blocks that double the channels to 128, 256, 512 and 1024; five
        numbers, each 1 or 2. The default is for 224 pixels; (1, 1, 2, 2, 2) leaves 4 x 4 of images of 28 or 32.
    middle: blocks of 512 channels and stride 1, 0 or more; default 5. With 0 it is the paper's shallow network.
    full: whether the convolutions are full 3 x 3 ones, to compare with. Default False.

    Input (n, channels, height, width), output (n, classes) logits.
    Raises ValueError for sizes, multipliers and strides other than these.

    >>> sum(p.numel() for p in mobilenet(width=0.25).parameters())
    470072
    """
    check_sizes({"channels": channels, "classes": classes})
    check_strides(strides, count=5)
    _check_resolution(resolution)
    check_sizes({"middle": middle}, {"middle": 0})
    first, *halvings = strides
    # method
    plan = [(64, 1), (128, halvings[0]), (128, 1), (256, halvings[1]), (256, 1), (512, halvings[2])]
    plan += [(512, 1)] * middle + [(1024, halvings[3]), (1024, 1)]
    # end of method
    with seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers |= {"resize": Resize(resolution)} if resolution != 1 else {}
        inputs = scaled(32, width)
        layers |= {"conv": nn.Conv2d(channels, inputs, 3, first, padding=1, bias=False)}
        layers |= {"bn": nn.BatchNorm2d(inputs), "relu": nn.ReLU()}
        for i, (wide, stride) in enumerate(plan, 1):
            outputs = scaled(wide, width)
            layers[f"block{i}"] = _block(inputs, outputs, stride, full)
            inputs = outputs
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}
    fewest = next(side for side in count(1) if scaled(side, resolution) >= least(strides))
    return Network(layers, channels=channels, least=fewest)


def _block(inputs: int, outputs: int, stride: int, full: bool) -> nn.Sequential:
    conv: nn.Module
    if full:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    else:
        between = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(inputs), relu=nn.ReLU()))
        conv = DepthwiseSeparable(inputs, outputs, stride=stride, between=between)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


@dataclass(frozen=True)
class Cost:
    """Multiply-adds and weights of one layer, without batch norm."""

    multiply_adds: int
    weights: int


def layer_cost(
    inputs: int,
    outputs: int,
    side: int,
    *,
    kernel: int = 3,
    width: float = 1.0,
    resolution: float = 1.0,
    full: bool = False,
) -> Cost:
    """Count one layer of stride 1, as in the paper's table 3 (howard2017mobilenets).

    inputs: M, channels of its input, before the width multiplier.
    outputs: N, channels of its output, before the width multiplier.
    side: D, height and width of its map in pixels, before the resolution multiplier.
    kernel: k, height and width of its filters, default 3.
    width: alpha, above 0, default 1.
    resolution: rho, above 0 and at most 1, default 1.
    full: whether it is a full convolution rather than a depthwise separable one. Default False.

    Raises ValueError for sizes and multipliers other than these.

    >>> layer_cost(512, 512, 14, full=True)
    Cost(multiply_adds=462422016, weights=2359296)
    >>> layer_cost(512, 512, 14, width=0.75, resolution=0.714)
    Cost(multiply_adds=15091200, weights=150912)
    """
    check_sizes({"inputs": inputs, "outputs": outputs, "side": side, "kernel": kernel})
    _check_resolution(resolution)
    m, n, d = scaled(inputs, width), scaled(outputs, width), scaled(side, resolution)
    # k^2 M N, or k^2 M + M N
    weights = kernel**2 * m * n if full else kernel**2 * m + m * n
    return Cost(multiply_adds=weights * d**2, weights=weights)


def _check_resolution(resolution: float) -> None:
    if isinstance(resolution, bool) or not isinstance(resolution, int | float) or not 0 < resolution <= 1:
        raise ValueError(f"resolution must be a number above 0 and at most 1, not {resolution!r}")
