r"""Low rank: one matrix becomes the product of two thin ones, the best there are for their size.

The singular value decomposition, cut after r values, is the matrix of rank r that is nearest to a weight
:math:`W \in \mathbb R^{m \times n}` (the theorem of Eckart and Young),

.. math:: W \approx \big(U_r \Sigma_r^{1/2}\big)\big(\Sigma_r^{1/2} V_r^\top\big), \qquad
          \lVert W - U_r \Sigma_r V_r^\top \rVert_F^2 = \sum_{i > r} \sigma_i^2,

so a linear layer of n inputs and m outputs becomes n -> r -> m, with r (m + n) weights instead of m n: smaller where
r < m n / (m + n) (denton2014exploiting). A convolution is the matrix (outputs, inputs x kernel): r filters of the same
kernel, then a 1 x 1 convolution that mixes them. The bias stays in the second factor. Nothing is trained here.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib.factorization.shared import rows
from lib.factorization.shared.rows import Replaced

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of an (m, rank) and a (rank, n) matrix; both carry the root of the singular values."""
    u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
    root = sigma[: rows.checked_rank(rank, len(sigma))].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def rank_for(layer: nn.Module, energy: float) -> int:
    """The smallest rank that holds the share ``energy`` in (0, 1] of the sum of the squared singular values."""
    return rows.rank_for(torch.linalg.svdvals(rows.checked(layer, KINDS).flatten(1)), energy)


def factorize(layer: nn.Module, rank: int) -> nn.Sequential:
    """Two layers in a row that compute the layer's best approximation of this rank, exact at the full one.

    layer: linear, or a convolution of one group. rank: 1 to min(m, n). Raises ValueError for anything else.
    """
    weight = rows.checked(layer, KINDS)
    left, right = split(weight.flatten(1), rank)
    if isinstance(layer, nn.Linear):
        return rows.row(layer, rows.linear(right), rows.linear(left, layer.bias))
    first = rows.convolution(right.reshape(rank, *weight.shape[1:]), **rows.geometry(layer))
    mix = left.reshape(*left.shape, *[1] * (weight.dim() - 2))
    return rows.row(layer, first, rows.convolution(mix, layer.bias))


def compress(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int] | None = None,
    energy: float | None = None,
    layers: Iterable[str] | None = None,
) -> tuple[nn.Module, list[Replaced]]:
    """A copy of the model with the layers in two factors each, where that is smaller; and what became of each layer.

    Exactly one of rank (one for all layers, cut to a layer's full rank, or one for each layer of a mapping) and energy
    (:func:`rank_for`). layers: names; by default every linear layer and every convolution of one group.
    """
    if (rank is None) == (energy is None):
        raise ValueError("give exactly one of rank and energy")

    def form(name: str, layer: nn.Module) -> tuple[nn.Sequential, tuple[int, ...]]:
        most = min(layer.weight.flatten(1).shape)
        chosen = rank_for(layer, energy) if rank is None else rows.chosen_rank(rank, name, most)
        return factorize(layer, chosen), (chosen,)

    return rows.compress(model, form, KINDS, rank if layers is None and isinstance(rank, Mapping) else layers)
