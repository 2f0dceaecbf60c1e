r"""Network morphism: make a trained network larger, so that it still computes the same function.

==============  ==================================================================================================
operation       what it does
==============  ==================================================================================================
deepen          inserts a layer that begins as the identity, after an activation with :math:`\sigma(\sigma(x)) =
                \sigma(x)` (Net2DeeperNet of chen2016net2net)
widen           adds channels: copies of old ones, whose readers share the weight (Net2WiderNet), or random ones that
                nobody reads yet (wei2016network)
grow_kernel     puts zeros around a kernel (wei2016network)
add_skip        adds an earlier output, through a projection that begins as zero (jin2019autokeras)
add_concat      lets a layer read an earlier output too, with weights that begin as zero (jin2019autokeras)
morph_depth     makes two layers of one by least squares (wei2016network)
subnet          makes several branches of several layers each of one layer (wei2016network, wei2017modularized)
==============  ==================================================================================================

Each of them returns a larger copy, and leaves the given network as it was. Before the copy is returned, both networks
run on the example, in evaluation mode and in training mode (with batch statistics, without dropout): a morph that would
change the function is refused. deepen, add_skip and add_concat edit the graph of the network, so their copy is a
``torch.fx.GraphModule`` with the same names of layers; the copies of the others keep their class.

*Batch norm.* Copied channels have copied scales, offsets and statistics, and see copied values. So the function stays
the same in both modes, also while statistics are updated. A batch norm *inside* a new identity layer cannot do that
after an activation: it would have to undo the mean and the variance of each batch, which differ from batch to batch.
:func:`deepen` therefore inserts none, unless asked; it says what there is to choose from.

*Symmetry.* Copies of a channel also get the same gradient, and stay copies. ``noise`` makes them differ, at the cost of
exactness; its default is 0. After dropout they differ by themselves, so there training goes on as before on average
only.

Left out: wei2017modularized's modules that are not branches of sequences, and training after a morph
(:func:`lib.training.fit`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib import structure
from lib.arguments import check_one_of
from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.deepening import deepen, deepened
from lib.morphism.shared.graphs import Graph
from lib.morphism.shared.kernels import grow_kernel
from lib.morphism.shared.layers import Layer, check_kernel, spatial
from lib.morphism.shared.p_activation import PActivation, anneal
from lib.morphism.shared.skips import add_concat, add_skip, concatenated, skipped
from lib.morphism.shared.subnets import morph_depth, subnet
from lib.morphism.shared.widening import widen

__all__ = [
    "Operation",
    "PActivation",
    "add_concat",
    "add_skip",
    "anneal",
    "deepen",
    "grow_kernel",
    "largest_difference",
    "morph_depth",
    "operations",
    "subnet",
    "widen",
]

KINDS = ("deepen", "widen", "grow_kernel", "morph_depth", "add_skip", "add_concat")


@dataclass(frozen=True)
class Operation:
    """One morph of one network, as a value.

    kind: "deepen", "widen", "grow_kernel", "morph_depth", "add_skip" or "add_concat".
    layer: that is changed; of a skip, where it ends.
    start: of a skip, where it begins; otherwise empty.
    size: the width or the kernel afterwards, or the kernel of a new layer; 0 for skips.
    shape: of an example, (1, ...).
    dtype: of an example.

    Raises ValueError for a kind that there is not.
    """

    kind: str
    layer: str
    start: str
    size: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        check_one_of("kind", self.kind, KINDS)

    def __str__(self) -> str:
        return " ".join(word for word in (self.kind, self.start, self.layer, str(self.size or "")) if word)

    def apply(self, model: nn.Module, *, noise: float = 0.0, seed: int = 0) -> nn.Module:
        """Return the morphed copy of a network.

        model: the network that the operation is of, or another one with these layers; left as it was.
        noise: as for :func:`widen`; of no use for other kinds. Default 0.
        seed: as for :func:`widen` and :func:`morph_depth`; default 0.

        Raises ValueError where the operation is not possible.

        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> Operation("widen", "0", "", 6, (1, 2), torch.float32).apply(model)[2]
        Linear(in_features=6, out_features=1, bias=True)
        """
        device = next((value.device for value in model.parameters()), torch.device("cpu"))
        example = torch.zeros(self.shape, dtype=self.dtype, device=device)
        match self.kind:
            case "deepen":
                return deepen(model, self.layer, example, kernel=self.size)
            case "widen":
                return widen(model, self.layer, example, width=self.size, noise=noise, seed=seed)
            case "grow_kernel":
                return grow_kernel(model, self.layer, example, kernel=self.size)
            case "morph_depth":
                return morph_depth(model, self.layer, example, kernels=(self.size, 1), seed=seed)
            case "add_skip":
                return add_skip(model, self.start, self.layer, example)
        return add_concat(model, self.start, self.layer, example)


def operations(model: nn.Module, example: Tensor, *, factor: float = 2.0, kernel: int = 3) -> list[Operation]:
    """List the operations that are possible in a network, each with one size.

    They are: layers to deepen; groups of channels to widen, by the first layer that computes them; kernels that grow by
    two; layers to make two of; and skips of both kinds between all pairs of layers, except for a layer that would read
    its own input again. Whether one keeps the function is proved when it is applied: ``apply`` may still refuse it, as
    where layers share a weight, or where the network changes a tensor in place that it reads under another name.

    model: any network that ``torch.fx`` can trace; left as it was.
    example: one or more inputs, (n, ...). Operations keep its shape and type, and are applied to zeros.
    factor: the width afterwards in units of the present one, more than 1; default 2. The width is rounded up to a
        multiple of the parts of a grouped convolution.
    kernel: of new convolutions, odd; default 3.

    Returns the operations, in a fixed order. Raises ValueError for a network that cannot be traced, and for a factor or
    a kernel that is not accepted.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> [str(operation) for operation in operations(model, torch.zeros(1, 2)) if operation.layer == "2"]
    ['deepen 2 1', 'widen 2 8', 'morph_depth 2 1', 'add_skip 0 2']
    """
    check_kernel(kernel)
    if not 1 < factor < float("inf"):
        raise ValueError(f"factor must be a number above 1, not {factor}")
    graph = Graph(model, example)
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    layers: dict[str, Any] = {
        name: model.get_submodule(name)
        for name in calls
        if calls.count(name) == 1 and isinstance(model.get_submodule(name), Layer)
    }
    found: list[Operation] = []

    def note(kind: str, layer: str, size: int = 0, start: str = "") -> None:
        found.append(Operation(kind, layer, start, size, (1, *example.shape[1:]), example.dtype))

    for name, layer in layers.items():
        if _plan(deepened, graph, name):
            note("deepen", name, kernel if spatial(layer) else 1)
    for group in structure.groups(model, example):
        each = group.channels // group.parts
        note("widen", group.producers[0], max(each + 1, -(-int(group.channels * factor) // group.parts)) * group.parts)
    for name, layer in layers.items():
        if all(size % 2 for size in layer.weight.shape[2:]):
            if spatial(layer):
                note("grow_kernel", name, max(layer.kernel_size) + 2)
            note("morph_depth", name, max(layer.weight.shape[2:], default=1))
    for i, end in enumerate(layers):
        for start in list(layers)[:i]:
            if _plan(skipped, graph, start, end):
                note("add_skip", end, start=start)
            joined = _plan(concatenated, graph, start, end)
            if joined and joined[0] is not joined[1]:
                note("add_concat", end, start=start)
    return found


def _plan(planned: Callable[..., Any], graph: Graph, *names: str) -> Any:
    """The nodes that an operation joins; None where it is not possible."""
    try:
        return planned(graph, *names)
    except ValueError:
        return None
