r"""Residual blocks: layers learn what to *add* to their input, so that a network of a hundred layers still trains.

.. math:: y = \operatorname{relu}\big(F(x) + S(x)\big)

(he2016deep, equations 1 and 2). F, the residual, is two 3 x 3 convolutions in the basic block. In the bottleneck it is
a 1 x 1 convolution to a quarter of the channels, a 3 x 3 convolution, and a 1 x 1 convolution back. Batch norm follows
each convolution. S, the shortcut, is the identity where input and output have the same shape. Where they differ, the
paper has two options:

- "A": every second pixel, and channels of zeros. It has no parameters.
- "B": a 1 x 1 convolution with batch norm.

A plain block ("none") has no shortcut at all: it is the paper's baseline, and gets worse in deep networks.

Left out: option C (a convolution in every shortcut), and the paper's training schedules.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.architectures.shared.network import Network, scaled
from lib.arguments import check_sizes
from lib.models import ResidualBlock
from lib.seeding import seeded

Shortcut = Literal["A", "B", "none"]
Strided = Literal["1x1", "3x3"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def check_block(inputs: int, outputs: int, stride: int, *, shortcut: Shortcut) -> None:
    """Raise ValueError for another shortcut or size, and for "A" with fewer outputs than inputs.

    inputs, outputs: channels, 1 or more.
    stride: 1 or more.
    shortcut: "A", "B" or "none".
    """
    check_sizes({"inputs": inputs, "outputs": outputs, "stride": stride})
    if shortcut not in get_args(Shortcut):
        raise ValueError(f'shortcut must be "A", "B" or "none", not {shortcut!r}')
    if shortcut == "A" and outputs < inputs:
        raise ValueError(f'shortcut "A" only adds channels: outputs must be {inputs} or more, not {outputs}')


class ZeroPadding(nn.Module):
    """The shortcut of option A: every ``stride``-th pixel, then channels of zeros (he2016deep, section 4.1).

    inputs: channels of the input.
    outputs: channels of the output, as many as ``inputs`` or more.
    stride: 1 or more.

    Input (n, inputs, height, width), output (n, outputs, height / stride, width / stride), rounded up.
    Raises ValueError for fewer outputs than inputs and for sizes that are not whole numbers of 1 or more.

    >>> ZeroPadding(1, 2, 2)(torch.arange(9.0).reshape(1, 1, 3, 3)).tolist()
    [[[[0.0, 2.0], [6.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]]]
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        check_block(inputs, outputs, stride, shortcut="A")
        super().__init__()
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        pixels = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(pixels, (0, 0, 0, 0, 0, self.outputs - self.inputs))


def shortcut_layers(inputs: int, outputs: int, stride: int, *, shortcut: Shortcut) -> nn.Sequential:
    """Build S of a block. An empty Sequential is the identity; a plain block has it too, but does not use it.

    inputs, outputs: channels, 1 or more.
    stride: of the block, 1 or more.
    shortcut: "A", "B" or "none".

    Raises ValueError for another shortcut or size, and for "A" with fewer outputs than inputs.

    >>> [len(shortcut_layers(4, outputs, 1, shortcut="B")) for outputs in (4, 8)]
    [0, 2]
    """
    check_block(inputs, outputs, stride, shortcut=shortcut)
    if shortcut == "none" or (stride == 1 and inputs == outputs):
        return nn.Sequential()
    if shortcut == "A":
        return nn.Sequential(ZeroPadding(inputs, outputs, stride))
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(ResidualBlock):
    """The block of two 3 x 3 convolutions, with any shortcut (he2016deep, Figure 2).

    inputs: channels of the input, 1 or more.
    outputs: channels of the output, 1 or more.
    stride: of the first convolution, default 1.
    shortcut: "A", "B" (default; :class:`lib.models.ResidualBlock`) or "none".

    Input (n, inputs, height, width), output (n, outputs, height / stride, width / stride), rounded up.
    Raises ValueError for another shortcut or size, and for "A" with fewer outputs than inputs.

    >>> BasicBlock(4, 8, 2, shortcut="A")(torch.zeros(2, 4, 6, 6)).shape
    torch.Size([2, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, shortcut: Shortcut = "B") -> None:
        check_block(inputs, outputs, stride, shortcut=shortcut)
        super().__init__(inputs, outputs, stride)
        self.outputs, self.kind = outputs, shortcut
        if shortcut != "B":  # the class above has built that one
            self.shortcut = shortcut_layers(inputs, outputs, stride, shortcut=shortcut)

    def residual(self, x: Tensor) -> Tensor:
        """F(x), of shape (n, outputs, height / stride, width / stride)."""
        # method
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        # end of method

    def forward(self, x: Tensor) -> Tensor:
        # method
        # y = relu(F(x) + S(x)); the plain block is relu(F(x))
        added = self.residual(x)
        return torch.relu(added if self.kind == "none" else added + self.shortcut(x))
        # end of method

    def extra_repr(self) -> str:  # no weight tells a plain block apart, and the cache knows a network by its text
        return f"shortcut={self.kind}"


class Bottleneck(nn.Module):
    """The block of 1 x 1, 3 x 3 and 1 x 1 convolutions, a quarter as wide inside (he2016deep, Figure 5).

    inputs: channels of the input, 1 or more.
    outputs: channels of the output, a multiple of 4.
    stride: default 1.
    shortcut: "A", "B" (default) or "none".
    strided: the convolution that has the stride: "3x3" (default, as in torchvision) or "1x1", the first (the paper's).

    Input (n, inputs, height, width), output (n, outputs, height / stride, width / stride), rounded up.
    Raises ValueError for outputs that 4 does not divide, another shortcut, strided or size, and for "A" with fewer
    outputs than inputs.

    >>> Bottleneck(4, 16, 2)(torch.zeros(2, 4, 6, 6)).shape
    torch.Size([2, 16, 3, 3])
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, *, shortcut: Shortcut = "B", strided: Strided = "3x3"
    ) -> None:
        check_block(inputs, outputs, stride, shortcut=shortcut)
        if outputs % 4:
            raise ValueError(f"outputs of a bottleneck must be a multiple of 4, not {outputs}")
        if strided not in get_args(Strided):
            raise ValueError(f'strided must be "1x1" or "3x3", not {strided!r}')
        super().__init__()
        self.outputs, self.kind = outputs, shortcut
        middle = outputs // 4
        self.conv1 = nn.Conv2d(inputs, middle, 1, stride if strided == "1x1" else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride if strided == "3x3" else 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut_layers(inputs, outputs, stride, shortcut=shortcut)

    def residual(self, x: Tensor) -> Tensor:
        """F(x): (n, inputs, height, width) -> (n, outputs, height / stride, width / stride)."""
        reduced = torch.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(reduced)))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) if self.kind == "none" else self.residual(x) + self.shortcut(x))

    def extra_repr(self) -> str:  # as in the basic block
        return f"shortcut={self.kind}"


