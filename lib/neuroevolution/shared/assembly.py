r"""Networks from blueprints and modules: each node of a blueprint is replaced by a module of the species it points to.

If several nodes point to one species, the same module is used in all of them (miikkulainen2019evolving, section 3.2);
each has weights of its own. A node of a module is a convolution with batch norm and ReLU, then a pool and dropout where
its genes say so. All that leads to one node is added up. Where sizes differ, larger images are max-pooled to the
smallest, and missing channels are zero. After the last node come the means over a grid of at most 4 x 4 parts of the
image, and a linear layer; a pool that would leave less than this grid is left out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.neuroevolution.shared.graphs import INPUT, OUTPUT, Choices, Graph
from lib.seeding import seeded

GRID = 4  # the means over the whole image would not say where something is


class Layer(NamedTuple):
    """Values of a node of a module: filters and width of its convolution, whether a pool follows, share of dropout."""

    filters: int
    kernel: int
    pool: bool
    dropout: float


class Pointer(NamedTuple):
    """Values of a node of a blueprint. species: of modules."""

    species: int


class Training(NamedTuple):
    """Values of the output of a blueprint: how the whole network is trained."""

    learning_rate: float
    momentum: float


class Nothing(NamedTuple):
    """Values of the output of a module: none."""


@dataclass(frozen=True)
class Space:
    """What evolution chooses from, a list for each value.

    filters: of a convolution, 1 or more.
    kernels: widths of a convolution, odd.
    pools: whether its output is halved by a max-pool.
    dropouts: shares of its outputs that dropout sets to zero in training, in [0, 1).
    learning_rates: of the whole network, positive and finite.
    momenta: of the whole network, in [0, 1).

    Raises ValueError for an empty list, a value that comes twice, and values out of range.

    >>> Space(kernels=(2, 3))
    Traceback (most recent call last):
    ValueError: kernels must be different odd numbers, 1 or more, at least one of them, not (2, 3)
    """

    filters: tuple[int, ...] = (8, 16, 32)
    kernels: tuple[int, ...] = (1, 3)
    pools: tuple[bool, ...] = (False, True)
    dropouts: tuple[float, ...] = (0.0, 0.2, 0.4)
    learning_rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    momenta: tuple[float, ...] = (0.5, 0.9)

    def __post_init__(self) -> None:
        accepted = {
            "filters": (lambda v: v >= 1 and v == int(v), "whole numbers, 1 or more"),
            "kernels": (lambda v: v >= 1 and v % 2 == 1, "odd numbers, 1 or more"),
            "pools": (lambda v: v in (False, True), "truth values"),
            "dropouts": (lambda v: 0 <= v < 1, "numbers in [0, 1)"),
            "learning_rates": (lambda v: 0 < v < float("inf"), "positive, finite numbers"),
            "momenta": (lambda v: 0 <= v < 1, "numbers in [0, 1)"),
        }
        for field in fields(self):
            values, (right, words) = getattr(self, field.name), accepted[field.name]
            if not values or len(set(values)) < len(values) or not all(right(value) for value in values):
                raise ValueError(f"{field.name} must be different {words}, at least one of them, not {values}")

    def of_modules(self) -> Choices:
        """Return what the nodes of modules may hold."""
        layers = {"filters": self.filters, "kernel": self.kernels, "pool": self.pools, "dropout": self.dropouts}
        return Choices(Layer, layers, Nothing, {})

    def of_blueprints(self, species: Sequence[int]) -> Choices:
        """Return what the nodes of blueprints may hold.

        species: numbers of the existing species of modules.
        """
        options = {"learning_rate": self.learning_rates, "momentum": self.momenta}
        return Choices(Pointer, {"species": species}, Training, options)


class Step(NamedTuple):
    """One step of a network. sources: the values it adds up, 0 for the input and n for step n; layer: None for none."""

    sources: tuple[int, ...]
    layer: Layer | None


@dataclass(frozen=True)
class Candidate:
    """A blueprint and the modules that its nodes are replaced by: a network that can be built and trained.

    blueprint: a graph whose nodes have a :class:`Pointer`, and its output a :class:`Training`.
    modules: species -> a graph whose nodes have a :class:`Layer`, for each species in the blueprint.

    Raises ValueError for nodes with other values, and for a blueprint that points to a species without a module.

    >>> from lib.neuroevolution.shared.graphs import Link
    >>> chain = (Link(1, 0, 2), Link(2, 2, 1))
    >>> module = Graph({1: Nothing(), 2: Layer(filters=8, kernel=3, pool=True, dropout=0.0)}, chain)
    >>> candidate = Candidate(Graph({1: Training(0.1, 0.9), 2: Pointer(7)}, chain), {7: module})
    >>> network = candidate.network((1, 8, 8), classes=10, seed=0)
    >>> tuple(network(torch.zeros(5, 1, 8, 8)).shape), sum(p.numel() for p in network.parameters())  # 72 + 16 + 1290
    ((5, 10), 1378)
    """

    blueprint: Graph
    modules: Mapping[int, Graph]

    def __post_init__(self) -> None:
        check_values(self.blueprint, "the blueprint", Pointer, Training)
        for species, module in self.modules.items():
            check_values(module, f"the module of species {species}", Layer, Nothing)
        for node, values in self.blueprint.nodes.items():
            if isinstance(values, Pointer) and values.species not in self.modules:
                raise ValueError(
                    f"node {node} points to species {values.species}: there are modules of {sorted(self.modules)}"
                )

    @property
    def training(self) -> Training:
        """How the network is trained."""
        return Training(*self.blueprint.nodes[OUTPUT])

    def steps(self) -> list[Step]:
        """Write the network as a list of steps, in an order in which they can be computed."""
        steps: list[Step] = []

        def add(sources: Sequence[int], layer: Layer | None) -> int:
            if layer is None and len(sources) == 1:
                return sources[0]
            steps.append(Step(tuple(sources), layer))
            return len(steps)

        # method
        def follow(graph: Graph, start: int) -> int:
            """Append the steps of a graph from its input on; return the output."""
            values = {INPUT: start}
            for node in graph.order():
                sources, content = [values[source] for source in graph.sources(node)], graph.nodes[node]
                if isinstance(content, Pointer):  # the node is replaced by a module of its species
                    values[node] = follow(self.modules[content.species], add(sources, None))
                else:
                    values[node] = add(sources, content if isinstance(content, Layer) else None)
            return values[OUTPUT]

        # end of method
        follow(self.blueprint, 0)
        return steps  # the last one gives the output, since every node leads there

    def seed(self, base: int) -> int:
        """Derive a seed from another one and from the network: the same network has the same seed on every machine.

        base: any integer.

        Returns an integer from 0 to 2^31 - 1.
        """
        text = repr((base, [(step.sources, step.layer) for step in self.steps()], self.training))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def network(self, shape: tuple[int, int, int], *, classes: int, seed: int) -> "Network":
        """Build the network.

        shape: of one image, (channels, height, width), each 1 or more.
        classes: number of outputs, 1 or more.
        seed: of the initial weights.

        Raises ValueError for other sizes.
        """
        if len(shape) != 3 or min(*shape, classes) < 1:
            raise ValueError(f"images (channels, height, width) and classes must be 1 or more, not {shape}, {classes}")
        with seeded(seed):
            return Network(self.steps(), shape, classes)


def check_values(graph: Graph, name: str, node: type, output: type) -> None:
    """Raise ValueError unless the nodes of a graph hold what they should.

    graph: the graph to check.
    name: what the message calls it.
    node, output: the classes of the values of its nodes and of its output.

    >>> from lib.neuroevolution.shared.graphs import Link
    >>> check_values(Graph({1: (3,)}, (Link(0, 0, 1),)), "the module", Layer, Nothing)
    Traceback (most recent call last):
    ValueError: the values of node 1 in the module must be Nothing, not (3,)
    """
    for number, values in graph.nodes.items():
        kind = output if number == OUTPUT else node
        if not isinstance(values, kind):
            raise ValueError(f"the values of node {number} in {name} must be {kind.__name__}, not {values}")


class Network(nn.Module):
    """The network of a candidate.

    steps: of the candidate.
    shape: of one image, (channels, height, width).
    classes: number of outputs.

    Input (n, channels, height, width), output (n, classes) logits. ``sizes`` holds (channels, height, width) of the
    input and of each step, for images of this shape.
    """

    def __init__(self, steps: Sequence[Step], shape: tuple[int, int, int], classes: int):
        super().__init__()
        self.steps, self.sizes = tuple(steps), [shape]
        self.layers = nn.ModuleDict()
        for number, step in enumerate(self.steps, 1):
            channels, height, width = common([self.sizes[source] for source in step.sources])
            if step.layer is not None:
                filters, kernel, pool, dropout = step.layer
                convolution = nn.Conv2d(channels, filters, kernel, padding=kernel // 2, bias=False)
                parts: list[nn.Module] = [convolution, nn.BatchNorm2d(filters), nn.ReLU()]
                if pool and min(height, width) >= 2 * GRID:
                    parts.append(nn.MaxPool2d(2))
                    height, width = height // 2, width // 2
                if dropout:
                    parts.append(nn.Dropout(dropout))
                self.layers[str(number)] = nn.Sequential(*parts)
                channels = filters
            self.sizes.append((channels, height, width))
        channels, height, width = self.sizes[-1]
        grid = min(GRID, height), min(GRID, width)
        self.means, self.classifier = nn.AdaptiveAvgPool2d(grid), nn.Linear(channels * grid[0] * grid[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        values = [images]
        for number, step in enumerate(self.steps, 1):
            value = merged([values[source] for source in step.sources])
            values.append(value if step.layer is None else self.layers[str(number)](value))
        return self.classifier(self.means(values[-1]).flatten(1))


def common(sizes: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return the size of a sum of values: the most channels, the smallest height and width.

    sizes: (channels, height, width) of each value, one or more.

    >>> common([(8, 14, 14), (16, 7, 7)])
    (16, 7, 7)
    """
    channels, heights, widths = zip(*sizes, strict=True)
    return max(channels), min(heights), min(widths)


def merged(values: Sequence[Tensor]) -> Tensor:
    """Add up values of different sizes: larger images are max-pooled, missing channels are zero.

    values: (n, channels, height, width) each, one or more.

    >>> merged([torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[10.0]], [[20.0]]]])]).flatten()
    tensor([14., 20.])
    """
    if len(values) == 1:
        return values[0]
    channels, *size = common([(v.shape[1], v.shape[2], v.shape[3]) for v in values])
    parts = []
    for value in values:
        if list(value.shape[2:]) != size:
            value = nn.functional.adaptive_max_pool2d(value, size)
        parts.append(nn.functional.pad(value, (0, 0, 0, 0, 0, channels - value.shape[1])))
    return torch.stack(parts).sum(0)
