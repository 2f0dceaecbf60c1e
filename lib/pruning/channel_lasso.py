r"""Channel pruning by a LASSO on the channels, and least squares on the weights that stay.

With :math:`Z_c`, the contribution of channel c to the next layer's answers Y, the channels are chosen by

.. math:: \min_\beta \frac{1}{2N} \Big\lVert Y - \sum_c \beta_c Z_c \Big\rVert^2 + \lambda \lVert \beta \rVert_1,

raising :math:`\lambda` until no more than c' of the :math:`\beta_c` are left. Then the next layer's weights are fitted
anew to the answers of the original network, with the patches X' of the channels that stay (he2017channel),

.. math:: W' = \arg\min_W \lVert Y - X' W^\top \rVert^2 .

The whole path in :math:`\lambda` is computed at once (least angle regression), from the matrix G of
:mod:`lib.reconstruction` alone: :math:`Z^\top Z = G` and :math:`Z^\top Y = G\,1`, as :math:`Y = \sum_c Z_c`.
The weights W in Z are those of the trained network, not brought to norm 1, so that moving a factor from one layer into
the next, which does not change the function, does not change the scores either.
"""

import warnings
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from lib import reconstruction
from lib.datasets import Split


def path(gram: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Penalties (steps,), falling, and coefficients (channels, steps): the solution is linear between two steps.

    gram: (channels, channels). The penalty is in units of G: nothing is left at :math:`\\max_c |G 1|_c`. Channels that
    contribute nothing stay at 0, and so does, of channels that are multiples of each other, all but one.
    """
    live = gram.diagonal() > 1e-12 * gram.diagonal().max().clamp_min(1e-300)
    coefficients = np.zeros((len(gram), 1))
    if not live.any():
        return np.zeros(1), coefficients
    part = gram[live][:, live].numpy()
    with warnings.catch_warnings():  # it drops multiples of other channels, and says so
        warnings.simplefilter("ignore", ConvergenceWarning)
        penalties, _, active = lars_path_gram(
            Xy=part.sum(1), Gram=part, n_samples=1, method="lasso", max_iter=20 * len(part)
        )
    coefficients = np.zeros((len(gram), len(penalties)))
    coefficients[live.numpy()] = active
    return penalties, coefficients


def scores(
    model: nn.Module, data: Split, *, images: int = 200, places: int = 10, outputs: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Layer name -> (filters,) in [0, 1]: the penalty at which a channel leaves, as a share of that which empties all.

    images, places, outputs: what is sampled, see :func:`lib.reconstruction.grams`. Layers that an addition ties have
    the same scores. Raises ValueError for an empty split.
    """
    found = {}
    for name, gram in reconstruction.grams(
        model, data, images=images, places=places, outputs=outputs, seed=seed
    ).items():
        penalties, coefficients = path(gram)
        score = np.zeros(len(gram))
        for channel, row in enumerate(coefficients != 0):
            if row.any():  # it is left on the way from the step before the first at which it is not zero
                score[channel] = penalties[max(0, row.argmax() - 1)] / penalties[0]
        found[name] = torch.from_numpy(score).float()
    return found


def refit(
    model: nn.Module, masks: Mapping[str, Tensor], data: Split, *, ridge: float = 1e-6, **sampling: int
) -> nn.Module:
    """A masked copy of the model whose next layers have least-squares weights for the channels that stay.

    masks: from the scores of any criterion. sampling: images, places and seed of
        :func:`lib.reconstruction.reconstruct`, which goes through the network from first to last layer.
    ridge: penalty on the change of the weights, as a share of the mean square of an input: where there are fewer
        samples than weights, the weights stay near those they were. The paper has none; below 1e-12 rounding wins, and
        ValueError is raised.
    """
    if not 1e-12 <= ridge < np.inf:
        raise ValueError(f"ridge must be 1e-12 or more and finite, not {ridge}")
    return reconstruction.reconstruct(model, masks, data, partial(least_squares, ridge=ridge), **sampling)


def least_squares(patches: Tensor, answers: Tensor, weight: Tensor, channel: Tensor, *, ridge: float) -> Tensor:
    """W + (X^T X + r I)^-1 X^T (Y - X W^T). Shapes as in :func:`lib.reconstruction.reconstruct`."""
    x, w = patches.flatten(1), weight.flatten(1)
    square = x.T @ x
    penalty = ridge * square.diagonal().mean().clamp_min(1e-12)
    system = square + penalty * torch.eye(len(square), dtype=square.dtype)
    change = torch.cholesky_solve(x.T @ (answers - x @ w.T), torch.linalg.cholesky(system))
    return (w + change.T).reshape(weight.shape)
