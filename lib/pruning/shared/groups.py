"""The groups of filters that a criterion scores."""

from torch import nn

from lib import structure
from lib.datasets import Split
from lib.structure import Group


def groups_of(model: nn.Module, split: Split) -> list[Group]:
    """List the groups of filters that a criterion may score.

    model: any network that can be traced, with dense weights; it is left as it was.
    split: its first image traces the network.

    Returns the groups of :func:`lib.structure.groups`, in the order in which the model holds their first layers.
    Raises ValueError for an empty split and for a network that cannot be traced.

    >>> import torch
    >>> from lib import models
    >>> split = Split(torch.zeros(1, 1, 28, 28), torch.tensor([0]))
    >>> [group.producers for group in groups_of(models.lenet5(), split)]
    [('conv1',), ('conv2',), ('fc1',)]
    """
    split.check_not_empty("to score filters")
    return structure.groups(model, split.images[:1])
