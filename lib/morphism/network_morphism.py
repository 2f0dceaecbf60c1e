r"""Network morphism: make a trained network larger without changing the function that it computes.

==============  ==================================================================================================
operation       what it does
==============  ==================================================================================================
deepen          inserts a layer that begins as the identity, after an activation with :math:`\sigma(\sigma(x)) =
                \sigma(x)` (Net2DeeperNet of chen2016net2net)
widen           adds channels: copies of old ones, whose readers share the weight (Net2WiderNet), or random ones that
                no layer reads yet (wei2016network)
grow_kernel     puts zeros around a kernel (wei2016network)
add_skip        adds an earlier output, through a projection that begins as zero (jin2019autokeras)
add_concat      lets a layer read an earlier output too, with weights that begin as zero (jin2019autokeras)
morph_depth     splits a layer into two by least squares (wei2016network)
subnet          replaces a layer by several branches of several layers each (wei2016network, wei2017modularized)
==============  ==================================================================================================

Each of them returns a larger copy, and does not change the given network. Before the copy is returned, both networks
run on the example, in evaluation mode and in training mode (with batch statistics, without dropout): a morph that would
change the function is refused. deepen, add_skip and add_concat edit the graph of the network, so their copy is a
``torch.fx.GraphModule`` with the same names of layers; the copies of the others keep their class.

*Batch norm.* Copied channels have copied scales, offsets and statistics, and see copied values. So the function stays
the same in both modes, also while statistics are updated. A batch norm *inside* a new identity layer cannot do that
after an activation: it would have to undo the mean and the variance of each batch, which differ from batch to batch.
:func:`deepen` therefore inserts none by default; its docstring lists the options.

*Symmetry.* Copies of a channel also get the same gradient, and stay copies. ``noise`` makes them differ, at the cost of
exactness; its default is 0. Dropout drops copies independently, so after dropout training only continues as before on
average.

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
    layer: that is changed; for a skip, where it ends.
    start: for a skip, where it begins; otherwise empty.
    size: the width or the kernel afterwards, or the kernel of a new layer; 0 for skips.
    shape: of an example, (1, ...).
    dtype: of an example.

    Raises ValueError for an unknown kind.
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

        model: the network that the operation was listed for, or another one with these layers; not changed.
        noise: as for :func:`widen`; ignored for other kinds. Default 0.
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

    They are: layers to deepen; groups of channels to widen, named by the first layer that computes them; kernels that
    grow by two; layers to split in two; and skips of both kinds between all pairs of layers, except for a layer that
    would read its own input again. Whether an operation keeps the function is proved when it is applied, so ``apply``
    may still refuse it: for example where layers share a weight, or where the network changes in place a tensor that it
    reads under another name.

    model: any network that ``torch.fx`` can trace; not changed.
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
