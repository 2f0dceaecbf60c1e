"""A network as a graph of the few operations that integers can do, and where it needs a grid."""

import copy
import operator
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lib.weights import decompress

LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
CLAMPS = nn.ReLU | nn.ReLU6
MEANS = nn.AvgPool2d | nn.AdaptiveAvgPool2d
# What picks or arranges values, and so leaves them on their grid.
ARRANGING = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d | nn.Flatten | nn.Identity | nn.Dropout | nn.Dropout2d
ARRANGING_CALLS: tuple[object, ...] = (functional.max_pool2d, torch.max_pool2d, functional.dropout, torch.flatten)
ARRANGING_CALLS += ("flatten", "view", "reshape", "contiguous", "size")
ADDITIONS: tuple[object, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
CALLS: dict[object, type[nn.Module]] = {  # functions that have a module
    **dict.fromkeys((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    functional.relu6: nn.ReLU6,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
ACCEPTED = (
    "linear and convolution layers, batch norm right after them, ReLU, ReLU6, max and average pooling, flatten,"
    " dropout and the sum of two"
)


class Sum(nn.Module):
    """Adds the two branches of a residual block."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def traced(model: nn.Module) -> fx.GraphModule:
    """Copy a network as a graph, dense, in evaluation mode, with batch norm folded and modules in place of functions.

    model: a network of what ``ACCEPTED`` names; it is left as it was.

    Returns the graph. Raises ValueError for a network that cannot be traced, or that does something else.

    >>> network = traced(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    >>> [type(module).__name__ for module in network.children()]
    ['Conv2d', 'ReLU']
    """
    model = decompress(copy.deepcopy(model)).eval()
    try:
        network = fx.symbolic_trace(nn.Sequential(model) if isinstance(model, LAYERS) else model)
    except Exception as error:  # whatever the model's own code raises on a symbol
        raise ValueError(f"{type(model).__name__} cannot be traced, its way depends on its values: {error}") from error
    for node in list(network.graph.nodes):
        call = node.op in ("call_function", "call_method")
        if call and node.target in CALLS:
            arguments = node.args[1:] if CALLS[node.target] is nn.AdaptiveAvgPool2d else ()
            _become(network, node, CALLS[node.target](*arguments), node.args[:1])
        elif call and node.target in ADDITIONS and all(isinstance(argument, fx.Node) for argument in node.args):
            _become(network, node, Sum(), node.args)
    network.graph.eliminate_dead_code()
    fold_batch_norm(network)
    for node in network.graph.nodes:
        _check(network, node)
    network.graph.lint()
    network.recompile()
    return network.eval()


def fold_batch_norm(network: fx.GraphModule) -> None:
    """Make batch norm part of the layer before it. In place.

    The layer's weight becomes γ w / √(var + ε), its bias β + γ (b - mean) / √(var + ε).

    network: a traced network.

    Raises ValueError for a batch norm that follows anything but a layer that it alone reads, or that has no running
    statistics.
    """
    for node in list(network.graph.nodes):
        norm = module_of(network, node)
        if not isinstance(norm, NORMS):
            continue
        before = node.all_input_nodes[0]
        layer = module_of(network, before)
        calls = network.graph.find_nodes(op="call_module", target=before.target)
        mean, variance = norm.running_mean, norm.running_var
        once = len(before.users) == len(calls) == 1
        if not isinstance(layer, LAYERS) or not once or mean is None or variance is None:
            raise ValueError(
                f"batch norm {node.target!r} cannot be folded: it needs running statistics and, right before it,"
                " a linear or convolution layer that nothing else reads"
            )
        with torch.no_grad():
            gain = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
            bias = -mean if layer.bias is None else layer.bias - mean
            layer.weight.mul_(gain.reshape(-1, *[1] * (layer.weight.dim() - 1)))
            layer.bias = nn.Parameter(gain * bias + (0 if norm.bias is None else norm.bias))
        node.replace_all_uses_with(before)
        network.graph.erase_node(node)
    network.delete_all_unused_submodules()


def insert(network: fx.GraphModule, make: Callable[[bool], nn.Module]) -> None:
    """Put a module after the input and after each layer, sum and mean, or after the ReLU that alone reads it. In place.

    network: as :func:`traced` returns it.
    make: makes the module; it is told whether it will be at the network's input or output.

    >>> network = traced(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> insert(network, lambda edge: nn.Identity())
    >>> [node.name for node in network.graph.nodes if node.name.endswith("grid")]
    ['input_1_grid', '_1_grid', '_2_grid']
    """
    last = network.graph.output_node().all_input_nodes[0]
    ends: list[fx.Node] = []
    for node in list(network.graph.nodes):
        if node.op == "placeholder" or isinstance(module_of(network, node), LAYERS | Sum | MEANS):
            alone = node.op != "placeholder" and len(node.users) == 1
            ends += [user for user in node.users if alone and isinstance(module_of(network, user), CLAMPS)] or [node]
    while last not in ends:
        last = last.all_input_nodes[0]
    for end in ends:
        network.add_submodule(f"{end.name}_grid", make(end.op == "placeholder" or end is last))
        with network.graph.inserting_after(end):
            new = network.graph.call_module(f"{end.name}_grid", (end,))
        end.replace_all_uses_with(new, delete_user_cb=partial(operator.is_not, new))
    network.recompile()


def module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls; None where it calls none."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _become(network: fx.GraphModule, node: fx.Node, module: nn.Module, arguments: tuple) -> None:
    network.add_submodule(f"{node.name}_call", module)
    with network.graph.inserting_after(node):
        new = network.graph.call_module(f"{node.name}_call", arguments)
    node.replace_all_uses_with(new)
    network.graph.erase_node(node)


def _check(network: fx.GraphModule, node: fx.Node) -> None:
    module = module_of(network, node)
    known = node.op == "placeholder" or isinstance(module, LAYERS | CLAMPS | MEANS | ARRANGING | Sum)
    known |= node.op == "output" and isinstance(node.args[0], fx.Node)
    known |= node.op in ("call_function", "call_method") and node.target in ARRANGING_CALLS
    if isinstance(module, nn.AvgPool2d):  # a border of zeros would have to be left out of some means
        known = module.padding in (0, (0, 0)) and not module.ceil_mode and module.divisor_override is None
    if not known:
        what = node.target if module is None else f"{node.target} ({type(module).__name__})"
        raise ValueError(f"{what!s} has no integer form here: accepted are {ACCEPTED}")
