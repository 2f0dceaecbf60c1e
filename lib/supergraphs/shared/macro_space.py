r"""The macro space of ENAS: whole networks of L layers, each with one of six operations and skips from earlier layers.

.. math:: x_i = \operatorname{BN}\Big(o_i(x_{i-1}) + \sum_{j < i} s_{ij} x_j\Big), \qquad
          6^L \, 2^{L (L - 1) / 2} \ \text{networks}

(pham2018efficient, section 2.3). In each operation a 1 x 1 convolution comes before the convolution or pool. After one
third and two thirds of the layers, all outputs that are still used are halved in size, each by a reduction of its own:
one 1 x 1 convolution sees every second pixel, another one the pixels one further on.

As in the authors' code, outputs are added (the paper concatenates them and applies a 1 x 1 convolution). In the code
the first skip comes from the stem and the last from the layer before the previous one; here, as in the paper, they come
from the layers 0 to i - 1. The cells of the micro space are left out.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.arguments import check_sizes
from lib.search import chains
from lib.seeding import seeded
from lib.supergraphs.shared.choices import Product
from lib.supergraphs.shared.convolutions import normalized

OPERATIONS = ("conv3", "separable3", "conv5", "separable5", "average3", "max3")


@dataclass(frozen=True)
class Macro:
    """A candidate.

    operations: of each layer, names of ``OPERATIONS``.
    skips: for each layer, whether it adds the output of each earlier layer.
    """

    operations: tuple[str, ...]
    skips: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class MacroSpace(Product[Macro]):
    """The networks of a number of layers.

    layers: L, 1 or more; default 6 (the paper: 12).
    operations: that a layer can have, of ``OPERATIONS``; default all six.
    width: channels, an even number of 2 or more; default 8 (the paper: 36 in the search, 96 at the end).
    channels: of the images, default 1.
    classes: number of outputs, 2 or more, default 10.

    Raises ValueError for other sizes, and for unknown operations.

    >>> MacroSpace(layers=12).size == 6**12 * 2**66
    True
    """

    layers: int = 6
    operations: tuple[str, ...] = OPERATIONS
    width: int = 8
    channels: int = 1
    classes: int = 10

    def __post_init__(self) -> None:
        check_sizes({name: getattr(self, name) for name in ("layers", "width", "channels", "classes")}, {"width": 2})
        if self.width % 2:
            raise ValueError(f"width must be even, since two halves make a reduction, not {self.width}")
        if not isinstance(self.operations, tuple):
            raise ValueError(f"operations must be a tuple, not {self.operations!r}")
        chains.check_operations(self.operations, OPERATIONS)

    @property
    def options(self) -> tuple[tuple[str | bool, ...], ...]:
        """Of each layer its operations, then False and True for a skip from each earlier layer."""
        return tuple(
            options for layer in range(self.layers) for options in (self.operations, *((False, True),) * layer)
        )

    def candidate(self, numbers: Sequence[int]) -> Macro:
        """Return the candidate that these choices make.

        numbers: one for each choice.
        """
        rest = iter(numbers)
        made = [
            (self.operations[next(rest)], tuple(bool(next(rest)) for _ in range(layer))) for layer in range(self.layers)
        ]
        return Macro(tuple(operation for operation, _ in made), tuple(skips for _, skips in made))

    def numbers(self, candidate: Macro) -> tuple[int, ...]:
        """Return the choices that make a candidate.

        candidate: of this space.

        Raises ValueError for a candidate of another space.
        """
        self.check(candidate)
        return tuple(
            number
            for operation, skips in zip(candidate.operations, candidate.skips, strict=True)
            for number in (self.operations.index(operation), *map(int, skips))
        )

    def check(self, candidate: Macro) -> None:
        """Raise ValueError for a candidate that is not of this space.

        candidate: to check.
        """
        if len(candidate.operations) != self.layers or [*map(len, candidate.skips)] != [*range(self.layers)]:
            raise ValueError(
                f"a candidate has {self.layers} operations and as many skips as layers before each, not {candidate}"
            )
        chains.check_chosen(candidate.operations, self.operations)

    def covering(self) -> Iterator[Macro]:
        """List a few candidates that together have all layers of the space: one operation everywhere, all skips."""
        skips = tuple((True,) * layer for layer in range(self.layers))
        return (Macro((operation,) * self.layers, skips) for operation in self.operations)

    def build(self, candidate: Macro, seed: int) -> "MacroNetwork":
        """Build the network of a candidate.

        candidate: of this space.
        seed: of the initial weights.

        Input (n, channels, height, width), output (n, classes) logits.
        Raises ValueError for a candidate of another space.

        >>> space = MacroSpace(layers=3)
        >>> network = space.build(space.candidate([0, 4, 1, 5, 1, 0]), seed=0)
        >>> tuple(network(torch.zeros(5, 1, 14, 14)).shape)
        (5, 10)
        """
        self.check(candidate)
        with seeded(seed):
            return MacroNetwork(self, candidate)


class MacroNetwork(nn.Module):
    """The network of a candidate, with the layers that it uses and no others.

    space: of the candidate.
    candidate: its operations and skips.
    """

    def __init__(self, space: MacroSpace, candidate: Macro) -> None:
        super().__init__()
        self.candidate, width = candidate, space.width
        third = space.layers // 3
        self.reduced = {third - 1, 2 * third - 1} if third else set()
        self.stem = normalized(space.channels, width)
        for layer, operation in enumerate(candidate.operations):
            self.add_module(f"{layer}_{operation}", _operation(operation, width))
            if layer:
                self.add_module(f"{layer}_norm", nn.BatchNorm2d(width))
            if layer in self.reduced:
                for source in range(layer + 1):
                    if self.used(source, layer):
                        self.add_module(f"{layer}_reduce{source}", Reduction(width))
        self.classifier = nn.Linear(width, space.classes)

    def used(self, source: int, layer: int) -> bool:
        """Whether later layers use the output of a layer or of an earlier one; always true of the layer itself.

        source: the earlier layer.
        layer: the layer.
        """
        return source == layer or any(skips[source] for skips in self.candidate.skips[layer + 1 :])

    def forward(self, images: Tensor) -> Tensor:
        x, outputs = self.stem(images), dict[int, Tensor]()
        for layer, (operation, skips) in enumerate(zip(self.candidate.operations, self.candidate.skips, strict=True)):
            x = self.get_submodule(f"{layer}_{operation}")(x)
            # x_i = BN(o_i(x_{i-1}) + sum of the skipped x_j)
            x = sum((outputs[source] for source, skip in enumerate(skips) if skip), x)
            outputs[layer] = self.get_submodule(f"{layer}_norm")(x) if layer else x
            if layer in self.reduced:
                outputs = {
                    source: self.get_submodule(f"{layer}_reduce{source}")(output)
                    for source, output in outputs.items()
                    if self.used(source, layer)
                }
            x = outputs[layer]
        return self.classifier(x.mean((2, 3)))


class Reduction(nn.Module):
    """Halve height and width: half of the channels come from every second pixel, half from those one further on.

    width: channels, even.

    Input (n, width, height, width), also of odd size; output of half the size, rounded up.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width // 2, 1, bias=False)
        self.second = nn.Conv2d(width, width // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        further = nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.first(x[:, :, ::2, ::2]), self.second(further[:, :, ::2, ::2])], 1))


def _convolution(width: int, kernel: int, *, separable: bool = False) -> OrderedDict[str, nn.Module]:
    name = f"conv{kernel}"
    layers = OrderedDict[str, nn.Module]()
    if separable:
        layers["depthwise"] = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        kernel = 1
    return layers | chains.convolution(width, width, kernel, name=name)


def _operation(operation: str, width: int) -> nn.Sequential:
    first = _convolution(width, 1)
    match operation:
        case "average3":
            return nn.Sequential(first | {"pool": nn.AvgPool2d(3, 1, 1, count_include_pad=False)})
        case "max3":
            return nn.Sequential(first | {"pool": nn.MaxPool2d(3, 1, 1)})
    return nn.Sequential(first | _convolution(width, int(operation[-1]), separable=operation.startswith("separable")))
