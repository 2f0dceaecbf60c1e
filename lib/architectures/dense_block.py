r"""Dense blocks: each layer sees the maps of all layers before it, and adds only a few of its own.

.. math:: x_l = H_l\big([x_0, x_1, \dots, x_{l-1}]\big)

(huang2017densely, equation 2). H is batch norm, ReLU and a 3 x 3 convolution that makes k feature maps; k is the growth
rate. After l layers there are :math:`k_0 + l k` maps. With a bottleneck (DenseNet-B), H first makes 4 k maps with a
1 x 1 convolution. Between blocks, a transition makes :math:`\lfloor \theta m \rfloor` of m maps (DenseNet-C for
:math:`\theta < 1`) and halves height and width. DenseNet-BC does both.

Left out: the authors' later implementation that saves memory. Here, the memory for training grows with the square of
the number of layers.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from lib.architectures.shared.network import Network
from lib.arguments import check_sizes
from lib.seeding import seeded

BLOCKS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def unit(inputs: int, outputs: int, size: int, *, dropout: float = 0.0) -> nn.Sequential:
    """Build batch norm, ReLU and a convolution that keeps height and width; then dropout, if there is any.

    inputs, outputs: channels, 1 or more.
    size: of the filter, size x size, odd.
    dropout: share of the outputs that training sets to zero, in [0, 1), default 0.

    Raises ValueError for other values.

    >>> list(dict(unit(4, 2, 3).named_children()))
    ['bn', 'relu', 'conv']
    """
    check_sizes({"inputs": inputs, "outputs": outputs, "size": size})
    if size % 2 == 0:
        raise ValueError(f"size of a filter must be odd, not {size}")
    _check_dropout(dropout)
    layers = OrderedDict[str, nn.Module](
        bn=nn.BatchNorm2d(inputs),
        relu=nn.ReLU(),
        conv=nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
    )
    return nn.Sequential(layers | ({"dropout": nn.Dropout(dropout)} if dropout else {}))


class DenseLayer(nn.Module):
    """One layer of a block: its input, followed by ``growth`` new maps (huang2017densely, equation 2).

    inputs: channels of the input, 1 or more.
    growth: k, new channels, 1 or more.
    bottleneck: whether a 1 x 1 convolution makes 4 k maps first. Default False.
    dropout: after each convolution, in [0, 1), default 0.

    Input (n, inputs, height, width), output (n, inputs + growth, height, width).
    Raises ValueError for other sizes and dropout.

    >>> DenseLayer(5, 3)(torch.zeros(1, 5, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, inputs: int, growth: int, *, bottleneck: bool = False, dropout: float = 0.0) -> None:
        check_sizes({"inputs": inputs, "growth": growth})
        super().__init__()
        self.inputs, self.outputs = inputs, inputs + growth
        units = [unit(inputs, growth, 3, dropout=dropout)]
        if bottleneck:
            units = [unit(inputs, 4 * growth, 1, dropout=dropout), unit(4 * growth, growth, 3, dropout=dropout)]
        self.h = nn.Sequential(*units)

    # method
    def forward(self, x: Tensor) -> Tensor:
        # x_l = H([x_0, ..., x_{l-1}])
        new = self.h(x)
        return torch.cat([x, new], 1)

    # end of method


class DenseBlock(nn.Sequential):
    """Layers that each see the maps of all layers before them.

    inputs: k0, channels of the input, 1 or more.
    layers: number of them, 1 or more.
    growth: k, channels that each layer adds, 1 or more.
    bottleneck: whether each layer makes 4 k maps with a 1 x 1 convolution first. Default False.
    dropout: after each convolution, in [0, 1), default 0.

    Input (n, inputs, height, width), output (n, inputs + layers * growth, height, width).
    Raises ValueError for other sizes and dropout.

    >>> DenseBlock(16, 6, 12).outputs
    88
    """

    def __init__(
        self, inputs: int, layers: int, growth: int, *, bottleneck: bool = False, dropout: float = 0.0
    ) -> None:
        check_sizes({"inputs": inputs, "layers": layers, "growth": growth})
        super().__init__(
            OrderedDict(
                (f"layer{i + 1}", DenseLayer(inputs + i * growth, growth, bottleneck=bottleneck, dropout=dropout))
                for i in range(layers)
            )
        )
        self.inputs, self.outputs = inputs, inputs + layers * growth


class Transition(nn.Sequential):
    """The layers between two blocks: batch norm, ReLU, a 1 x 1 convolution, and the mean of each 2 x 2 pixels.

    The paper's text has no ReLU here; its code has one, and so has torchvision.

    inputs: m, channels of the input, 1 or more.
    compression: theta, in (0, 1]; the output has floor(theta m) channels. Default 0.5.
    dropout: after the convolution, in [0, 1), default 0.

    Input (n, inputs, height, width), output (n, floor(theta m), height / 2, width / 2), rounded down.
    Raises ValueError for other values, and if no channel would be left.

    >>> Transition(9)(torch.zeros(1, 9, 6, 4)).shape
    torch.Size([1, 4, 3, 2])
    """

    def __init__(self, inputs: int, *, compression: float = 0.5, dropout: float = 0.0) -> None:
        check_sizes({"inputs": inputs})
        _check_compression(compression)
        outputs = math.floor(compression * inputs + 1e-9)  # 0.29 * 100 is a little less than 29
        if outputs < 1:
            raise ValueError(f"compression {compression} of {inputs} channels leaves none")
        super().__init__(unit(inputs, outputs, 1, dropout=dropout), nn.AvgPool2d(2))
        self.outputs = outputs


def cifar_densenet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 10,
    depth: int = 40,
    growth: int = 12,
    bottleneck: bool = False,
    compression: float = 1.0,
    dropout: float = 0.0,
) -> Network:
    """Build the DenseNet (L, k) for small images: three blocks of equal length (huang2017densely, section 3).

    DenseNet-BC (100, 12) is ``depth=100, bottleneck=True, compression=0.5``. The initial weights of convolutions are
    He's (normal), as in the paper.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 10.
    depth: L, layers with weights: 3 n + 4 (7, 10, 13, ...), with bottlenecks 6 n + 4 (10, 16, 22, ...). Default 40.
    growth: k, channels that each layer adds; it is the width of this network. Default 12.
    bottleneck: whether each layer makes 4 k maps with a 1 x 1 convolution first. Default False.
    compression: share of the channels that a transition keeps, in (0, 1], default 1.
    dropout: after each convolution except the first, in [0, 1), default 0. The paper takes 0.2 without augmentation.

    The first convolution has 2 k channels in a DenseNet-BC (bottlenecks, and a compression below 1), otherwise 16.
    Input (n, channels, height, width) of 32 x 32 pixels, or another size from 4 x 4; output (n, classes) logits.
    Raises ValueError for another depth, compression, dropout or size.

    >>> sum(p.numel() for p in cifar_densenet(depth=40, growth=12).parameters())
    1019722
    """
    check_sizes({"channels": channels, "classes": classes, "depth": depth, "growth": growth})
    _check_compression(compression)
    _check_dropout(dropout)
    per_layer = 2 if bottleneck else 1
    number = (depth - 4) // (3 * per_layer)
    if number < 1 or (depth - 4) % (3 * per_layer):
        kind, lengths = ("6 n + 4 with bottlenecks", "10, 16, 22") if bottleneck else ("3 n + 4", "7, 10, 13")
        raise ValueError(f"depth must be {kind} ({lengths}, ...), not {depth}")
    first = 2 * growth if bottleneck and compression < 1 else 16
    with seeded(seed):
        stem = OrderedDict[str, nn.Module](conv=nn.Conv2d(channels, first, 3, padding=1, bias=False))
        return _network(
            stem,
            first,
            (number,) * 3,
            growth,
            bottleneck=bottleneck,
            compression=compression,
            dropout=dropout,
            channels=channels,
            classes=classes,
            least=4,  # two transitions
        )


