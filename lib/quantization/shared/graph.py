"""A network as a graph of the few operations that have an integer form, and where it needs a grid."""

import copy
import inspect
import operator
from collections.abc import Callable
from functools import partial

import torch
from torch import fx, nn

from lib.quantization.shared import batch_norm, in_place, transposed
from lib.quantization.shared.operations import (
    ADAPTIVE_POOLS,
    ARRANGING,
    ARRANGING_CALLS,
    CALLS,
    CLAMPS,
    MAKING,
    POOLS,
    PerFeature,
    bounds,
    spelled,
)
from lib.weights import decompress

ACCEPTED = (
    "linear and convolution layers, also transposed ones, batch norm, ReLU and other clamps, SiLU, sigmoid and other"
    " functions of one number, max and average pooling, means, sums, products, concatenation, flatten and other ways to"
    " arrange, and dropout"
)
KNOWN = (*(MAKING | CLAMPS | ARRANGING).__args__, PerFeature)
SIZES = ("size", "dim", "ndimension", "numel", "nelement")  # methods
SIZE_ATTRIBUTES = ("shape", "ndim")
DROPPING = {*spelled("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")}


def traced(model: nn.Module) -> fx.GraphModule:
    """Trace a copy of a network as a graph: dense, in evaluation mode, batch norm folded, functions made into modules.

    Dropout modules stay; functional dropout and stochastic depth, which do nothing in evaluation, are removed.

    model: a network of the operations that ``ACCEPTED`` names, with one input and one output; left unchanged.

    Returns the graph. Raises ValueError for a network that cannot be traced, or that contains another operation.

    >>> network = traced(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    >>> [type(module).__name__ for module in network.children()]
    ['Conv2d', 'ReLU']
    """
    model = decompress(copy.deepcopy(model)).eval()
    tracer = in_place.Tracer()
    model = nn.Sequential(model) if tracer.is_leaf_module(model, "") else model  # a single torch layer
    name = type(model).__name__
    try:
        network = fx.GraphModule(model, tracer.trace(model), name)
    except Exception as error:  # whatever the model's own code raises while it is traced
        said = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be traced as one graph for all images: {said}") from error
    _tidy(network)
    numbers = sizes(network)
    in_place.resolve(network, numbers)
    for node in list(network.graph.nodes):
        if _calls(node) and node not in numbers:
            _as_module(network, node, numbers)
    network.graph.eliminate_dead_code()
    transposed.unfold(network)
    batch_norm.fold(network)
    _check(network)
    network.graph.lint()
    network.recompile()
    return network.eval()


