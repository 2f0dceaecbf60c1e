"""Removal of in-place operations from a traced network, so that later readers of a tensor get what overwrote it."""

import inspect
import operator
from collections.abc import Callable, Collection
from typing import Any

from torch import fx, nn

from lib.quantization.shared import operations

VIEWS = {"view", *operations.ARRANGING_CALLS}
ALIASES = operations.ARRANGEMENTS | operations.DROPOUTS | nn.Identity | operations.Rows
OPERATORS = {operator.iadd, operator.isub, operator.imul, operator.itruediv}


class Tracer(fx.Tracer):
    """Also sees ``x += y``, which torch's own tracer takes for ``x = x + y``."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether not to look inside a module: torch's own, and ours in a network that was traced before."""
        return type(m).__module__ == operations.__name__ or super().is_leaf_module(m, module_qualified_name)


class Proxy(fx.Proxy):
    """Stands for a tensor while a network is traced."""

    def _in_place(self, call: Callable[..., Any], other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", call, (self, other), {})

    def __iadd__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)


def resolve(network: fx.GraphModule, sizes: Collection[fx.Node] = ()) -> None:
    """Redirect each read of an overwritten tensor to the result of the operation that overwrote it. In place.

    Afterwards no answer depends on what is computed in place. A module whose input is read elsewhere too no longer
    overwrites it.

    network: a traced network.
    sizes: its nodes that are numbers, not tensors; nothing overwrites these.

    Raises ValueError if a tensor is overwritten and a view of it is read later.

    >>> class Net(nn.Module):
    ...     def forward(self, x):
    ...         y = x
    ...         y += 1
    ...         return x
    >>> model = Net()
    >>> network = fx.GraphModule(model, Tracer().trace(model))
    >>> resolve(network)
    >>> str(network.graph.output_node().args[0])
    'iadd'
    """
    order = {node: place for place, node in enumerate(network.graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}  # node -> the node that made the memory which its tensor may share
    for node in network.graph.nodes:
        written = node.all_input_nodes[0] if node.all_input_nodes else None
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        overwrites = written is not None and node not in sizes and _overwrites(node, module)
        shares = overwrites or isinstance(module, ALIASES) or (module is None and node.target in VIEWS)
        memory[node] = memory[written] if written is not None and shares else node
        if not overwrites or written is None:
            continue
        if module is not None and len(written.users) > 1:
            _make_new(module)

        def after(user: fx.Node, place: int = order[node]) -> bool:
            return order[user] > place

        written.replace_all_uses_with(node, delete_user_cb=after)
        for other in order:
            if other is not node and memory.get(other) is memory[node] and any(map(after, other.users)):
                raise ValueError(
                    f"{node.name} computes in place, and {other.name}, which shares its memory, is read later:"
                    " use the operation that returns a new tensor"
                )


def switch_off(network: nn.Module) -> None:
    """Stop every module of a network from computing in place.

    network: any; call :func:`resolve` first if the answers of its graph depend on computing in place.

    >>> model = nn.Sequential(nn.ReLU(inplace=True))
    >>> switch_off(model)
    >>> model[0]
    ReLU()
    """
    for module in network.modules():
        if hasattr(module, "inplace"):
            _make_new(module)


def _make_new(module: Any) -> None:
    module.inplace = False


def _overwrites(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    if not callable(node.target):
        return False
    if node.target in OPERATORS or getattr(node.target, "__name__", "").endswith("_"):
        return True
    try:
        named = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # torch's own functions have no signature, and none of them takes inplace
        return bool(node.kwargs.get("inplace", False))
    return bool(named.get("inplace", False))
