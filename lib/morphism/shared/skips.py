"""Let a later layer add, or read, what an earlier one computes (jin2019autokeras)."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib.morphism.shared.checks import check_untied, proved
from lib.morphism.shared.graphs import Graph
from lib.morphism.shared.layers import blank, spatial


@torch.no_grad()
def add_skip(model: nn.Module, start: str, end: str, example: Tensor) -> nn.Module:
    r"""Add the output of an earlier layer to that of a later one, through a projection that begins as zero.

    .. math:: y' = y + P x, \qquad P = 0

    x and y are taken after the norm and the activation of their layers. P, ``<end>_skip``, is a 1 x 1 convolution or a
    linear layer. Maps of another size are averaged to the size of y; from maps to vectors, over all places.

    model: any network that ``torch.fx`` can trace; not changed.
    start: the earlier convolution or linear layer.
    end: the later one.
    example: one or more inputs, (n, ...).

    Returns the copy with the skip. Raises ValueError for layers that do not exist, are not called once or run in the
    other order, for outputs that cannot be brought to one shape, and for networks that cannot be traced.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> add_skip(model, "0", "2", torch.zeros(1, 2)).get_submodule("2_skip")
    Linear(in_features=3, out_features=4, bias=False)
    """
    graph = Graph(model, example)
    x, y = skipped(graph, start, end)
    early: Any = graph.layer(start)
    late: Any = graph.layer(end)
    x = graph.read(x)
    # method
    with graph.graph.inserting_before(y.next):
        fitted = _fitted(graph, x, y, early, late)
        projection = blank(late, len(early.weight), len(late.weight), 1, bias=False)
        node = graph.graph.call_module(graph.add(f"{end}_skip", projection), (fitted,))
        total = graph.graph.call_function(torch.add, (y, node))
    # end of method
    used = _used(total)
    y.replace_all_uses_with(total, delete_user_cb=lambda user: user not in used)
    return proved(model, graph.finished(), example, f"a skip from layer {start!r} to layer {end!r}")


def skipped(graph: Graph, start: str, end: str) -> tuple[fx.Node, fx.Node]:
    """Return the nodes that a skip joins. Raises ValueError if no skip is possible.

    graph: of the network.
    start, end: names of the layers.

    >>> graph = Graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)), torch.zeros(1, 2))
    >>> [node.target for node in skipped(graph, "0", "2")]
    ['1', '2']
    """
    for name in (start, end):
        graph.layer(name)
    x, y = graph.end(start), graph.end(end)
    _check_order(graph, x, y, start, end)
    _check_fit(graph, x, y, start, end, averaged=True)
    return x, y


@torch.no_grad()
def add_concat(model: nn.Module, start: str, layer: str, example: Tensor) -> nn.Module:
    """Let a layer read the output of an earlier one besides its own input, with weights that begin as zero.

    The earlier output is taken after the norm and the activation of its layer. Maps of another size are averaged to
    the size of the input.

    model: any network that ``torch.fx`` can trace; not changed.
    start: the earlier convolution or linear layer.
    layer: the one that reads more: a linear layer, or a convolution without groups.
    example: one or more inputs, (n, ...).

    Returns the copy, in which the layer has more inputs. Raises ValueError for layers that do not exist, are not called
    once, run in the other order or read in groups, for a layer that shares its weight, for outputs that cannot be
    brought to the shape of the input, and for networks that cannot be traced.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> add_concat(model, "0", "4", torch.zeros(1, 2)).get_submodule("4").weight.count_nonzero(), 4 + 3
    (tensor(4), 7)
    """
    graph = Graph(model, example)
    x, y, call = concatenated(graph, start, layer)
    check_untied(model, layer)
    early: Any = graph.layer(start)
    late: Any = graph.layer(layer)
    x = graph.read(x)
    # method
    with graph.graph.inserting_before(call):
        fitted = _fitted(graph, x, y, early, late)
        both = graph.graph.call_function(torch.cat, ([y, fitted], 1 if spatial(late) else -1))
    call.replace_input_with(y, both)
    zeros = late.weight.new_zeros(len(late.weight), len(early.weight), *late.weight.shape[2:])
    late.weight = nn.Parameter(torch.cat([late.weight, zeros], 1), late.weight.requires_grad)
    # end of method
    setattr(late, "in_channels" if spatial(late) else "in_features", late.weight.shape[1])
    return proved(model, graph.finished(), example, f"reading layer {start!r} in layer {layer!r}")


def concatenated(graph: Graph, start: str, layer: str) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Return the node to read, the current input of a layer, and its call. Raises ValueError if it cannot read more.

    graph: of the network.
    start, layer: names of the layers.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    >>> [node.target for node in concatenated(Graph(model, torch.zeros(1, 2)), "0", "4")]
    ['1', '3', '4']
    """
    graph.layer(start)
    if (groups := getattr(graph.layer(layer), "groups", 1)) > 1:
        raise ValueError(f"layer {layer!r} reads in {groups} groups: only a layer without groups can read more")
    x, call = graph.end(start), graph.call(layer)
    _check_order(graph, x, call, start, layer)
    y = call.all_input_nodes[0]
    _check_fit(graph, x, y, start, layer, averaged=False)
    return x, y, call


def _check_order(graph: Graph, x: fx.Node, y: fx.Node, start: str, end: str) -> None:
    order = list(graph.graph.nodes)
    if order.index(x) >= order.index(y):
        raise ValueError(f"layer {start!r} must end before layer {end!r} does: a skip only leads forward")


def _check_fit(graph: Graph, x: fx.Node, y: fx.Node, start: str, end: str, *, averaged: bool) -> None:
    """ValueError where x cannot be brought to the places of y; ``averaged``: whether maps may become vectors."""
    early, late = spatial(graph.layer(start)), spatial(graph.layer(end))
    before, after = graph.shapes[x.name], graph.shapes[y.name]
    if early == late:
        fits = len(before) == len(after) == late + 2 if late else before[:-1] == after[:-1]
    else:
        fits = averaged and not late and len(after) == 2 and len(before) == early + 2
    if not fits:
        raise ValueError(
            f"the output of layer {start!r}, of shape {before}, cannot get the shape {after} at layer {end!r}:"
            f" accepted are maps to maps{' or vectors' if averaged else ''}, and vectors to vectors"
        )


def _fitted(graph: Graph, x: fx.Node, y: fx.Node, early: nn.Module, late: nn.Module) -> fx.Node:
    """x with the places of y."""
    made = graph.graph
    if spatial(early) and not spatial(late):
        return made.call_method("mean", (x, tuple(range(2, 2 + spatial(early)))))
    if spatial(late) and graph.shapes[x.name][2:] != graph.shapes[y.name][2:]:
        size = made.call_function(operator.getitem, (made.call_function(getattr, (y, "shape")), slice(2, None)))
        return made.call_function(getattr(nn.functional, f"adaptive_avg_pool{spatial(late)}d"), (x, size))
    return x


def _used(node: fx.Node) -> set[fx.Node]:
    """Nodes that a node is computed from, itself included."""
    found, waiting = {node}, [node]
    while waiting:
        new = set(waiting.pop().all_input_nodes) - found
        found |= new
        waiting += new
    return found