def sizes(network: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes that are not tensors: shapes, numbers of dimensions, and whatever is computed only from these.

    network: a traced network.

    >>> class Net(nn.Module):
    ...     def forward(self, x):
    ...         return x.reshape(x.shape[0], -1)
    >>> sorted(node.name for node in sizes(fx.symbolic_trace(Net())))
    ['getattr_1', 'getitem']
    """
    numbers: set[fx.Node] = set()
    for node in network.graph.nodes:
        inputs = node.all_input_nodes
        if (
            (node.op == "call_method" and node.target in SIZES)
            or (node.target is getattr and node.args[1] in SIZE_ATTRIBUTES)
            or (
                node.op == "call_function"
                and (getattr(node.target, "__module__", "") == "_operator" or node.target is torch._assert)
                and inputs
                and numbers.issuperset(inputs)
            )
        ):
            numbers.add(node)
    return numbers


def insert(network: fx.GraphModule, make: Callable[[bool], nn.Module]) -> None:
    """Put a module after the input and after each layer, sum and the like, or after its clamp if only that reads it.

    In place. Operations that only rearrange values, and all other ReLUs, keep the grid of their input.

    network: as :func:`traced` returns it.
    make: makes the module; its argument says whether the module is at the network's input or output.

    >>> network = traced(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> insert(network, lambda edge: nn.Identity())
    >>> [node.name for node in network.graph.nodes if node.name.endswith("grid")]
    ['input_1_grid', '_1_grid', '_2_grid']
    """
    last = network.graph.output_node().all_input_nodes[0]
    ends: list[fx.Node] = []
    for node in list(network.graph.nodes):
        module = module_of(network, node)
        if isinstance(module, MAKING):
            users = list(node.users)
            ends += users if len(users) == 1 and isinstance(module_of(network, users[0]), CLAMPS) else [node]
        elif node.op == "placeholder" and node.users:
            ends.append(node)
        elif isinstance(module, CLAMPS) and bounds(module) != (0.0, float("inf")) and node not in ends:
            ends.append(node)  # its bounds may not be numbers of its input's grid
    while last not in ends:
        last = last.all_input_nodes[0]
    for end in ends:
        network.add_submodule(f"{end.name}_grid", make(end.op == "placeholder" or end is last))
        with network.graph.inserting_after(end):
            new = network.graph.call_module(f"{end.name}_grid", (end,))
        end.replace_all_uses_with(new, delete_user_cb=partial(operator.is_not, new))
    network.recompile()


def module_of(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls; None if it calls none."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _tidy(network: fx.GraphModule) -> None:
    """Remove functions that do nothing in evaluation. Dropout that is always on stays: it has no integer form."""
    for node in filter(_calls, list(network.graph.nodes)):
        if node.target == "view" and not any(isinstance(size, torch.dtype) for size in node.args):
            node.target = "reshape"  # the same, for any memory layout
        elif node.target in DROPPING or getattr(node.target, "__name__", "") == "stochastic_depth":  # of torchvision
            try:
                call = inspect.signature(node.target).bind(*node.args, **node.kwargs)
                call.apply_defaults()
                drops = call.arguments["training"]
            except (TypeError, ValueError, KeyError):  # torch.dropout(input, p, train) has no signature
                drops = node.args[2] if len(node.args) > 2 else node.kwargs.get("train", True)
            if drops is False:
                node.replace_all_uses_with(node.all_input_nodes[0])
                network.graph.erase_node(node)


def _as_module(network: fx.GraphModule, node: fx.Node, numbers: set[fx.Node]) -> None:
    """Replace a function by the module that does the same, if there is one."""
    if node.target in CALLS:
        try:
            module, inputs = CALLS[node.target](*node.args, **node.kwargs)
        except (TypeError, ValueError):
            return  # arguments that have no integer form: _check says so
        # An argument that the network itself computes, as in x * x.size(1), is not a constant that a module can hold.
        if set(inputs) == set(node.all_input_nodes) and numbers.isdisjoint(inputs):
            network.add_submodule(f"{node.name}_call", module)
            with network.graph.inserting_after(node):
                new = network.graph.call_module(f"{node.name}_call", inputs)
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            network.graph.erase_node(node)


def _check(network: fx.GraphModule) -> None:
    numbers = sizes(network)
    inputs = [node for node in network.graph.nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs)
        raise ValueError(f"the network reads {len(inputs)} inputs ({names}): accepted is one tensor, the images")
    for node in list(network.graph.nodes):
        module = module_of(network, node)
        known = node in numbers or (node.op == "placeholder")
        known |= any(_is(module, kind) for kind in KNOWN) and numbers.isdisjoint(node.all_input_nodes)
        known |= node.op == "output" and isinstance(node.args[0], fx.Node) and node.args[0] not in numbers
        known |= _calls(node) and node.target in ARRANGING_CALLS and numbers.issuperset(node.all_input_nodes[1:])
        if isinstance(module, POOLS | ADAPTIVE_POOLS):
            known = not module.return_indices
        if not known:
            raise ValueError(f"{_described(node, module)} has no integer form here: accepted are {ACCEPTED}")
        if module is not None and (module._forward_pre_hooks or module._forward_hooks):
            raise ValueError(
                f"layer {node.target!r} ({type(module).__name__}) has a forward hook, which an integer network"
                " would not run: remove it first"
            )


def _calls(node: fx.Node) -> bool:
    """Whether a node calls a function or a method; the target alone does not tell, as a module may have its name."""
    return node.op in ("call_function", "call_method")


def _is(module: object, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind and computes as that kind does; a subclass may do something else."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _described(node: fx.Node, module: nn.Module | None) -> str:
    """The operation and the layer it belongs to."""
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    if node.op == "get_attr":
        reader = next(iter(node.users))  # at least one: what nothing reads was removed
        read = str(reader.target) if reader.op == "call_module" else _described(reader, None)
        return f"the tensor {node.target!r}, which the network itself holds and {read} reads,"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    inside = list(node.meta.get("nn_module_stack") or ())
    return f"{name} in layer {inside[-1]!r}" if inside else name
