r"""Spatially separable filters: a d x d convolution becomes a d x 1 and a 1 x d one.

Every kernel from input channel i to output o is approximated by a sum of R products of a column and a row, where all
outputs share the columns and all inputs the rows (jaderberg2014speeding, the second scheme),

.. math:: W_{o,i,:,:} \approx \sum_{k=1}^{R} h_{o,k}\, v_{k,i}^\top \qquad
          \Big(\text{entry } y, x:\ \sum_k v_{k,i,y}\, h_{o,k,x}\Big).

As a matrix with one row for each (i, y) and one column for each (o, x), the approximation is a product of rank R. So
the truncated singular value decomposition gives the best columns and rows. The d x 1 convolution has
R C_i d weights, the 1 x d one R C_o d. Padding, stride and dilation of the rows go to the first, those of the columns
to the second; the bias stays in the second. Shapes: W (C_o, C_i, d_y, d_x).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib.factorization import low_rank
from lib.factorization.shared import parts, rows
from lib.factorization.shared.rows import Replaced

KINDS = (nn.Conv2d,)


def matrix(weight: Tensor) -> Tensor:
    """Return the kernels (C_o, C_i, d_y, d_x) as a matrix (C_i d_y, C_o d_x).

    >>> tuple(matrix(torch.zeros(5, 3, 2, 4)).shape)
    (6, 20)
    """
    return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def rank_for(layer: nn.Conv2d, energy: float) -> int:
    """Return the smallest rank that keeps a given share of the squared singular values of a layer's matrix.

    layer: a two-dimensional convolution of one group.
    energy: the share, in (0, 1].

    Raises ValueError for another layer, for weights that are not finite, and for an energy out of range.
    """
    return rows.rank_for(torch.linalg.svdvals(matrix(rows.checked(layer, KINDS))), energy)


def factorize(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Replace a convolution by a column convolution and a row convolution; exact at the full rank.

    layer: a two-dimensional convolution of one group.
    rank: R, 1 to min(C_i d_y, C_o d_x).

    Returns a d_y x 1 convolution to R channels and a 1 x d_x one, which has the bias. The layer is left as it is.
    Raises ValueError for another layer or rank, and for weights that are not finite (jaderberg2014speeding).

    >>> factors = factorize(nn.Conv2d(4, 6, 3), rank=5)
    >>> [tuple(part.weight.shape) for part in factors]
    [(5, 4, 3, 1), (6, 5, 1, 3)]
    """
    weight = rows.checked(layer, KINDS)
    outputs, inputs, height, width = weight.shape
    # method
    left, right = low_rank.split(matrix(weight), rank)  # (C_i d_y, R), (R, C_o d_x)
    columns = left.T.reshape(rank, inputs, height, 1)  # v
    lines = right.reshape(rank, outputs, 1, width).transpose(0, 1)  # h
    # end of method
    down, across = parts.apart(layer)
    # method
    return parts.row(layer, parts.convolution(columns, **down), parts.convolution(lines, layer.bias, **across))
    # end of method


def factorize_model(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    layers: Iterable[str] | None = None,
) -> tuple[nn.Module, list[Replaced]]:
    """Copy the model and replace each convolution by a column and a row one, if these have fewer parameters.

    Exactly one of rank and energy must be given.

    model: any network; it is left as it is.
    rank: of every layer, cut to the layer's full rank; or layer name -> rank, for the layers that it names.
    energy: share in (0, 1] of the sum of squared singular values that each layer's rank must hold.
    layers: names of the layers to factorize; default: every two-dimensional convolution of one group that its owner
        calls.

    Returns the copy, and for each layer its ranks, its parameters before and after, and the reason if it cannot be
    factorized.
    Raises ValueError for both or neither of rank and energy, for ``layers`` given together with a mapping of ranks, for
    a name that the model does not have, a layer that cannot be factorized, and a weight that two layers share.

    >>> from lib import models
    >>> small, report = factorize_model(models.lenet5(), rank={"conv1": 2})
    >>> report[0].before, report[0].after
    (520, 230)
    """
    return rows.factorize_matrices(model, factorize, matrix, KINDS, rank=rank, energy=energy, layers=layers)
