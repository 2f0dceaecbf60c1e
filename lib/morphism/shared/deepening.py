"""Insert a layer that begins as the identity (chen2016net2net)."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from lib.arguments import check_one_of, check_sizes
from lib.morphism.shared.checks import draw, proved
from lib.morphism.shared.graphs import Graph
from lib.morphism.shared.layers import blank, check_kernel, spatial
from lib.structure.apart import copied

NORMS = ("none", "measured", "residual")


@torch.no_grad()
def deepen(
    model: nn.Module, layer: str, example: Tensor, *, kernel: int = 3, batch_norm: str = "none", seed: int = 0
) -> nn.Module:
    r"""Insert a layer that begins as the identity, with a second activation, after a layer, its norm and activation.

    The new layer is ``<layer>_deeper``, a convolution that keeps channels and sizes, or a linear layer.

    model: any network that ``torch.fx`` can trace; not changed.
    layer: a convolution or linear layer whose output, after its norm, goes through ReLU, ReLU6 or Hardtanh and nothing
        else. Only for these is :math:`\sigma(\sigma(x)) = \sigma(x)`; ``morph_depth`` works before any activation.
    example: inputs, (n, ...); for "measured" as many as you have, otherwise one will do.
    kernel: size of the new convolution, odd; default 3. Ignored for a linear layer.
    batch_norm: of the new layer, ``<layer>_deeper_norm``.
        "none" (default): there is none. The same function in both modes.
        "measured": :math:`\gamma = \sqrt{v + \epsilon}, \beta = m` with the mean and the variance of what arrives, as
        measured on the example (chen2016net2net). The same function in evaluation mode. In training mode it is the
        same only for a batch with exactly these statistics, so that mode is not compared.
        "residual": x + norm(convolution(x)), with a random convolution and :math:`\gamma = \beta = 0`. The same
        function in both modes, for any batch; but the new layer has a skip around it.
    seed: of the random convolution of "residual"; default 0.

    Returns the deeper copy. Raises ValueError for a layer that does not exist, is not called once or is followed by
    something else, for a kernel that is even, and for networks that cannot be traced.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> deeper, x = deepen(model, "0", torch.zeros(1, 2)), torch.ones(1, 2)
    >>> sum(isinstance(module, nn.Linear) for module in deeper.modules()), torch.equal(deeper(x), model(x))
    (3, True)
    """
    check_kernel(kernel)
    check_sizes({"seed": seed}, {"seed": 0})
    check_one_of("batch_norm", batch_norm, NORMS)
    graph = Graph(model, example)
    end = deepened(graph, layer)
    old: Any = graph.layer(layer)
    size, axes, shape = len(old.weight), spatial(old), graph.shapes[end.name]
    if batch_norm != "none" and len(shape) != axes + 2:
        raise ValueError(f"batch norm after layer {layer!r} needs (n, channels, ...), not the shape {shape}")
    new = blank(old, size, size, kernel)
    if batch_norm == "residual":
        generator = torch.Generator().manual_seed(seed)
        new.weight.copy_(draw(new.weight.shape, new.weight, generator) * (2 / new.weight[0].numel()) ** 0.5)
    else:
        # method
        middle = (slice(None), slice(None), *[kernel // 2] * axes)  # the other weights are zero
        new.weight[middle] = torch.eye(size).to(new.weight)
        # end of method
    with graph.graph.inserting_before(end.next):
        first = node = graph.graph.call_module(graph.add(f"{layer}_deeper", new), (end,))
        if batch_norm != "none":
            norm = _measured(graph, old, end, example) if batch_norm == "measured" else _silent(old)
            node = graph.graph.call_module(graph.add(f"{layer}_deeper_norm", norm), (node,))
        if batch_norm == "residual":
            node = graph.graph.call_function(torch.add, (end, node))
        readers = {first, node}
        node = _again(graph, end, node, f"{layer}_deeper_activation")
    end.replace_all_uses_with(node, delete_user_cb=lambda user: user not in readers)
    return proved(model, graph.finished(), example, f"deepening layer {layer!r}", training=batch_norm != "measured")


def deepened(graph: Graph, layer: str) -> fx.Node:
    """Return the node after which a layer is deepened. Raises ValueError where that would change the function.

    graph: of the network.
    layer: its name.

    >>> deepened(Graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2)), "0").target
    '1'
    """
    graph.layer(layer)
    end = graph.end(layer)
    if not graph.is_activation(end, idempotent=True):
        raise ValueError(
            f"layer {layer!r} is not followed by ReLU, ReLU6 or Hardtanh alone, which change nothing if applied twice:"
            " morph_depth inserts a layer anywhere"
        )
    return end


def _again(graph: Graph, activation: fx.Node, node: fx.Node, name: str) -> fx.Node:
    """Call the same activation on another node."""
    if activation.op == "call_module":
        module = copied(graph.module.get_submodule(str(activation.target)), {})
        return graph.graph.call_module(graph.add(name, module), (node,))
    return graph.graph.create_node(
        activation.op, activation.target, (node, *activation.args[1:]), dict(activation.kwargs)
    )


def _blank_norm(like: Any) -> Any:
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[spatial(like)]
    norm: Any = kind(len(like.weight), device=like.weight.device, dtype=like.weight.dtype)
    return norm.train(like.training)


def _silent(like: Any) -> nn.Module:
    """Batch norm that gives zero for any batch."""
    norm = _blank_norm(like)
    norm.weight.zero_()
    return norm


def _measured(graph: Graph, like: Any, node: fx.Node, example: Tensor) -> nn.Module:
    """Batch norm that is the identity for the statistics of what a node gives."""
    norm = _blank_norm(like)

    def note(other: fx.Node, value: Any) -> None:
        if other.name == node.name:
            values = value.double().movedim(1, 0).flatten(1)
            norm.running_mean.copy_(values.mean(1))
            norm.running_var.copy_(values.var(1, correction=0))

    graph.run(example, note)
    # method
    norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())  # gamma = sqrt(v + epsilon)
    norm.bias.copy_(norm.running_mean)  # beta = m
    # end of method
    return norm
