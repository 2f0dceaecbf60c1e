"""The groups of filters that a criterion scores, and the filters of a layer."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lib import structure, weights
from lib.datasets import Split
from lib.pruning.shared.products import products
from lib.structure import Group


def groups_of(model: nn.Module, split: Split) -> list[Group]:
    """List the groups of filters that a criterion may score.

    Layers that only compute a gate, a factor by which the channels are scaled as in squeeze-and-excitation, are left
    out of ``producers``: they do not make the channels. Their filters still go with the channels.

    model: any network that can be traced, with dense weights; it is left as it was.
    split: its first image traces the network.

    Returns the groups of :func:`lib.structure.groups`, in the order in which the model holds their first layers.
    Raises ValueError for an empty split, for a network that cannot be traced, and for one without filters that can go.

    >>> from lib import models
    >>> split = Split(torch.zeros(1, 1, 28, 28), torch.tensor([0]))
    >>> [group.producers for group in groups_of(models.lenet5(), split)]
    [('conv1',), ('conv2',), ('fc1',)]
    """
    split.check_not_empty("to score filters")
    groups = structure.groups(model, split.images[:1])
    if not groups:
        raise ValueError(f"{type(model).__name__} has no layer whose filters can go: there is nothing to score")
    tied = [name for group in groups if len(group.producers) > 1 for name in group.producers]
    if not tied:
        return groups
    names = [name for group in groups for name in group.producers]
    gates = {name for product in products(model, split.images[:1], names) if product for name in product.layers}
    made = [tuple(name for name in group.producers if name not in gates) for group in groups]
    return [replace(group, producers=names or group.producers) for group, names in zip(groups, made, strict=True)]


def filters(model: nn.Module, name: str) -> Tensor:
    """Return the filters of a layer, one per row.

    model: any network.
    name: name of one of its layers with a weight.

    Returns (filters, weights), float32 or float64.
    Raises ValueError for a layer that does not exist and for weights that are not finite.

    >>> filters(nn.Sequential(nn.Conv2d(3, 8, 5)), "0").shape
    torch.Size([8, 75])
    """
    weight = weights.layer_named(model, name).weight.detach()
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weights of layer {name!r} hold NaN or infinity: finite weights are needed")
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
