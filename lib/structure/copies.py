"""Make the masked and the smaller copy of a network: what each layer loses, and its tensors without that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.structure.apart import copied
from lib.structure.group import CONVOLUTION, Group, depthwise

Cut = tuple[Group, Tensor]  # a group, and (channels,) bool, True where a channel goes


@dataclass
class Loss:
    """What one layer loses: True where something is removed, None if nothing is.

    rows: (filters or channels,) bool, of what it computes or carries.
    columns: (inputs,) bool, of what it reads.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None


def losses(model: nn.Module, cuts: Sequence[Cut]) -> dict[str, Loss]:
    """Collect what each layer loses.

    model: the network of the groups.
    cuts: groups, each with its removed channels.

    Returns layer name -> its loss.

    >>> group = Group(3, ("0",), {}, {"1": torch.arange(3)[:, None]})
    >>> model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    >>> {name: (loss.rows, loss.columns) for name, loss in losses(model, [(group, torch.arange(3) < 1)]).items()}
    {'0': (tensor([ True, False, False]), None), '1': (None, tensor([ True, False, False]))}
    """
    result: dict[str, Loss] = {}
    for group, removed in cuts:
        for name in group.producers:
            result.setdefault(name, Loss()).rows = removed
        for name, numbers in group.carriers.items():
            layer: Any = model.get_submodule(name)
            loss = result.setdefault(name, Loss())
            if loss.rows is None:
                loss.rows = torch.zeros(getattr(layer, outputs(layer)), dtype=torch.bool)
            loss.rows[numbers[removed].flatten()] = True
        for name, numbers in group.consumers.items():
            layer, loss = model.get_submodule(name), result.setdefault(name, Loss())
            if loss.columns is None:
                loss.columns = torch.zeros(getattr(layer, inputs(layer)), dtype=torch.bool)
            loss.columns[numbers[removed].flatten()] = True
    return result


def check_parts(model: nn.Module, cuts: Sequence[Cut]) -> None:
    """Raise ValueError if the groups of a grouped convolution would keep different numbers of channels, or none.

    model: the network of the groups.
    cuts: groups, each with its removed channels.

    >>> group = Group(4, ("0",), {}, {"1": torch.arange(4)[:, None]})
    >>> check_parts(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1, groups=2)), [(group, torch.arange(4) % 2 < 1)])
    """
    for name, loss in losses(model, cuts).items():
        layer = model.get_submodule(name)
        if isinstance(layer, CONVOLUTION) and layer.groups > 1 and not depthwise(layer):
            for gone in (loss.rows, loss.columns):
                kept = [] if gone is None else (~gone).reshape(layer.groups, -1).sum(1).tolist()
                if len(set(kept)) > 1 or 0 in kept:
                    raise ValueError(
                        f"the {layer.groups} groups of convolution {name!r} cannot be cut equally:"
                        f" they would keep {kept} channels"
                    )


def smaller(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """Copy a network without the removed channels; parameters that were frozen stay frozen.

    model: it is left as it was.
    cuts: groups, each with its removed channels, the same number in each part of a grouped convolution
        (:func:`check_parts`).

    Raises ValueError for a network that cannot be copied.

    >>> group = Group(3, ("0",), {}, {"1": torch.arange(3)[:, None]})
    >>> smaller(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [(group, torch.arange(3) < 1)])
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Linear(in_features=2, out_features=2, bias=True)
    )
    """

    def without_columns(weight: Tensor, gone: Tensor) -> Tensor:
        blocks = zip(weight.chunk(len(gone)), gone, strict=True)
        return torch.cat([_without(block, these, 1) for block, these in blocks])

    lost = losses(model, cuts)
    small = _changed(model, lost, without_columns, lambda values, gone: _without(values, gone, 0))
    for name, loss in lost.items():
        layer: Any = small.get_submodule(name)
        if loss.columns is not None:
            setattr(layer, inputs(layer), int((~loss.columns).sum()))
        if loss.rows is not None:
            names = ("in_channels", "out_channels", "groups") if depthwise(layer) else (outputs(layer),)
            for attribute in names:
                setattr(layer, attribute, int((~loss.rows).sum()))
    return small


def masked(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """Copy a network, with zeros in everything that belongs to the removed channels; nothing gets smaller.

    model: it is left as it was.
    cuts: groups, each with its removed channels, the same number in each part of a grouped convolution
        (:func:`check_parts`).

    Raises ValueError for a network that cannot be copied.

    >>> group = Group(3, ("0",), {}, {"1": torch.arange(3)[:, None]})
    >>> copy = masked(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [(group, torch.arange(3) < 1)])
    >>> [int(value.count_nonzero()) for value in copy.parameters()]  # of 6, 3, 6 and 2
    [4, 2, 4, 2]
    """

    def clear_columns(weight: Tensor, gone: Tensor) -> Tensor:
        blocks = zip(weight.chunk(len(gone)), gone, strict=True)
        return torch.cat([block.index_fill(1, these.nonzero().flatten(), 0) for block, these in blocks])

    def clear_rows(values: Tensor, gone: Tensor) -> Tensor:
        return values.index_fill(0, gone.nonzero().flatten(), 0)

    return _changed(model, losses(model, cuts), clear_columns, clear_rows, ("weight", "bias"))


def inputs(layer: nn.Module) -> str:
    """Return the name of the attribute that holds how many inputs a layer reads.

    >>> inputs(nn.Linear(2, 3)), inputs(nn.Conv2d(2, 3, 1))
    ('in_features', 'in_channels')
    """
    return "in_features" if isinstance(layer, nn.Linear) else "in_channels"


def outputs(layer: nn.Module) -> str:
    """Return the name of the attribute that holds how many channels a layer computes or carries.

    >>> outputs(nn.Linear(2, 3)), outputs(nn.Conv2d(2, 3, 1)), outputs(nn.BatchNorm2d(3)), outputs(nn.PReLU(3))
    ('out_features', 'out_channels', 'num_features', 'num_parameters')
    """
    names = ("out_features", "out_channels", "num_features", "num_parameters")
    return next(name for name in names if hasattr(layer, name))


def _without(values: Tensor, gone: Tensor, axis: int) -> Tensor:
    return values.index_select(axis, (~gone).nonzero().flatten())


def _changed(
    model: nn.Module,
    lost: Mapping[str, Loss],
    at_columns: Callable[[Tensor, Tensor], Tensor],
    at_rows: Callable[[Tensor, Tensor], Tensor],
    names: Sequence[str] = ("weight", "bias", "running_mean", "running_var"),
) -> nn.Module:
    """A copy with new tensors in the layers that lose something; tensors to be replaced are not copied first."""
    instead: dict[int, Tensor] = {}
    for name, loss in lost.items():
        layer: Any = model.get_submodule(name)
        for slot in names:
            old = getattr(layer, slot, None)
            if old is None:
                continue
            new = old.detach()
            if loss.columns is not None and slot == "weight":
                by_part = loss.columns.reshape(getattr(layer, "groups", 1), -1)  # of a grouped convolution
                new = at_columns(new, by_part.to(new.device))
            if loss.rows is not None:
                new = at_rows(new, loss.rows.to(new.device))
            if new is not old and (loss.rows is not None or slot == "weight"):
                instead[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    return copied(model, instead)
