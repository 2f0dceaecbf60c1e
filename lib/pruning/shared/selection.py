"""Which entries are kept: the largest."""

import torch
from torch import Tensor


def largest(magnitude: Tensor, share: float) -> Tensor:
    """Bool mask of the given share of the entries, the largest (of ties the first); zeros are never in it."""
    keep = max(1, round(share * magnitude.numel()))
    order = magnitude.flatten().argsort(descending=True, stable=True)[:keep]
    mask = torch.zeros(magnitude.numel(), dtype=torch.bool)
    mask[order] = True
    return mask.reshape(magnitude.shape) & (magnitude > 0)
