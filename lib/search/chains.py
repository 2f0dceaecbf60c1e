r"""The tiny space that every search is compared on: chains of operations, one choice for each position.

A fixed 3 x 3 convolution makes ``width`` channels of the image. Then come the positions, each of which is one of

==========  =======================================================  ===========================
operation   layers                                                   weights, from C to D channels
==========  =======================================================  ===========================
conv3       3 x 3 convolution                                        :math:`9 C D`
conv1       1 x 1 convolution                                        :math:`C D`
separable3  3 x 3 convolution of each channel, 1 x 1 convolution      :math:`9 C + C D`
skip        none; channels that are missing are zeros                0
==========  =======================================================  ===========================

with batch norm and ReLU after each convolution. ``pools`` times on the way, a 2 x 2 max pool halves the image, and the
position after it doubles the channels. The mean of each channel and a linear layer end the network.

Two candidates can be the same network: a skip changes nothing where no channels are added, so "conv3, skip" equals
"skip, conv3". The 256 candidates with the default sizes are 208 networks.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lib.arguments import check_sizes
from lib.seeding import seeded

OPERATIONS = ("conv3", "conv1", "separable3", "skip")


@dataclass(frozen=True)
class Chain:
    """A candidate: the operation of each position, from the image on.

    operations: names, of ``OPERATIONS``.

    >>> str(Chain(("conv3", "skip")))
    'conv3 skip'
    """

    operations: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.operations)


@dataclass(frozen=True)
class Operation:
    """One operation at its sizes: a row of a table of latencies.

    kind: of ``OPERATIONS``, or "stem", "pool" and "classifier", which every network has.
    inputs, outputs: channels (of a classifier: channels and classes).
    size: pixels, height and width of the images that come in.

    >>> operation = Operation("separable3", 8, 16, 7)
    >>> operation.name, operation.parameters, operation.multiply_adds
    ('separable3 8-16 7x7', 248, 9800)
    """

    kind: str
    inputs: int
    outputs: int
    size: int

    @property
    def name(self) -> str:
        """Kind, channels and size, in one line."""
        return f"{self.kind} {self.inputs}-{self.outputs} {self.size}x{self.size}"

    @property
    def parameters(self) -> int:
        """Weights and biases, with two for each channel of a batch norm."""
        norms = {"separable3": 2 * (self.inputs + self.outputs), "classifier": self.outputs, "skip": 0, "pool": 0}
        return self._weights() + norms.get(self.kind, 2 * self.outputs)

    @property
    def multiply_adds(self) -> int:
        """For one image: each weight of a convolution is used once at each pixel."""
        return self._weights() * (1 if self.kind == "classifier" else self.size**2)

    def _weights(self) -> int:
        full = self.inputs * self.outputs
        return {
            "stem": 9 * full,
            "conv3": 9 * full,
            "conv1": full,
            "separable3": 9 * self.inputs + full,
            "classifier": full,
        }.get(self.kind, 0)

    def module(self) -> nn.Module:
        """Build the layers. Their weights are drawn from torch's global random state."""
        match self.kind:
            case "stem" | "conv3":
                return nn.Sequential(convolution(self.inputs, self.outputs, 3))
            case "conv1":
                return nn.Sequential(convolution(self.inputs, self.outputs, 1))
            case "separable3":
                depthwise = convolution(self.inputs, self.inputs, 3, groups=self.inputs, name="depthwise")
                return nn.Sequential(depthwise | convolution(self.inputs, self.outputs, 1, name="pointwise"))
            case "skip" if self.inputs < self.outputs:
                return nn.ZeroPad3d((0, 0, 0, 0, 0, self.outputs - self.inputs))  # the third pair: of the channels
            case "skip":
                return nn.Identity()
            case "pool":
                return nn.MaxPool2d(2)
        fc = nn.Linear(self.inputs, self.outputs)
        return nn.Sequential(OrderedDict(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=fc))

    def call(self, device: torch.device) -> Callable[[], object]:
        """Return a call that runs the operation once, on one image, as a table of latencies times it.

        device: where it runs.
        """
        with seeded(0):
            module = self.module().to(device).eval()
        image = torch.zeros(1, self.inputs, self.size, self.size, device=device)
        return lambda: module(image)


