r"""The stacked hourglass, real or binary: it finds points by looking at an image at all scales.

An hourglass of depth d pools its input d times. On the way back up it adds, at each size, what was there before the
pool (newell2016stacked, Figure 3):

.. math:: H_d(x) = S(x) + \operatorname{up}\Big(B\big(H_{d-1}(A(\operatorname{pool}(x)))\big)\Big), \qquad H_0(x) = C(x)

with blocks S, A, B and C that keep size and channels. Several hourglasses follow one another. Each gives heat maps, one
for each point. The next one reads these maps, the features, and the input of the hourglass before it. The loss is the
mean squared distance of the maps of all hourglasses (intermediate supervision) to Gaussians around the true points.

bulat2017binarized puts binary blocks into it. The caller chooses the blocks, so networks with different blocks are
otherwise alike. :mod:`lib.binarization.bulat_binary_block` has the hierarchical, parallel, multi-scale block and the
bottleneck, each in signs or in floats. The first and the last convolution are real, as are those that hand maps on to
the next hourglass. Like any binary network, it runs on bits after ``convert`` of
:mod:`lib.binarization.shared.inference`.

Left out: the strides and blocks by which newell2016stacked bring 256 pixels to 64 (here it is one convolution), the
1 x 1 convolution in front of the maps, several blocks in a row, and places between pixels.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.architectures.shared.network import Network
from lib.arguments import check_sizes
from lib.seeding import seeded

Block = Callable[[int], nn.Module]


class Hourglass(nn.Module):
    """An hourglass: (n, channels, height, width) -> the same shape.

    depth: d, how often it pools, 1 or more. Each pool halves the size, rounded down; going up, that size comes back.
    channels: of input and output, 1 or more.
    block: from a number of channels to a block that keeps size and channels; called 3 d + 1 times.

    Input of 2^d pixels or more on each side. Raises ValueError for other sizes.

    >>> Hourglass(2, 4, lambda c: nn.Conv2d(c, c, 3, padding=1))(torch.zeros(1, 4, 6, 7)).shape
    torch.Size([1, 4, 6, 7])
    """

    def __init__(self, depth: int, channels: int, block: Block) -> None:
        check_sizes({"depth": depth, "channels": channels})
        super().__init__()
        self.depth, self.channels = depth, channels
        self.skip = block(channels)
        self.down = block(channels)
        self.inner = block(channels) if depth == 1 else Hourglass(depth - 1, channels, block)
        self.up = block(channels)

    # method
    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(functional.max_pool2d(x, 2))))
        return self.skip(x) + functional.interpolate(low, size=x.shape[2:], mode="nearest")

    # end of method


class Stacks(nn.Module):
    """Hourglasses that follow one another, each with its heat maps.

    stacks: number of hourglasses, 1 or more.
    depth, channels, block: of each, as in :class:`Hourglass`; a block, batch norm and ReLU follow it.
    maps: of each hourglass, 1 or more.

    Input (n, channels, height, width). Output (n, maps, height, width): the maps of the last one; in training mode
    those of all, (n, stacks · maps, height, width), in their order.
    """

    def __init__(self, stacks: int, depth: int, channels: int, maps: int, block: Block) -> None:
        check_sizes({"stacks": stacks, "depth": depth, "channels": channels, "maps": maps})
        super().__init__()
        self.stacks, self.depth, self.channels, self.maps = stacks, depth, channels, maps
        self.features = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    hourglass=Hourglass(depth, channels, block),
                    block=block(channels),
                    bn=nn.BatchNorm2d(channels),
                    relu=nn.ReLU(),
                )
            )
            for _ in range(stacks)
        )
        self.heads = nn.ModuleList(nn.Conv2d(channels, maps, 1) for _ in range(stacks))
        self.from_features = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(stacks - 1))
        self.from_maps = nn.ModuleList(nn.Conv2d(maps, channels, 1) for _ in range(stacks - 1))

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for i, (features, head) in enumerate(zip(self.features, self.heads, strict=True)):
            y = features(x)
            maps.append(head(y))
            if i < self.stacks - 1:
                x = x + self.from_features[i](y) + self.from_maps[i](maps[-1])
        return torch.cat(maps, 1) if self.training else maps[-1]


def hourglass(
    seed: int = 0,
    *,
    block: Block,
    channels: int = 3,
    maps: int,
    features: int = 256,
    depth: int = 4,
    stacks: int = 1,
    stride: int = 1,
) -> Network:
    """Build a stacked hourglass: a real convolution, a block, and hourglasses with a heat map for each point.

    seed: of the initial weights, default 0.
    block: from a number of channels to a block that keeps size and channels, for example
        ``lambda c: BinaryBlock(c, c)`` or ``lambda c: Bottleneck(c, equal_width(c), binary=False)`` of
        :mod:`lib.binarization.bulat_binary_block`.
    channels: of the images, default 3.
    maps: one for each point, 1 or more.
    features: channels of all blocks, default 256.
    depth: of each hourglass, default 4.
    stacks: number of hourglasses, default 1.
    stride: of the first convolution, whose filters have 2 stride + 1 pixels on each side, default 1.

    Input (n, channels, height, width), with 2^depth pixels or more on each side once it is divided by the stride.
    Output (n, maps, height / stride, width / stride), rounded up: the maps of the last hourglass; in training mode
    those of all, (n, stacks · maps, ...), for :func:`squared_error`. Raises ValueError for other values.

    >>> from lib.binarization.bulat_binary_block import BinaryBlock
    >>> network = hourglass(block=lambda c: BinaryBlock(c, c), channels=1, maps=4, features=8, depth=2, stacks=2)
    >>> network.eval()(torch.zeros(1, 1, 14, 14)).shape, network.train()(torch.zeros(1, 1, 14, 14)).shape
    (torch.Size([1, 4, 14, 14]), torch.Size([1, 8, 14, 14]))
    """
    check_sizes(
        {"channels": channels, "maps": maps, "features": features, "depth": depth, "stacks": stacks, "stride": stride}
    )
    with seeded(seed):
        first = nn.Conv2d(channels, features, 2 * stride + 1, stride, padding=stride)
        layers = OrderedDict[str, nn.Module](conv=first, bn=nn.BatchNorm2d(features), relu=nn.ReLU())
        layers |= OrderedDict(block=block(features), stacks=Stacks(stacks, depth, features, maps, block))
        return Network(layers, channels=channels, least=(2**depth - 1) * stride + 1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of the heat maps of all hourglasses, for the option ``loss`` of :func:`lib.training.fit`.

    Points that are not visible have targets of zeros, which count (newell2016stacked).

    outputs: (n, stacks · maps, height, width), as a network in training mode gives them.
    targets: (n, maps, height, width).

    Returns a scalar. Raises ValueError for shapes that do not fit.

    >>> squared_error(torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1), torch.zeros(1, 1, 1, 1))  # two stacks, one map
    tensor(5.)
    """
    n, maps, height, width = targets.shape if targets.dim() == 4 else (0, 0, 0, 0)
    if outputs.dim() != 4 or not maps or not outputs.shape[1] or outputs.shape[1] % maps:
        fits = False
    else:
        fits = (len(outputs), *outputs.shape[2:]) == (n, height, width)
    if not fits:
        raise ValueError(
            "outputs (n, stacks · maps, height, width) and targets (n, maps, height, width) are needed, not"
            f" {tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    # method
    return (outputs.unflatten(1, (-1, maps)) - targets[:, None]).square().mean()
    # end of method
