r"""How many bits a surviving weight costs in a context-coded file: a rate that pruning can weigh against the loss.

A code of zeros and survivors spends about :math:`\log_2 (1 - p) / p` bits more on a survivor than on a zero, where p is
the probability with which it expects a survivor. The code of :mod:`lib.coding.context` expects survivors near others:
in the same row, in the same column and next to each other in a picture. So a survivor far from all others costs most.
"""

from math import prod

import torch
from torch import Tensor, nn

VALUE_BITS = 2.5  # of a survivor's sign and size: a sign is a bit, and most sizes are one step or two
ANSWERS = 8.0  # how many weights of average density are counted in each row and column besides its own
LOWEST, HIGHEST = 1e-4, 0.5  # the code is assumed to reach probabilities between these
NEIGHBORS = torch.tensor([[0.5, 1.0, 0.5], [1.0, 0.0, 1.0], [0.5, 1.0, 0.5]])


@torch.no_grad()
def survivor_bits(mask: Tensor, picture: tuple[int, ...] = ()) -> Tensor:
    r"""Estimate how many more bits each weight takes in the file as a survivor than as a zero.

    .. math:: r = \log_2 \frac{1 - p}{p} + 2.5, \qquad
        \frac{p}{1 - p} = \frac{d}{1 - d} \cdot \frac{d_{row}}{d} \cdot \frac{d_{column}}{d} \cdot
        \sqrt{\frac{d_{near}}{d}},

    with the share d of survivors in the layer, in the weight's row (what one unit reads), in its column, and among its
    eight neighbors. Each share also counts a few weights of the layer's average share, so that no share is zero. If
    rows are pictures, a column's share is averaged over its neighbors, too.

    mask: (out, ...), 1 for survivors and 0 for zeros; for a zero, the result is what it would take as a survivor.
    picture: shape of the images that the network reads, (channels, height, width). A row of as many weights is a
        picture; otherwise, and by default, weights have no neighbors.

    Returns bits in the shape of the mask, float32, 2.5 or more. Raises ValueError for a mask without rows.

    >>> mask = torch.zeros(4, 100)
    >>> mask[0, :50] = 1
    >>> bits = survivor_bits(mask)
    >>> bool(bits[0, 0] < bits[0, 99] < bits[3, 99])  # beside others; in a busy row; alone
    True
    """
    if mask.dim() < 1 or not mask.numel():
        raise ValueError(f"mask must have one row or more, not the shape {tuple(mask.shape)}")
    # method
    flat = mask.float().flatten(1) if mask.dim() > 1 else mask.float()[None]
    rows, columns = flat.shape
    mean = flat.mean().clamp(1e-6, 1 - 1e-6)
    column, near = flat.mean(0), mean.expand(rows, columns)
    if len(picture) == 3 and mask.dim() == 2 and columns == prod(picture):
        around = NEIGHBORS.clone()
        near = _blurred(flat, around, picture)
        around[1, 1] = 1.0
        column = _blurred(column[None], around, picture)[0]
    row = (flat.sum(1, keepdim=True) + ANSWERS * mean) / (columns + ANSWERS)
    column = (column * rows + ANSWERS * mean) / (rows + ANSWERS)
    near = (6 * near + 2 * mean) / 8
    odds = mean / (1 - mean) * (row / mean) * (column / mean) * (near / mean).sqrt()
    chance = (odds / (1 + odds)).clamp(LOWEST, HIGHEST)
    # end of method
    return (((1 - chance) / chance).log2() + VALUE_BITS).reshape(mask.shape)


def _blurred(rows: Tensor, around: Tensor, picture: tuple[int, ...]) -> Tensor:
    """The weighted mean of each pixel and those around it; zeros lie beyond the border."""
    channels, height, width = picture
    maps = rows.reshape(len(rows) * channels, 1, height, width)
    return nn.functional.conv2d(maps, (around / around.sum())[None, None], padding=1).reshape(rows.shape)