def convolution(
    inputs: int, outputs: int, kernel: int, *, groups: int = 1, name: str = "conv"
) -> OrderedDict[str, nn.Module]:
    """Build the named layers of a convolution without a bias, batch norm and ReLU.

    inputs, outputs: channels.
    kernel: height and width, odd; the border is padded so that the size stays.
    groups: of the channels, default 1.
    name: of the convolution, and the first word of the other names; default "conv".

    >>> list(convolution(2, 4, 3))
    ['conv', 'conv_bn', 'conv_relu']
    """
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return OrderedDict({name: conv, f"{name}_bn": nn.BatchNorm2d(outputs), f"{name}_relu": nn.ReLU()})


def check_operations(operations: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if the operations of a space are missing, repeated or unknown.

    operations: names.
    known: all names that are accepted.

    >>> check_operations(("conv3", "skip"), OPERATIONS)
    """
    if not operations or len(set(operations)) < len(operations):
        raise ValueError(f"operations must be one or more different names, not {operations!r}")
    for operation in operations:
        if operation not in known:
            raise ValueError(f"there is no operation {operation!r}: accepted are {', '.join(known)}")


def check_chosen(chosen: Sequence[str], operations: Sequence[str]) -> None:
    """Raise ValueError for a chosen operation that a space does not have.

    chosen: names.
    operations: of the space.

    >>> check_chosen(("skip", "skip"), ("conv3", "skip"))
    """
    for operation in chosen:
        if operation not in operations:
            raise ValueError(f"{operation!r} is not in this space: accepted are {', '.join(operations)}")


@dataclass(frozen=True)
class Chains:
    """The space of chains; a :class:`lib.search.history.Space`.

    positions: operations of a candidate, more than ``pools``. Default 4.
    operations: that a position can be, of ``OPERATIONS``; default all four.
    width: channels of the first positions, default 8.
    pools: that halve the image and double the channels, 0 or more, default 2.
    size: pixels, height and width of the images, at least two to the power of ``pools``. Default 14.
    channels: of the images, default 1.
    classes: number of outputs, 2 or more, default 10.

    Raises ValueError for sizes with which no candidate is a network, and for unknown operations.

    >>> space = Chains()
    >>> candidate = Chain(("conv3", "skip", "separable3", "conv1"))
    >>> len(space), space.parameters(candidate), space.multiply_adds(candidate)
    (256, 1834, 141736)
    """

    positions: int = 4
    operations: tuple[str, ...] = OPERATIONS
    width: int = 8
    pools: int = 2
    size: int = 14
    channels: int = 1
    classes: int = 10

    def __post_init__(self) -> None:
        check_sizes({"pools": self.pools}, {"pools": 0})
        sizes = {name: getattr(self, name) for name in ("positions", "width", "channels", "classes", "size")}
        check_sizes(sizes, {"positions": self.pools + 1, "size": 2**self.pools})
        check_operations(self.operations, OPERATIONS)

    def __len__(self) -> int:
        return len(self.operations) ** self.positions

    def __iter__(self) -> Iterator[Chain]:
        return map(Chain, itertools.product(self.operations, repeat=self.positions))

    def sample(self, random: np.random.Generator) -> Chain:
        """Draw a candidate; all are equally likely.

        random: numpy's generator.
        """
        return Chain(tuple(self.operations[i] for i in random.integers(len(self.operations), size=self.positions)))

    def mutated(self, candidate: Chain, random: np.random.Generator) -> Chain:
        """Draw a neighbor: another operation at one position; all neighbors are equally likely.

        candidate: of this space.
        random: numpy's generator.

        Raises ValueError for a candidate of another space, and where one operation is all there is.
        """
        self.check(candidate)
        if len(self.operations) == 1:
            raise ValueError(f"no candidate has a neighbor where {self.operations[0]} is the only operation")
        place = int(random.integers(self.positions))
        others = [operation for operation in self.operations if operation != candidate.operations[place]]
        chosen = others[random.integers(len(others))]
        return Chain((*candidate.operations[:place], chosen, *candidate.operations[place + 1 :]))

    def check(self, candidate: Chain) -> None:
        """Raise ValueError for a candidate that is not of this space: the sentence says why.

        candidate: to check.
        """
        if len(candidate.operations) != self.positions:
            raise ValueError(f"{str(candidate)!r} has {len(candidate.operations)} operations, not {self.positions}")
        check_chosen(candidate.operations, self.operations)

    def operations_of(self, candidate: Chain) -> list[Operation]:
        """List all operations of a candidate, stem, pools and classifier among them, in the order in which they run.

        candidate: of this space.

        Raises ValueError for a candidate of another space.

        >>> [operation.name for operation in Chains(positions=1, pools=0).operations_of(Chain(("conv1",)))]
        ['stem 1-8 14x14', 'conv1 8-8 14x14', 'classifier 8-10 14x14']
        """
        self.check(candidate)
        channels, size, pooled = self.width, self.size, 0
        found = [Operation("stem", self.channels, channels, size)]
        for position, kind in enumerate(candidate.operations):
            outputs = channels
            if pooled < position * (self.pools + 1) // self.positions:  # the pools are spread evenly
                found.append(Operation("pool", channels, channels, size))
                size, outputs, pooled = size // 2, 2 * channels, pooled + 1
            found.append(Operation(kind, channels, outputs, size))
            channels = outputs
        return [*found, Operation("classifier", channels, self.classes, size)]

    def network(self, candidate: Chain) -> tuple[Operation, ...]:
        """Return what a candidate computes: its operations without those that change nothing.

        candidate: of this space.

        >>> len({Chains().network(candidate) for candidate in Chains()})
        208
        """
        operations = self.operations_of(candidate)
        return tuple(o for o in operations if o.kind != "skip" or o.inputs != o.outputs)

    def every_operation(self) -> list[Operation]:
        """List the different operations of all candidates: the rows of a table of latencies."""
        alike = (Chain((kind,) * self.positions) for kind in self.operations)
        return list(dict.fromkeys(itertools.chain.from_iterable(map(self.operations_of, alike))))

    def parameters(self, candidate: Chain) -> int:
        """Count the weights and biases, by formula.

        candidate: of this space.
        """
        return sum(operation.parameters for operation in self.operations_of(candidate))

    def multiply_adds(self, candidate: Chain) -> int:
        """Count the multiply-adds of one image, by formula.

        candidate: of this space.
        """
        return sum(operation.multiply_adds for operation in self.operations_of(candidate))

    def build(self, candidate: Chain, seed: int) -> nn.Sequential:
        """Build the network of a candidate.

        candidate: of this space.
        seed: of the initial weights.

        Input (n, channels, size, size), output (n, classes) logits. Raises ValueError for a candidate of another space.

        >>> tuple(Chains().build(Chain(("skip",) * 4), seed=0)(torch.zeros(5, 1, 14, 14)).shape)
        (5, 10)
        """
        with seeded(seed):
            parts = [(operation.kind, operation.module()) for operation in self.operations_of(candidate)]
        return nn.Sequential(OrderedDict((f"{i}_{kind}", module) for i, (kind, module) in enumerate(parts)))

    def call(self, candidate: Chain, device: torch.device) -> Callable[[], object]:
        """Return a call that runs a candidate's network once, on one image, as a table of latencies times it.

        candidate: of this space.
        device: where it runs.
        """
        network = self.build(candidate, seed=0).to(device).eval()
        image = torch.zeros(1, self.channels, self.size, self.size, device=device)
        return lambda: network(image)
