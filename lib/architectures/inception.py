r"""Inception modules: filters of several sizes side by side, which read a reduced number of maps (szegedy2015going).

.. math:: y = \big[\, c_1(x),\; c_3(r_3(x)),\; c_5(r_5(x)),\; c_p(\operatorname{maxpool}(x)) \,\big]

Here :math:`c_k` are k x k convolutions, :math:`r_3` and :math:`r_5` are 1 x 1 convolutions that reduce the number of
maps, and :math:`c_p` is one that does so after a 3 x 3 max pool. A bias and ReLU follow each. The naive module has none
of the three, so its 3 x 3 and 5 x 5 filters read all maps of the input, and the pool passes them all on.

GoogLeNet has nine modules. While it is trained, two auxiliary heads classify from the middle of the network, and their
losses are added with weight 0.3 (section 5); they are thrown away afterwards. torchvision's GoogLeNet differs: it
has 3 x 3 filters in place of 5 x 5, batch norm in place of biases and local response normalization, a last max pool of
2 x 2, and other pools in the heads. Left out: the schedule of section 6, with its averaged weights and cropped images.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.architectures.shared.convolutions import activated, draw_weights
from lib.architectures.shared.network import Network, scaled
from lib.arguments import check_sizes
from lib.seeding import seeded


class Sizes(NamedTuple):
    """Filters of an Inception module. Where None stands for a number, the branch has no such convolution.

    ones, threes, fives: 1 x 1, 3 x 3 and 5 x 5 filters, 1 or more.
    reduce3, reduce5: 1 x 1 filters in front of the 3 x 3 and 5 x 5 ones, 1 or more, or None.
    pooled: 1 x 1 filters after the max pool, 1 or more, or None.
    """

    ones: int
    reduce3: int | None
    threes: int
    reduce5: int | None
    fives: int
    pooled: int | None

    def scaled(self, width: float) -> "Sizes":
        """Multiply all of them by a factor above 0."""
        return Sizes(*(None if filters is None else scaled(filters, width) for filters in self))  # type: ignore[arg-type]

    def naive(self) -> "Sizes":
        """Leave out the convolutions that reduce."""
        return self._replace(reduce3=None, reduce5=None, pooled=None)


# szegedy2015going, Table 1
MODULES = {
    "3a": Sizes(64, 96, 128, 16, 32, 32),
    "3b": Sizes(128, 128, 192, 32, 96, 64),
    "4a": Sizes(192, 96, 208, 16, 48, 64),
    "4b": Sizes(160, 112, 224, 24, 64, 64),
    "4c": Sizes(128, 128, 256, 24, 64, 64),
    "4d": Sizes(112, 144, 288, 32, 64, 64),
    "4e": Sizes(256, 160, 320, 32, 128, 128),
    "5a": Sizes(256, 160, 320, 32, 128, 128),
    "5b": Sizes(384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """The Inception module (szegedy2015going, Figure 2).

    inputs: channels of the input, 1 or more.
    sizes: filters of each kind; without those that reduce, it is the naive module.
    large: height and width of the largest filters in pixels, odd, default 5; torchvision has 3.
    batch_norm: whether batch norm follows each convolution in place of a bias; not in the paper. Default False.

    Input (n, inputs, height, width), output (n, ``outputs``, height, width): the maps of 1 x 1, 3 x 3 and large
    filters, then those of the pool.
    Raises ValueError for numbers that are not whole or below 1, and for an even ``large``.

    >>> Inception(192, MODULES["3a"]).outputs, Inception(192, MODULES["3a"].naive()).outputs
    (256, 416)
    """

    def __init__(self, inputs: int, sizes: Sizes, *, large: int = 5, batch_norm: bool = False) -> None:
        check_sizes(
            {"inputs": inputs, "large": large, "ones": sizes.ones, "threes": sizes.threes, "fives": sizes.fives}
        )
        check_sizes({name: filters for name, filters in sizes._asdict().items() if filters is not None})
        if large % 2 == 0:
            raise ValueError(f"large must be odd, so that height and width stay, not {large}")
        super().__init__()
        self.inputs = inputs
        self.outputs = sizes.ones + sizes.threes + sizes.fives + (sizes.pooled or inputs)

        def branch(*convolutions: tuple[int | None, int]) -> list[nn.Module]:
            """Convolutions one after another, each (filters, size of a filter); those with None are left out."""
            layers: list[nn.Module] = []
            maps = inputs
            for filters, size in convolutions:
                if filters is not None:
                    layers.append(activated(maps, filters, size, batch_norm=batch_norm))
                    maps = filters
            return layers

        # method
        self.ones = nn.Sequential(*branch((sizes.ones, 1)))
        self.threes = nn.Sequential(*branch((sizes.reduce3, 1), (sizes.threes, 3)))
        self.fives = nn.Sequential(*branch((sizes.reduce5, 1), (sizes.fives, large)))
        pool = nn.MaxPool2d(3, 1, padding=1)
        self.pooled = nn.Sequential(pool, *branch((sizes.pooled, 1)))
        # end of method

    def forward(self, x: Tensor) -> Tensor:
        # method
        return torch.cat([self.ones(x), self.threes(x), self.fives(x), self.pooled(x)], 1)
        # end of method


def googlenet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    large: int = 5,
    batch_norm: bool = False,
) -> Network:
    """Build GoogLeNet: three convolutions, nine Inception modules with pools between them, and the mean of each map.

    The layers are those of szegedy2015going, Table 1. The auxiliary heads only take part in training:
    :func:`lib.architectures.shared.googlenet_heads.fit`. The paper names neither the constants of its local response
    normalization nor its initial weights: we take those of Caffe's GoogLeNet for the first, over 5 maps; for the
    second, He's (normal) in the convolutions and PyTorch's in the last layer.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor of the filters of each convolution, default 1.
    large: height and width of the largest filters of the modules in pixels, odd, default 5; torchvision has 3.
    batch_norm: whether batch norm follows each convolution in place of a bias and of local response normalization; not
        in the paper. Default False. In half precision PyTorch has no local response normalization on a CPU.

    Input (n, channels, height, width) of 224 x 224 pixels or any other size from 31 x 31; output (n, classes) logits.
    Raises ValueError for sizes that are not accepted.

    >>> sum(p.numel() for p in googlenet(classes=10, width=0.25).parameters())
    379046
    """
    check_sizes({"channels": channels, "classes": classes})
    first, third = scaled(64, width), scaled(192, width)
    with seeded(seed):
        layers = OrderedDict[str, nn.Module](
            conv1=activated(channels, first, 7, stride=2, batch_norm=batch_norm),
            pool1=_pool(),
            norm1=nn.LocalResponseNorm(5),
            conv2=activated(first, first, 1, batch_norm=batch_norm),
            conv3=activated(first, third, 3, batch_norm=batch_norm),
            norm2=nn.LocalResponseNorm(5),
            pool2=_pool(),
        )
        if batch_norm:
            del layers["norm1"], layers["norm2"]
        inputs = third
        for name, sizes in MODULES.items():
            layers |= {"4a": {"pool3": _pool()}, "5a": {"pool4": _pool()}}.get(name, {})
            module = Inception(inputs, sizes.scaled(width), large=large, batch_norm=batch_norm)
            layers[f"inception{name}"] = module
            inputs = module.outputs
        layers |= OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), dropout=nn.Dropout(0.4))
        layers |= OrderedDict(fc=nn.Linear(inputs, classes))
        # each of four pools needs two pixels, and the first convolution has stride 2
        network = Network(layers, channels=channels, least=31)
        draw_weights(network, "normal")  # with PyTorch's, the signal almost vanishes over 22 layers
        return network


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