def cifar_resnet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 10,
    width: float = 1.0,
    depth: int = 20,
    shortcut: Shortcut = "A",
) -> Network:
    """Build the residual network for small images: three stages of basic blocks (he2016deep, section 4.2).

    With ``shortcut="B"`` the layers are those of :func:`lib.models.resnet8` and ``resnet20``. The initial weights of
    convolutions are He's (normal), as in the paper. A plain network and that of option A begin with the same weights.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 10.
    width: factor of the 16, 32 and 64 channels of the stages, default 1.
    depth: layers with weights, 6 n + 2 for n blocks in each stage, default 20.
    shortcut: "A" (default), "B" or "none".

    Input (n, channels, height, width) of 32 x 32 pixels or any other size, output (n, classes) logits.
    Raises ValueError for another depth, shortcut or size.

    >>> [sum(p.numel() for p in cifar_resnet(shortcut=option).parameters()) for option in ("A", "B", "none")]
    [269722, 272474, 269722]
    """
    check_sizes({"channels": channels, "classes": classes, "depth": depth})
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6 n + 2 for n blocks in each stage (8, 14, 20, ...), not {depth}")
    outputs = [scaled(16 * 2**stage, width) for stage in range(3)]
    blocks = ((depth - 2) // 6,) * 3
    with seeded(seed):
        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(channels, outputs[0], 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(outputs[0]),
            relu=nn.ReLU(),
        )
        block = partial(BasicBlock, shortcut=shortcut)
        return _network(stem, outputs[0], outputs, blocks, block, channels=channels, classes=classes)


def imagenet_resnet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    depth: int = 18,
    shortcut: Shortcut = "B",
    strided: Strided = "3x3",
) -> Network:
    """Build the residual network for large images: four stages of basic blocks or bottlenecks (he2016deep, Table 1).

    With the defaults it computes what torchvision's network of that depth computes. The initial weights of convolutions
    are He's (normal).

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor of the 64, 128, 256 and 512 channels of the stages (four times as many at the end of a bottleneck),
        default 1.
    depth: layers with weights: 18 (default) or 34 with basic blocks; 50, 101 or 152 with bottlenecks.
    shortcut: "A", "B" (default) or "none".
    strided: of bottlenecks, "3x3" (default) or "1x1", as in :class:`Bottleneck`; basic blocks only take the default.

    Input (n, channels, height, width) of 224 x 224 pixels or any other size, output (n, classes) logits.
    Raises ValueError for another depth, shortcut, strided or size.

    >>> sum(p.numel() for p in imagenet_resnet(depth=18).parameters())
    11689512
    """
    check_sizes({"channels": channels, "classes": classes, "depth": depth})
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, not {depth}")
    if depth < 50 and strided != "3x3":
        raise ValueError(f"strided={strided!r} is for bottlenecks (depth 50 or more); depth {depth} has basic blocks")
    first = scaled(64, width)
    expansion = 4 if depth >= 50 else 1
    block: Callable[[int, int, int], nn.Module] = partial(BasicBlock, shortcut=shortcut)
    if depth >= 50:
        block = partial(Bottleneck, shortcut=shortcut, strided=strided)
    with seeded(seed):
        stem = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(channels, first, 7, 2, padding=3, bias=False),
            bn=nn.BatchNorm2d(first),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, padding=1),
        )
        outputs = [expansion * scaled(64 * 2**stage, width) for stage in range(4)]
        return _network(stem, first, outputs, BLOCKS[depth], block, channels=channels, classes=classes)


def _network(
    layers: OrderedDict[str, nn.Module],
    inputs: int,
    outputs: list[int],
    blocks: tuple[int, ...],
    block: Callable[[int, int, int], nn.Module],
    *,
    channels: int,
    classes: int,
) -> Network:
    for stage, (out, number) in enumerate(zip(outputs, blocks, strict=True), 1):
        for i in range(1, number + 1):
            layers[f"stage{stage}_{i}"] = block(inputs, out, 2 if stage > 1 and i == 1 else 1)
            inputs = out
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes))
    network = Network(layers, channels=channels)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
