"""The groups of filters that a criterion scores."""

from torch import nn

from lib import structure
from lib.datasets import Split
from lib.structure import Group


def groups_of(model: nn.Module, data: Split) -> list[Group]:
    """The groups of the network, by the first image of the split, which must not be empty."""
    if len(data) == 0:
        raise ValueError("the split is empty: at least one sample is needed to score filters")
    return structure.groups(model, data.images[:1])