def imagenet_densenet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    depth: int = 121,
    growth: int = 32,
    compression: float = 0.5,
    dropout: float = 0.0,
) -> Network:
    """Build the DenseNet for large images: four blocks with bottlenecks (huang2017densely, Table 1).

    With the defaults it computes what torchvision's densenet121 computes (its densenet161 has a growth of 48). The
    initial weights of convolutions are He's (normal).

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    depth: layers with weights: 121 (default), 161, 169 or 201.
    growth: k, channels that each layer adds; the first convolution has 2 k. Default 32.
    compression: share of the channels that a transition keeps, in (0, 1], default 0.5.
    dropout: after each convolution except the first, in [0, 1), default 0.

    Input (n, channels, height, width) of 224 x 224 pixels, or another size from 29 x 29; output (n, classes) logits.
    Raises ValueError for another depth, compression, dropout or size.

    >>> sum(p.numel() for p in imagenet_densenet().parameters())
    7978856
    """
    check_sizes({"channels": channels, "classes": classes, "depth": depth, "growth": growth})
    _check_compression(compression)
    _check_dropout(dropout)
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, not {depth}")
    with seeded(seed):
        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(channels, 2 * growth, 7, 2, padding=3, bias=False),
            bn0=nn.BatchNorm2d(2 * growth),
            relu0=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, padding=1),
        )
        return _network(
            stem,
            2 * growth,
            BLOCKS[depth],
            growth,
            bottleneck=True,
            compression=compression,
            dropout=dropout,
            channels=channels,
            classes=classes,
            least=29,  # the stem leaves 8 x 8 of them, and there are three transitions
        )


def _network(
    layers: OrderedDict[str, nn.Module],
    inputs: int,
    blocks: tuple[int, ...],
    growth: int,
    *,
    bottleneck: bool,
    compression: float,
    dropout: float,
    channels: int,
    classes: int,
    least: int,
) -> Network:
    for i, number in enumerate(blocks, 1):
        if i > 1:
            transition = Transition(inputs, compression=compression, dropout=dropout)
            layers[f"transition{i - 1}"], inputs = transition, transition.outputs
        block = DenseBlock(inputs, number, growth, bottleneck=bottleneck, dropout=dropout)
        layers[f"block{i}"], inputs = block, block.outputs
    layers |= OrderedDict(bn=nn.BatchNorm2d(inputs), relu=nn.ReLU())
    fc = nn.Linear(inputs, classes)
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=fc)
    network = Network(layers, channels=channels, least=least)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(fc.bias)
    return network


def _check_dropout(dropout: float) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), not {dropout!r}")


def _check_compression(compression: float) -> None:
    if isinstance(compression, bool) or not isinstance(compression, int | float) or not 0 < compression <= 1:
        raise ValueError(f"compression must be in (0, 1], not {compression!r}")
