"""Follow channels through a network, operation by operation, in the graph that ``torch-pruning`` records."""

import math
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.dependency import index_mapping

from lib.structure.apart import tensors, undisturbed
from lib.structure.group import CONVOLUTION, INSTANCE_NORM, PER_CHANNEL

OUTPUT = "its channels are an output of the network"


@dataclass(frozen=True)
class Record:
    """What depends on what.

    graph: of ``torch-pruning``; its nodes are layers and operations.
    broken: nodes through which channels cannot be followed.
    """

    graph: torch_pruning.DependencyGraph
    broken: set[Any]


@dataclass
class Stop:
    """A node that channels reach.

    module: the layer, or a stand-in for an operation.
    writes: whether it computes the channels; otherwise it reads them.
    numbers: number of a channel here -> its number in the layer that computes it.
    """

    module: Any
    writes: bool
    numbers: dict[int, int]


def recorded(network: nn.Module, first: Tensor) -> Record:
    """Run a network once, and record what depends on what.

    It runs in evaluation mode, unless more layers run in training mode (auxiliary heads).

    network: any network; the run changes its modes and its state.
    first: one sample, (1, ...).

    Raises ValueError for a network that cannot be traced.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1))
    >>> network[0] in recorded(network, torch.zeros(1, 2)).graph.module2node
    True
    """
    layers = {m for m in network.modules() if isinstance(m, CONVOLUTION | nn.Linear)}
    record = _recorded(network, first, training=False)
    if layers <= record.graph.module2node.keys():
        return record
    ran: set[nn.Module] = set()
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.add(layer)) for layer in layers]
    try:
        _set_mode(network, training=True)
        with undisturbed(first.device), torch.no_grad():
            network(first)
        if ran > layers & record.graph.module2node.keys():
            return _recorded(network, first, training=True)
    except Exception:  # it only runs in evaluation mode
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return record


def _set_mode(network: nn.Module, *, training: bool) -> None:
    for module in network.modules():  # on one sample, batch norm may fail in training mode
        module.training = training and not isinstance(module, PER_CHANNEL)


def _recorded(network: nn.Module, first: Tensor, *, training: bool) -> Record:
    def forward(network: nn.Module, inputs: Tensor) -> list[Tensor]:
        _set_mode(network, training=training)
        return [output for output in tensors(network(inputs)) if output.grad_fn is not None]

    vars(network)["eval"] = lambda: network  # torch-pruning calls it, and the network's own may change weights
    graph, broken = torch_pruning.DependencyGraph(), set()
    frozen = [p for p in network.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for p in frozen:  # torch-pruning reads the graph of autograd
            p.requires_grad_(True)
        with undisturbed(first.device), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(network, first, forward_fn=forward, verbose=False)
    except Exception as error:  # tracing may raise anything
        if not hasattr(graph, "module2node"):
            raise ValueError(f"the graph of {type(network).__name__} cannot be traced: {error}") from error
        for module, node in graph.module2node.items():  # find the nodes whose channel numbers cannot be mapped
            one = SimpleNamespace(**{**vars(graph), "module2node": {module: node}})
            one.get_in_channels, one.get_out_channels = graph.get_in_channels, graph.get_out_channels
            try:
                index_mapping.update_index_mapping(one)
            except Exception:
                broken.add(node)
    finally:
        for p in frozen:
            p.requires_grad_(False)
        del vars(network)["eval"]
    return Record(graph, broken)


class _Place(NamedTuple):
    """A channel on its way: its number here, and its number in the layer where it started."""

    idx: int
    root_idx: int


def followed(record: Record, layer: Any, names: dict[nn.Module, str]) -> list[Stop] | str:
    """Follow the channels that a layer computes to everything that depends on them.

    record: of the network.
    layer: a convolution or linear layer of the network that ran.
    names: of all modules of the network.

    Returns every node that they reach, the layer first; or the reason why they cannot go.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> record, names = recorded(network, torch.zeros(1, 2)), {m: name for name, m in network.named_modules()}
    >>> [names[stop.module] for stop in followed(record, network[0], names) if stop.module in names]
    ['0', '2']
    >>> followed(record, network[2], names)
    'its channels are an output of the network'
    """
    graph, broken = record.graph, set(record.broken)
    start = [_Place(i, i) for i in range(len(layer.weight))]
    root, function = graph.module2node[layer], graph.get_pruner_of_module(layer).prune_out_channels
    if not root.outputs:
        return OUTPUT
    stops = {(root, function): Stop(layer, True, dict(start))}
    waiting = [(root, function, start)]
    while waiting:
        node, function, places = waiting.pop()
        for dependency in node.dependencies:
            if not dependency.is_triggered_by(function):
                continue
            target, handler, there = dependency.target, dependency.handler, places
            try:
                for mapping in dependency.index_mapping:
                    there = there if mapping is None else mapping(there)
            except Exception:  # such as IndexError
                broken.add(target)
            if not there:
                continue
            if target in broken:
                return "its channels are split or reshaped in a way that cannot be followed"
            writes = graph.is_out_channel_pruning_fn(handler)
            if target.type == torch_pruning.ops.OPTYPE.OUTPUT or (writes and not target.outputs):
                return OUTPUT
            if obstacle := _obstacle(target.module, names):
                return obstacle
            stop = stops.setdefault((target, handler), Stop(target.module, writes, {}))
            size = graph.get_out_channels if writes else graph.get_in_channels
            # larger numbers are wrong, and in a cycle they would grow without end
            limit = size(target.module) or math.inf
            new = []
            for place in there:
                known = stop.numbers.get(place.idx)
                if known is None:
                    stop.numbers[place.idx] = place.root_idx
                    if place.idx < limit:
                        new.append(place)
                elif known != place.root_idx:
                    return "its channels are tied to each other: they are split, sliced or moved"
            if new:
                waiting.append((target, handler, new))
    return list(stops.values())


def _obstacle(module: Any, names: dict[Any, str]) -> str:
    """Why channels that reach this module cannot go; "" if they can."""
    if isinstance(module, nn.Parameter):
        owner, slot = next(
            (n, s) for m, n in names.items() for s, p in m.named_parameters(recurse=False) if p is module
        )
        return f"parameter {'.'.join(filter(None, (owner, slot)))!r} is combined with its channels"
    accepted = CONVOLUTION | nn.Linear | PER_CHANNEL | INSTANCE_NORM | nn.PReLU
    if module in names and not isinstance(module, accepted):
        return f"{names[module]!r}, a {type(module).__name__}, works on its channels"
    return ""
