r"""Spatially separable filters: a d x d convolution becomes a d x 1 and a 1 x d one.

Every kernel from input channel i to output o is a sum of R products of a column and a row, the columns shared by all
outputs and the rows by all inputs (jaderberg2014speeding, the second scheme),

.. math:: W_{o,i,:,:} \approx \sum_{k=1}^{R} h_{o,k}\, v_{k,i}^\top \qquad
          \Big(\text{entry } y, x:\ \sum_k v_{k,i,y}\, h_{o,k,x}\Big).

As a matrix with one row for each (i, y) and one column for each (o, x), W is a product of rank R, so the truncated
singular value decomposition gives the columns and rows that are nearest to it. The d x 1 convolution has
R C_i d weights, the 1 x d one R C_o d. Padding, stride and dilation of the rows go to the first, those of the columns
to the second; the bias stays in the second. Shapes: W (C_o, C_i, d_y, d_x).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib.factorization import low_rank
from lib.factorization.shared import rows
from lib.factorization.shared.rows import Replaced

KINDS = (nn.Conv2d,)


def matrix(weight: Tensor) -> Tensor:
    """The kernels (C_o, C_i, d_y, d_x) as a matrix (C_i d_y, C_o d_x)."""
    return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def rank_for(layer: nn.Conv2d, energy: float) -> int:
    """The smallest rank that holds the share ``energy`` in (0, 1] of the sum of the squared singular values."""
    return rows.rank_for(torch.linalg.svdvals(matrix(rows.checked(layer, KINDS))), energy)


def factorize(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """A column convolution and a row convolution; exact at the full rank, min(C_i d_y, C_o d_x).

    layer: a two-dimensional convolution of one group. Raises ValueError for anything else and for a rank out of range.
    """
    weight = rows.checked(layer, KINDS)
    outputs, inputs, height, width = weight.shape
    left, right = low_rank.split(matrix(weight), rank)  # (C_i d_y, R), (R, C_o d_x)
    columns = left.T.reshape(rank, inputs, height, 1)  # v
    lines = right.reshape(rank, outputs, 1, width).transpose(0, 1)  # h
    down, across = rows.apart(layer)
    return rows.row(layer, rows.convolution(columns, **down), rows.convolution(lines, layer.bias, **across))


def compress(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    layers: Iterable[str] | None = None,
) -> tuple[nn.Module, list[Replaced]]:
    """A copy of the model with its convolutions in two factors each, where that is smaller; and what became of each.

    Exactly one of rank (one for all layers, cut to a layer's full rank, or one for each layer of a mapping) and energy
    (:func:`rank_for`). layers: names; by default every two-dimensional convolution of one group.
    """
    if (rank is None) == (energy is None):
        raise ValueError("give exactly one of rank and energy")

    def form(name: str, layer: nn.Module) -> tuple[nn.Sequential, tuple[int, ...]]:
        most = min(matrix(layer.weight).shape)
        chosen = rank_for(layer, energy) if rank is None else rows.chosen_rank(rank, name, most)
        return factorize(layer, chosen), (chosen,)

    return rows.compress(model, form, KINDS, rank if layers is None and isinstance(rank, Mapping) else layers)
