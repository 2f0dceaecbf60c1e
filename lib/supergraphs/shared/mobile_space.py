r"""The factorized hierarchical space of MnasNet: a network is a row of blocks, and the layers of a block are alike.

Each block has a choice of its own; its layers repeat it. With S options for a block and B blocks of N layers there are

.. math:: S^B \quad\text{candidates, instead of}\quad S^{B N}

where each layer would have a choice of its own (tan2019mnasnet, section 4.1): with S = 432, B = 5 and N = 3 about
:math:`10^{13}` instead of :math:`10^{39}`.

A block has at least one layer, so in a block of one layer "one fewer" makes the same network as "no change".
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

from torch import Tensor, nn

from lib.arguments import check_sizes
from lib.seeding import seeded
from lib.supergraphs.shared.choices import Product
from lib.supergraphs.shared.convolutions import normalized

OPERATIONS = ("conv", "separable", "mobile3", "mobile6")


@dataclass(frozen=True)
class Block:
    """The choice for one block.

    operation: "conv", "separable" (a convolution of each channel, then 1 x 1), "mobile3" or "mobile6" (the same after
        a 1 x 1 convolution to 3 or 6 times the channels).
    kernel: height and width of the convolution.
    squeeze: width of squeeze-and-excitation, as a share of the channels that come into the layer; 0 for none.
    skip: "none", "identity" (the input is added where sizes agree) or "pool" (the mean of 3 x 3 pixels of the input is
        added where the number of channels agrees).
    width: factor of the block's channels.
    layers: how many more than usual.
    """

    operation: str = "mobile6"
    kernel: int = 3
    squeeze: float = 0
    skip: str = "identity"
    width: float = 1
    layers: int = 0


class Mobile(NamedTuple):
    """A candidate. blocks: the choice of each."""

    blocks: tuple[Block, ...]


class Base(NamedTuple):
    """A block before anything is changed: its channels, its layers, the stride of its first layer."""

    channels: int
    layers: int
    stride: int


MOBILENET_V2 = tuple(
    itertools.starmap(Base, [(16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)])
)
MNASNET_A1 = (  # blocks, and the candidate of them that the paper found (tan2019mnasnet, figure 7)
    tuple(
        itertools.starmap(Base, [(16, 1, 1), (24, 2, 2), (40, 3, 2), (80, 4, 2), (112, 2, 1), (160, 3, 2), (320, 1, 1)])
    ),
    Mobile(
        (
            Block("separable", 3, 0, "none"),
            Block("mobile6", 3),
            Block("mobile3", 5, 0.25),
            Block("mobile6", 3),
            Block("mobile6", 3, 0.25),
            Block("mobile6", 5, 0.25),
            Block("mobile6", 3),
        )
    ),
)


@dataclass(frozen=True)
class MobileSpace(Product[Mobile]):
    """The candidates, and their networks.

    bases: of the blocks, at least one; default those of MobileNetV2.
    operations, kernels, squeezes, skips, widths, layers: options of each block, as in :class:`Block`. The defaults are
        those of the paper: 432 combinations.
    stem: channels of the 3 x 3 convolution before the blocks, default 32.
    stem_stride: its stride, default 2.
    head: channels of the 1 x 1 convolution after the blocks, default 1280.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.

    Raises ValueError for options and sizes that are not accepted.

    >>> MobileSpace(bases=MOBILENET_V2[:5]).size == 432**5
    True
    """

    bases: tuple[Base, ...] = MOBILENET_V2
    operations: tuple[str, ...] = OPERATIONS
    kernels: tuple[int, ...] = (3, 5)
    squeezes: tuple[float, ...] = (0, 0.25)
    skips: tuple[str, ...] = ("none", "identity", "pool")
    widths: tuple[float, ...] = (0.75, 1, 1.25)
    layers: tuple[int, ...] = (-1, 0, 1)
    stem: int = 32
    stem_stride: int = 2
    head: int = 1280
    channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        accepted = {
            "operations": (lambda v: v in OPERATIONS, f"of {', '.join(OPERATIONS)}"),
            "kernels": (lambda v: _whole(v, 1) and v % 2 == 1, "odd numbers"),
            "squeezes": (lambda v: 0 <= v <= 1, "between 0 and 1"),
            "skips": (lambda v: v in ("none", "identity", "pool"), "of none, identity, pool"),
            "widths": (lambda v: 0 < v < float("inf"), "above 0 and finite"),
            "layers": (lambda v: _whole(v, -(2**31)), "whole numbers"),
        }
        for name, (right, words) in accepted.items():
            options = getattr(self, name)
            if not isinstance(options, tuple):
                raise ValueError(f"{name} must be a tuple, not {options!r}")
            if not options or len(set(options)) < len(options) or not all(map(right, options)):
                raise ValueError(f"{name} must be different options {words}, at least one of them, not {options!r}")
        if not self.bases or not all(_whole(value, 1) for base in self.bases for value in base):
            raise ValueError(f"bases must be blocks of whole numbers of 1 or more, at least one, not {self.bases!r}")
        check_sizes({name: getattr(self, name) for name in ("stem", "stem_stride", "head", "channels", "classes")})

    @property
    def options(self) -> tuple[tuple[str | float, ...], ...]:
        """The options of each block's operation, kernel, squeeze, skip, width and layers, block after block."""
        block = (self.operations, self.kernels, self.squeezes, self.skips, self.widths, self.layers)
        return block * len(self.bases)

    def candidate(self, numbers: Sequence[int]) -> Mobile:
        """Return the candidate that these choices make.

        numbers: one for each choice.
        """
        values = [options[number] for options, number in zip(self.options, numbers, strict=True)]
        size = len(fields(Block))
        return Mobile(tuple(Block(*values[i : i + size]) for i in range(0, len(values), size)))  # type: ignore[arg-type]

    def numbers(self, candidate: Mobile) -> tuple[int, ...]:
        """Return the choices that make a candidate.

        candidate: of this space.

        Raises ValueError for a candidate of another space.
        """
        values = [value for block in candidate.blocks for value in astuple(block)]
        if len(values) != len(self.options):
            raise ValueError(f"a candidate has {len(self.bases)} blocks, not {len(candidate.blocks)}")
        for value, options in zip(values, self.options, strict=True):
            if value not in options:
                raise ValueError(f"{value!r} is not in this space: accepted are {', '.join(map(str, options))}")
        return tuple(options.index(value) for value, options in zip(values, self.options, strict=True))

    def build(self, candidate: Mobile, seed: int) -> nn.Sequential:
        """Build the network of a candidate.

        candidate: of this space.
        seed: of the initial weights.

        Input (n, channels, height, width), output (n, classes) logits.
        Raises ValueError for a candidate of another space.

        >>> space = MobileSpace(bases=(Base(8, 2, 2),), stem=4, head=16, channels=1, classes=10)
        >>> from lib import measure
        >>> measure.multiply_adds(space.build(Mobile((Block(),)), seed=0), (1, 28, 28))
        111096
        """
        self.numbers(candidate)
        with seeded(seed):
            layers = OrderedDict[str, nn.Module]()
            layers["stem"] = _convolution(self.channels, self.stem, 3, stride=self.stem_stride)
            channels = self.stem
            for number, (base, block) in enumerate(zip(self.bases, candidate.blocks, strict=True), 1):
                outputs = max(1, round(base.channels * block.width))
                depth = max(1, base.layers + block.layers)
                strides = [base.stride] + [1] * (depth - 1)
                inputs = [channels] + [outputs] * (depth - 1)
                made = [Layer(block, i, outputs, stride) for i, stride in zip(inputs, strides, strict=True)]
                layers[f"block{number}"] = nn.Sequential(*made)
                channels = outputs
            layers["head"] = _convolution(channels, self.head, 1)
            layers["mean"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            layers["classifier"] = nn.Linear(self.head, self.classes)
            return nn.Sequential(layers)


class Layer(nn.Module):
    """One layer of a block: its operation, and what is added to it.

    block: the choice for the block.
    inputs, outputs: channels.
    stride: of the convolution, 1 or more.
    """

    def __init__(self, block: Block, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * {"mobile3": 3, "mobile6": 6}.get(block.operation, 1)
        layers = OrderedDict[str, nn.Module]()
        if middle > inputs:
            layers["expand"] = _convolution(inputs, middle, 1)
        if block.operation == "conv":
            middle = outputs
            layers["conv"] = _convolution(inputs, outputs, block.kernel, stride=stride)
        else:
            layers["depthwise"] = _convolution(middle, middle, block.kernel, stride=stride, groups=middle)
        if block.squeeze:
            layers["squeeze"] = SqueezeExcitation(middle, max(1, int(inputs * block.squeeze)))
        if block.operation != "conv":
            layers["project"] = normalized(middle, outputs, kernel=1)
        self.main = nn.Sequential(layers)
        self.skip: nn.Module | None = None
        if block.skip == "identity" and stride == 1 and inputs == outputs:
            self.skip = nn.Identity()
        elif block.skip == "pool" and inputs == outputs:
            self.skip = nn.AvgPool2d(3, stride, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) if self.skip is None else self.main(x) + self.skip(x)


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a gate in (0, 1) that depends on the means of all channels.

    channels: of the input.
    squeezed: units between.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def space_sizes(options: int, blocks: int, layers: int) -> tuple[int, int]:
    """Return the sizes of the factorized space and of one with a choice for each layer (tan2019mnasnet, section 4.1).

    options: S, for one block or layer, 1 or more.
    blocks: B, 1 or more.
    layers: N, of each block, 1 or more.

    Raises ValueError for numbers below 1.

    >>> ["{:.1e}".format(size) for size in space_sizes(432, 5, 3)]
    ['1.5e+13', '3.4e+39']
    """
    check_sizes({"options": options, "blocks": blocks, "layers": layers})
    return options**blocks, options ** (blocks * layers)
