"""A network as a graph that can be edited: what is called where, and the shapes on the way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib.morphism.shared.checks import check
from lib.morphism.shared.layers import layer_named
from lib.structure.apart import copied, twin, undisturbed
from lib.structure.group import INSTANCE_NORM, PER_CHANNEL

IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Hardtanh)  # applying them twice is the same as once
ELEMENTWISE = (
    *(*IDEMPOTENT, nn.PReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid),
)
IDEMPOTENT_NAMES = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_")  # of functions and of tensors' methods
ELEMENTWISE_NAMES = (
    *(*IDEMPOTENT_NAMES, "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("tanh", "sigmoid", "softplus", "hardswish", "hardsigmoid"),
)


class Graph:
    """A copy of a network as a ``torch.fx.GraphModule``, with the shapes of its tensors.

    Modules that the network never calls are not in it.

    model: any network that ``torch.fx`` can trace; not changed.
    example: one or more inputs, (n, ...); the first is run through the network.

    ``module`` is the copy, ``shapes`` node name -> shape.
    Raises ValueError for what :func:`lib.morphism.shared.checks.check` refuses, for networks that cannot be traced, and
    for those whose own code (not that of their layers) does something else in training mode.

    >>> graph = Graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
    >>> graph.end("0").target, graph.shapes[graph.end("0").name]
    ('1', (1, 3))
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        check(model, example)
        kind, copy = type(model).__name__, copied(model, {})
        modes = [(module, module.training) for module in copy.modules()]
        graphs = []
        try:
            for training in (True, False):
                for module, _ in modes:
                    module.training = training
                graphs.append(Tracer().trace(copy))
        except Exception as error:  # whatever the network does with the stand-ins for its tensors
            why = " ".join(str(error).split())[:200]
            raise ValueError(f"{kind} cannot be traced by torch.fx: {why}") from error
        finally:
            for module, training in modes:
                module.training = training
        if str(graphs[0]) != str(graphs[1]):
            raise ValueError(
                f"{kind} asks in its own forward whether it is training, so a traced copy would be stuck in one mode:"
                " use layers for that, such as nn.Dropout"
            )
        for node in graphs[1].nodes:
            node.meta.clear()  # where in the code it was; copies would take long
        self.module = fx.GraphModule(copy, graphs[1], kind)
        self.graph, self.model = self.module.graph, model
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._accepted: set[str] = set()  # looking at all values of a layer for each pair of layers would take long

        def note(node: fx.Node, value: Any) -> None:
            if isinstance(value, Tensor):
                self.shapes[node.name] = tuple(value.shape)

        self.run(example[:1], note)

    def run(self, example: Tensor, note: Callable[[fx.Node, Any], None]) -> None:
        """Run the network in evaluation mode, on a twin, and note what each node gives.

        example: inputs.
        note: called with each node of the twin and its value.

        Raises ValueError where the network does not run.
        """
        network: Any = twin(self.module)
        for module in network.modules():
            module.training = False
        try:
            with undisturbed(example.device), torch.no_grad():
                Noting(network, note).run(example)
        except Exception as error:  # the network may raise anything
            why = " ".join(str(error).split())[:200]
            raise ValueError(f"{type(self.model).__name__} does not run on the example: {why}") from error

    def layer(self, name: str) -> nn.Module:
        """Return a convolution or linear layer of the copy.

        name: of the layer.

        Raises ValueError where there is no such layer, it is not called once, or its weights are not finite.
        """
        if name not in self._accepted:
            layer_named(self.model, name)
            self.call(name)
            self._accepted.add(name)
        return self.module.get_submodule(name)

    def call(self, name: str) -> fx.Node:
        """Return the node that calls a layer. Raises ValueError unless there is exactly one.

        name: of the layer.
        """
        calls = [node for node in self.graph.nodes if node.op == "call_module" and node.target == name]
        if len(calls) != 1:
            where = "inside another layer, or not at all" if not calls else f"{len(calls)} times"
            raise ValueError(f"layer {name!r} is called {where}: it must be called once by the network itself")
        return calls[0]

    def end(self, name: str) -> fx.Node:
        """Return where a layer ends: after the norm and activation that follow it, if nothing else reads in between.

        name: of the layer.
        """
        node = self.call(name)
        while len(node.users) == 1:
            follower = next(iter(node.users))
            if not follower.args or follower.args[0] is not node:
                break
            if self.is_activation(follower):
                return follower
            module = self._module(follower)
            if not isinstance(module, PER_CHANNEL | INSTANCE_NORM | nn.GroupNorm | nn.LayerNorm):
                break
            node = follower
        return node

    def is_activation(self, node: fx.Node, *, idempotent: bool = False) -> bool:
        """Whether a node is an elementwise activation.

        node: of the graph.
        idempotent: whether only those count for which applying them twice is the same as once; default False.
        """
        kinds, names = (IDEMPOTENT, IDEMPOTENT_NAMES) if idempotent else (ELEMENTWISE, ELEMENTWISE_NAMES)
        if node.op == "call_module":
            return isinstance(self._module(node), kinds)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        return node.op in ("call_function", "call_method") and name in names

    def read(self, node: fx.Node) -> fx.Node:
        """Return a node with the value of another one, safe from later operations that change it in place.

        node: of the graph.
        """
        if not any(self._in_place(user, node) for user in node.users):
            return node
        with self.graph.inserting_before(node.next):
            clone = self.graph.call_method("clone", (node,))
        self.shapes[clone.name] = self.shapes[node.name]
        return clone

    def add(self, name: str, module: nn.Module) -> str:
        """Add a module under a name, followed by a number if the name is taken; return the name.

        name: dotted.
        module: any.
        """
        taken, free, number = dict(self.module.named_modules()), name, 1
        while free in taken:
            number += 1
            free = f"{name}{number}"
        self.module.add_submodule(free, module)
        return free

    def finished(self) -> fx.GraphModule:
        """Return the copy after edits."""
        self.graph.lint()
        self.module.recompile()
        return self.module

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _in_place(self, user: fx.Node, node: fx.Node) -> bool:
        if not user.args or user.args[0] is not node:
            return False
        method = user.op == "call_method" and str(user.target).endswith("_") and not str(user.target).endswith("__")
        named = user.op == "call_function" and getattr(user.target, "__name__", "").endswith("_")
        asked = bool(user.kwargs.get("inplace")) or any(value is True for value in user.args[1:])
        module = getattr(self._module(user), "inplace", False)
        return method or named or asked or bool(module)


class Tracer(fx.Tracer):
    """Keeps the modules of this section whole: a retraced network still has its P-activations and branches.

    >>> from lib.morphism.shared.p_activation import PActivation
    >>> [node.op for node in Tracer().trace(nn.Sequential(PActivation(nn.ReLU()))).nodes]
    ['placeholder', 'call_module', 'output']
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("lib.morphism") or super().is_leaf_module(m, module_qualified_name)


class Noting(fx.Interpreter):
    """Runs a graph, and notes what each node gives.

    module: with the graph.
    note: called with each node and its value.

    >>> traced = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    >>> Noting(traced, lambda node, value: print(node.op, value)).run(torch.tensor([-1.0]))
    placeholder tensor([-1.])
    call_module tensor([0.])
    output tensor([0.])
    tensor([0.])
    """

    def __init__(self, module: fx.GraphModule, note: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(module)
        self.note = note

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.note(n, value)
        return value
