r"""Low rank: one matrix becomes the product of two thin ones, the best of their size.

The singular value decomposition, cut after r values, is the matrix of rank r that is nearest to a weight
:math:`W \in \mathbb R^{m \times n}` (the theorem of Eckart and Young),

.. math:: W \approx \big(U_r \Sigma_r^{1/2}\big)\big(\Sigma_r^{1/2} V_r^\top\big), \qquad
          \lVert W - U_r \Sigma_r V_r^\top \rVert_F^2 = \sum_{i > r} \sigma_i^2,

so a linear layer of n inputs and m outputs becomes n -> r -> m, with r (m + n) weights instead of m n: smaller where
r < m n / (m + n) (denton2014exploiting). A convolution is taken as the matrix (outputs, inputs x kernel). It becomes r
filters with kernels of the same size, then a 1 x 1 convolution that mixes them. The bias stays in the second factor.
Nothing is trained here.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib.factorization.shared import parts, rows
from lib.factorization.shared.parts import Dense
from lib.factorization.shared.rows import Replaced

KINDS: tuple[type[Dense], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def matrix(weight: Tensor) -> Tensor:
    """Return the weight (outputs, inputs, kernel) as a matrix (outputs, inputs x kernel)."""
    return weight.flatten(1)


def split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Find the two thin matrices whose product is nearest to a matrix; each gets the root of the singular values.

    matrix: (m, n).
    rank: r, 1 to min(m, n).

    Returns the factors, (m, r) and (r, n). Raises ValueError for another rank.

    >>> left, right = split(torch.tensor([[3.0, 0], [0, 1]]), rank=1)
    >>> (left @ right).round(decimals=4).abs()
    tensor([[3., 0.],
            [0., 0.]])
    """
    # method
    u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = rows.checked_rank(rank, len(sigma))
    root = sigma[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]
    # end of method


def rank_for(layer: Dense, energy: float) -> int:
    """Return the smallest rank that keeps a given share of the sum of a layer's squared singular values.

    layer: linear, or a convolution of one group.
    energy: the share, in (0, 1].

    Raises ValueError for another layer, for weights that are not finite, and for an energy out of range.
    """
    return rows.rank_for(torch.linalg.svdvals(matrix(rows.checked(layer, KINDS))), energy)


def factorize(layer: Dense, rank: int) -> nn.Sequential:
    """Replace a layer by two in a row that compute its best approximation of the given rank; exact at full rank.

    layer: linear, or a convolution of one group; m outputs, n inputs (times the places of its kernel).
    rank: r, 1 to min(m, n).

    Returns n -> r -> m; the second layer has the bias. The layer itself is left as it is.
    Raises ValueError for another layer or rank, and for weights that are not finite (denton2014exploiting).

    >>> factors = factorize(nn.Linear(20, 10), rank=3)
    >>> [tuple(part.weight.shape) for part in factors]
    [(3, 20), (10, 3)]
    """
    weight = rows.checked(layer, KINDS)
    left, right = split(matrix(weight), rank)
    if isinstance(layer, nn.Linear):
        return parts.row(layer, parts.linear(right), parts.linear(left, layer.bias))
    first = parts.convolution(right.reshape(rank, *weight.shape[1:]), **parts.geometry(layer))
    mix = left.reshape(*left.shape, *[1] * (weight.dim() - 2))
    return parts.row(layer, first, parts.convolution(mix, layer.bias))


def factorize_model(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    layers: Iterable[str] | None = None,
) -> tuple[nn.Module, list[Replaced]]:
    """Copy the model and replace each layer by two thin ones, if these have fewer parameters.

    Exactly one of rank and energy must be given.

    model: any network; it is left as it is.
    rank: of every layer, cut to the layer's full rank; or layer name -> rank, for the layers that it names.
    energy: share in (0, 1] of the sum of squared singular values that each layer's rank must hold.
    layers: names of the layers to factorize; default: every linear layer and every convolution of one group that its
        owner calls.

    Returns the copy, and for each layer its ranks, its parameters before and after, and the reason if it cannot be
    factorized: packed weights of attention and recurrent layers are not layers, and a layer whose owner reads its
    weight directly is left alone.
    Raises ValueError for both or neither of rank and energy, for ``layers`` given together with a mapping of ranks, for
    a name that the model does not have, a layer that cannot be factorized, and a weight that two layers share.

    >>> from lib import models
    >>> small, report = factorize_model(models.lenet_300_100(), rank={"fc3": 5})
    >>> report[0].before, report[0].after
    (1010, 560)
    """
    return rows.factorize_matrices(model, factorize, matrix, KINDS, rank=rank, energy=energy, layers=layers)
