"""The groups of channels that a trace of the network suggests.

``torch-pruning`` treats operations that it does not know as elementwise, so what it suggests has to be tested: see
proof.py.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import running
from lib.structure.apart import check_unwritten, twin
from lib.structure.copies import inputs, outputs
from lib.structure.graph import Stop, followed, recorded
from lib.structure.group import CONVOLUTION, Group, depthwise


@dataclass(frozen=True)
class Trace:
    """What a trace suggests.

    groups: in the order in which the model holds their first layers.
    spared: name of each other convolution and linear layer -> why its filters stay.
    """

    groups: list[Group]
    spared: dict[str, str]


def check(model: nn.Module, example_input: Tensor) -> None:
    """Raise ValueError for a model with compressed or missing weights, and for an unsuitable example input.

    model: any network.
    example_input: (n, ...).

    >>> check(nn.Linear(2, 3), torch.zeros(1, 2))
    """
    kind = type(model).__name__
    if not isinstance(example_input, Tensor):
        raise ValueError(f"the example input must be one tensor, not {type(example_input).__name__}")
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError(f"{kind} has compressed weights: decompress it first")
    running.check_made(model)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_meta:
            raise ValueError(f"{name!r} of {kind} is on the meta device: a model with values is needed")
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(f"{kind} runs on several devices: give the network inside, model.module")
    if torch.is_inference_mode_enabled():
        raise ValueError("groups are found by gradients: do not call this inside torch.inference_mode()")
    if not example_input.dim() or not len(example_input):
        raise ValueError("the example input is empty: one sample is needed")


def traced(model: nn.Module, example_input: Tensor) -> Trace:
    """Trace a network, and list the groups that follow from the trace alone.

    model: it is left as it was.
    example_input: one or more inputs, (n, ...); the first is run through the network.

    Raises ValueError for a model that cannot be traced or copied, or that writes into its parameters as it runs.

    >>> trace = traced(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
    >>> [group.producers for group in trace.groups], trace.spared
    ([('0',)], {'2': 'its channels are an output of the network'})
    """
    check_unwritten(model, example_input[:1].detach())
    network = twin(model)
    record = recorded(network, example_input[:1].detach())
    names = {module: name for name, module in network.named_modules()}
    owners = Counter(id(p) for module in network.modules() for p in module.parameters(recurse=False))
    found: list[Group] = []
    spared: dict[str, str] = {}
    for layer, name in names.items():
        if not isinstance(layer, CONVOLUTION | nn.Linear) or any(name in group.producers for group in found):
            continue
        if not len(layer.weight):
            spared[name] = "it has no filters"
        elif depthwise(layer):
            spared[name] = "it is depthwise, so its filters go with those of the layers before it"
        elif layer not in record.graph.module2node:
            spared[name] = (
                "it is not called, or nothing that needs gradients depends on it: its owner may read its weight"
            )
        else:
            reached = followed(record, layer, names)
            group = reached if isinstance(reached, str) else _group(network, len(layer.weight), reached, names, owners)
            if isinstance(group, Group):
                found.append(group)
            else:
                spared[name] = group
    return Trace(found, spared)


def _group(
    network: nn.Module, channels: int, stops: list[Stop], names: dict[Any, str], owners: Counter[int]
) -> Group | str:
    """The group that these stops form; or why they form none."""
    producers: list[str] = []
    carriers: dict[str, Tensor] = {}
    consumers: dict[str, Tensor] = {}
    for stop in stops:
        if stop.module not in names or (isinstance(stop.module, nn.PReLU) and stop.module.num_parameters == 1):
            continue  # an operation
        name = names[stop.module]
        if reason := _unfit(stop.module, owners):
            return f"{reason} of {name!r}"
        numbers: list[list[int]] = [[] for _ in range(channels)]
        for number, channel in stop.numbers.items():
            numbers[channel].append(number)
        carries = depthwise(stop.module) or not isinstance(stop.module, CONVOLUTION | nn.Linear)
        size = getattr(stop.module, (outputs if carries or stop.writes else inputs)(stop.module))
        if len({len(some) for some in numbers}) > 1 or max(stop.numbers) >= size:
            return f"its channels are split, joined or mixed before {name!r}"
        if carries:
            carriers[name] = torch.tensor(numbers)
        elif not stop.writes:
            consumers[name] = torch.tensor(numbers)
        elif size == channels and all(a == b for a, b in stop.numbers.items()):
            producers.append(name)
        else:
            return f"it is tied to a part of layer {name!r}: only all of it could go"
    ordered = sorted(set(producers), key=list(names.values()).index)
    parts = math.lcm(*_parts(network, channels, ordered, consumers))
    if parts == channels > 1:
        return "the groups of a convolution hold one of its channels each"
    return Group(channels, tuple(ordered), carriers, consumers, parts)


def _unfit(layer: nn.Module, owners: Counter[int]) -> str:
    """Why the tensors of a layer cannot be replaced, to be followed by "of" and its name; "" if they can."""
    own = dict(layer.named_parameters(recurse=False))
    for slot in ("weight", "bias"):
        value = getattr(layer, slot, None)
        if value is not None and slot not in own:
            return f"other parameters make the {slot}"
        if value is not None and owners[id(value)] > 1:
            return f"another layer shares the {slot}"
    return ""


def _parts(network: nn.Module, channels: int, producers: list[str], consumers: dict[str, Tensor]) -> Iterator[int]:
    """The numbers of equal parts in which grouped convolutions compute or read the channels."""
    for name in producers:
        yield getattr(network.get_submodule(name), "groups", 1)
    for name, numbers in consumers.items():
        layer: Any = network.get_submodule(name)
        width = layer.in_channels // layer.groups if getattr(layer, "groups", 1) > 1 else channels
        starts = numbers[::width] if channels % width == 0 else numbers[:0]
        aligned = numbers.shape[1] == 1 and len(starts) and int(numbers[0]) % width == 0
        if aligned and torch.equal(numbers[:, 0], numbers[0] + torch.arange(channels)):
            yield channels // width
