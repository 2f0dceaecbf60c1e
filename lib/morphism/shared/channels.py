"""New channels for a group of layers: where they go in those that compute, carry and read them (chen2016net2net)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lib.morphism.shared.checks import draw
from lib.structure.apart import copied
from lib.structure.copies import inputs, outputs
from lib.structure.group import Group, depthwise

SLOTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Plan:
    """Where the channels of a wider group come from.

    sources: (width,) number of the old channel that each new one copies.
    fresh: (width,) bool, True for the new channels.
    """

    sources: Tensor
    fresh: Tensor

    @property
    def shares(self) -> Tensor:
        """One over the number of channels that copy the same old one, (width,) float64."""
        return 1 / self.sources.bincount().double()[self.sources]


@dataclass
class Gain:
    """What one layer gains.

    rows: number of the old filter or channel for each new one; None where it computes and carries as many as before.
    fresh: which of the rows are new.
    columns: number of the old input for each new one; empty where it reads as many as before.
    factors: of the columns, float64.
    """

    rows: Tensor | None = None
    fresh: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    columns: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    factors: Tensor = field(default_factory=lambda: torch.ones(0, dtype=torch.float64))


def planned(group: Group, width: int, generator: torch.Generator) -> Plan:
    """Draw which old channel each new one copies; each part of a grouped convolution gains the same number.

    group: to be widened.
    width: channels afterwards, more than before and a multiple of the parts.
    generator: of the draw.

    >>> planned(Group(4, ("0",), {}, {}, parts=2), 6, torch.Generator().manual_seed(0)).fresh.tolist()
    [False, False, True, False, False, True]
    """
    before, after = group.channels // group.parts, width // group.parts
    # method
    # g(j) = j for j <= n, else a random one of 1..n
    drawn = torch.randint(0, before, (group.parts, after - before), generator=generator)
    within = torch.cat([torch.arange(before).expand(group.parts, before), drawn], 1)
    sources = (within + before * torch.arange(group.parts)[:, None]).flatten()
    # end of method
    return Plan(sources, (torch.arange(after) >= before).repeat(group.parts))


def gains(model: nn.Module, group: Group, plan: Plan, *, copies: bool) -> dict[str, Gain]:
    """Say what each layer of the group gains.

    model: the network of the group.
    group: to be widened.
    plan: where its channels come from.
    copies: whether readers share the weight of a channel among its copies; otherwise they give new channels zero.

    Raises ValueError where channels come in an order in which new ones have no place.

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    >>> group = Group(2, ("0",), {}, {"1": torch.tensor([[0], [1]])})
    >>> gained = gains(model, group, planned(group, 3, torch.Generator().manual_seed(0)), copies=True)
    >>> gained["0"].rows.tolist() == gained["1"].columns.tolist(), sorted(gained["1"].factors.tolist())
    (True, [0.5, 0.5, 1.0])
    """
    factors = plan.shares if copies else (~plan.fresh).double()
    result: dict[str, Gain] = {}
    for name in group.producers:
        result.setdefault(name, Gain()).rows = plan.sources
        result[name].fresh = plan.fresh
    for name, numbers in group.carriers.items():
        layer: Any = model.get_submodule(name)
        places, which = _places(name, numbers, getattr(layer, outputs(layer)), plan.sources)
        gain = result.setdefault(name, Gain())
        gain.rows, gain.fresh = places, (which >= 0) & plan.fresh[which]
    for name, numbers in group.consumers.items():
        layer = model.get_submodule(name)
        places, which = _places(name, numbers, getattr(layer, inputs(layer)), plan.sources)
        gain = result.setdefault(name, Gain())
        gain.columns, gain.factors = places, torch.where(which >= 0, factors[which], 1.0)
        groups = _groups(layer)
        group_of = places // (getattr(layer, inputs(layer)) // groups)
        if not torch.equal(group_of, torch.arange(groups).repeat_interleave(-(-len(places) // groups))[: len(places)]):
            raise ValueError(f"the {groups} groups of convolution {name!r} would read different numbers of channels")
    return result


def widened(model: nn.Module, gained: dict[str, Gain], *, random: torch.Generator | None) -> nn.Module:
    """Copy a network with more channels.

    model: not changed.
    gained: layer name -> what it gains.
    random: draws the weights of new filters, with the standard deviation of the layer's old ones; None copies them.

    >>> widened(nn.Sequential(nn.Linear(1, 2)), {"0": Gain(torch.tensor([0, 1, 1]))}, random=None)[0]
    Linear(in_features=1, out_features=3, bias=True)
    """
    instead: dict[int, Tensor] = {}
    for name, gain in gained.items():
        layer: Any = model.get_submodule(name)
        for slot in SLOTS:
            old = getattr(layer, slot, None)
            if old is None or (gain.rows is None and slot != "weight"):
                continue
            new = old.detach()
            # method
            if len(gain.columns) and slot == "weight":
                blocks = zip(new.chunk(_groups(layer)), _by_group(gain, layer), strict=True)
                new = torch.cat([_columns(block, places, factors) for block, (places, factors) in blocks])
            if gain.rows is not None:
                new = new.index_select(0, gain.rows.to(new.device))
                if random is not None and slot == "weight" and new.dim() > 1:
                    fresh = gain.fresh.to(new.device)
                    new[fresh] = draw(new[fresh].shape, new, random) * new[~fresh].std(correction=0)
            # end of method
            instead[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    wide = copied(model, instead)
    for name, gain in gained.items():
        layer = wide.get_submodule(name)
        if gain.rows is not None:
            for attribute in ("in_channels", "out_channels", "groups") if depthwise(layer) else (outputs(layer),):
                setattr(layer, attribute, len(gain.rows))
        if len(gain.columns):
            setattr(layer, inputs(layer), len(gain.columns))
    return wide


def _groups(layer: nn.Module) -> int:
    return int(getattr(layer, "groups", 1))


def _by_group(gain: Gain, layer: Any) -> list[tuple[Tensor, Tensor]]:
    """Columns within each group of a convolution, and their factors."""
    groups = _groups(layer)
    within = gain.columns.reshape(groups, -1) % (getattr(layer, inputs(layer)) // groups)
    return list(zip(within, gain.factors.reshape(groups, -1), strict=True))


def _columns(weight: Tensor, places: Tensor, factors: Tensor) -> Tensor:
    new = weight.index_select(1, places.to(weight.device))
    # the outgoing weight of a channel, divided by the number of its copies
    return (new.double() * factors.to(new.device).reshape(-1, *[1] * (new.dim() - 2))).to(new)


def _places(name: str, numbers: Tensor, size: int, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Old number of each new input or channel of a layer, and which channel of the wider group it is (-1: of none).

    Channels come in runs 0, 1, ..., n - 1, each of them once or, after a flatten, several times in a row.
    """
    channels = torch.full((size,), -1)
    channels[numbers.flatten()] = torch.arange(len(numbers)).repeat_interleave(numbers.shape[1])
    places, which, position = [], [], 0
    while position < size:
        if channels[position] < 0:
            places.append(torch.tensor([position]))
            which.append(torch.tensor([-1]))
            position += 1
            continue
        others = (channels[position:] != 0).nonzero()
        repeats = int(others[0]) if len(others) else size - position  # places of a map in a row
        run = torch.arange(len(numbers)).repeat_interleave(repeats)
        if not repeats or not torch.equal(channels[position : position + len(run)], run):
            raise ValueError(f"layer {name!r} reads the channels in another order, so new ones have no place there")
        places.append((position + sources[:, None] * repeats + torch.arange(repeats)).flatten())
        which.append(torch.arange(len(sources)).repeat_interleave(repeats))
        position += len(run)
    return torch.cat(places), torch.cat(which)
