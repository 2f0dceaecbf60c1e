"""How many paths lead from the input of a network to its output: 1 in a chain."""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib.morphism.shared.branches import Branches
from lib.morphism.shared.graphs import Noting, Tracer
from lib.structure.apart import twin, undisturbed


def inside(module: nn.Module) -> int:
    """Count the paths through a module: those of branches add up, those of a sequence multiply.

    module: of branches and sequences; any other module is one path.

    >>> inside(nn.Sequential(Branches([nn.ReLU(), nn.Tanh()], allocation="replicate", merge="add"), nn.ReLU()))
    2
    """
    if isinstance(module, Branches):
        return sum(map(inside, module.branches))
    return math.prod(map(inside, module)) if isinstance(module, nn.Sequential) else 1


@torch.no_grad()
def count(network: nn.Module, example: Tensor) -> int:
    r"""Count the paths from the input of a network to its output. Two paths differ in a layer or a connection.

    .. math:: p(v) = p_{\text{inside}}(v) \sum_{u \to v} p(u)

    Only what carries tensors counts: a size that is read from a tensor is not a connection.

    network: any network that ``torch.fx`` can trace, with one input; not changed.
    example: one or more inputs, (n, ...), on the network's device, which may be "meta".

    Raises what ``torch.fx`` raises where it cannot trace the network, and what the network raises on the example.

    >>> residual = Branches([nn.Linear(2, 2), nn.Identity()], allocation="replicate", merge="add")
    >>> count(nn.Sequential(residual, nn.ReLU(), residual), torch.zeros(1, 2))
    4
    """
    copy = twin(network)
    for module in copy.modules():
        module.training = False
    traced = fx.GraphModule(copy, Tracer().trace(copy))
    carries: set[fx.Node] = set()

    def note(node: fx.Node, value: Any) -> None:
        several = value if isinstance(value, tuple | list) else [value]
        if all(isinstance(one, Tensor) for one in several):
            carries.add(node)

    with undisturbed(example.device):
        Noting(traced, note).run(example)
    ways: dict[fx.Node, int] = {}
    # method
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            ways[node] = 1
        elif node in carries and node.op != "get_attr":
            own = inside(traced.get_submodule(str(node.target))) if node.op == "call_module" else 1
            ways[node] = own * sum(ways.get(one, 0) for one in node.all_input_nodes)
    # end of method
    return next(ways[node] for node in traced.graph.nodes if node.op == "output")
