"""A simulated network with each module replaced by one that does its work on integers."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from lib.quantization.shared import graph, operations
from lib.quantization.shared.activation import Activation, check_precise
from lib.quantization.shared.grids import Grid

Parts = Mapping[str, Callable[..., nn.Module | None]]


def lowered(simulated: fx.GraphModule, parts: Parts) -> fx.GraphModule:
    """Copy a simulated network with each module replaced by one that does its work on integers.

    simulated: what :func:`lib.quantization.affine.simulate` returned, calibrated; left unchanged.
    parts: functions that make the modules. "quantize" takes the grid of the images, "dequantize" the grid and the type
        of the outputs. All others take the name of the module, the module, the grids of its inputs, and the grid of its
        output: "layer", "sum", "product", "mean", "concatenation", "table" (a function of one number), "pool" (one that
        torch has for few types of numbers), "spread" (zeros between numbers), "clamp", and "fused_clamp" (right after
        an operation with the same grid). A function returns None if nothing is left to do.

    Returns the new network. Raises ValueError for a network that is not simulated or not calibrated, and for weights
    that are neither float32 nor float64.
    """
    if not isinstance(simulated, fx.GraphModule) or not any(isinstance(m, Activation) for m in simulated.modules()):
        raise ValueError(f"{type(simulated).__name__} has no grids: accepted is what simulate returns, calibrated")
    for name, parameter in simulated.named_parameters():
        check_precise(name, parameter)
    # It shares the simulated network's modules until each is replaced; none of them is changed.
    network = fx.GraphModule(simulated, copy.deepcopy(simulated.graph), type(simulated).__name__)
    place = next(simulated.parameters())
    grids: dict[fx.Node, Grid] = {}
    plan = {node: _planned(network, node) for node in network.graph.nodes}
    for node, (module, kind, following) in plan.items():
        if node.all_input_nodes and node.all_input_nodes[0] in grids:
            grids[node] = grids[node.all_input_nodes[0]]
        if module is None:
            continue
        new: nn.Module | None = None
        if isinstance(module, Activation):
            grids[node] = module.grid()
            new = parts["quantize"](grids[node]) if node.all_input_nodes[0].op == "placeholder" else None
        elif kind == "as it is":
            new = copy.deepcopy(module)
        elif kind != "nothing":
            before = [grids[side] for side in node.args if isinstance(side, fx.Node)]
            grids[node] = following.grid() if following else before[0]
            new = parts[kind](str(node.target), module, before, grids[node])
        if new is None:
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)
        else:
            network.add_submodule(f"{node.name}_integer", new)
            node.target = f"{node.name}_integer"
    output = network.graph.output_node()
    network.add_module("output_real", parts["dequantize"](grids[output.all_input_nodes[0]], place.dtype))
    with network.graph.inserting_before(output):
        output.args = (network.graph.call_module("output_real", output.args),)
    network.delete_all_unused_submodules()
    network.recompile()
    return network.eval().to(place.device)


def _planned(network: fx.GraphModule, node: fx.Node) -> tuple[nn.Module | None, str, Activation | None]:
    """The module of a node, the key of what replaces it, and the activation whose grid the output has."""
    module, following = graph.module_of(network, node), _following(network, node)
    if isinstance(module, operations.CLAMPS) and following is not None:
        before = graph.module_of(network, node.all_input_nodes[0])
        return module, "fused_clamp" if isinstance(before, operations.MAKING) else "table", following
    if isinstance(module, nn.MaxPool1d | operations.ADAPTIVE_POOLS):
        return module, "pool", None
    if isinstance(module, operations.ARRANGEMENTS | operations.POOLS | operations.Rows):
        return module, "as it is", None
    kinds: dict[str, Any] = {
        "layer": operations.LAYERS,
        "sum": operations.Sum,
        "product": operations.Product,
        "mean": operations.MEANS,
        "concatenation": operations.Concatenation,
        "table": operations.TABLES,
        "spread": operations.Spread,
        "clamp": operations.CLAMPS,
    }
    kind = next((name for name, kind in kinds.items() if isinstance(module, kind)), "nothing")  # dropout, identity
    return module, kind, following if kind != "clamp" else None


def _following(network: fx.GraphModule, node: fx.Node) -> Activation | None:
    """The activation right after a node, or right after the clamp that alone reads the node."""
    clamps = isinstance(graph.module_of(network, node), operations.CLAMPS)
    for _ in range(1 if clamps else 2):
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
        module = graph.module_of(network, node)
        if isinstance(module, Activation):
            return module
        if not isinstance(module, operations.CLAMPS):
            return None
    return None
