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

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from scipy.linalg import cho_solve, solve_triangular
from torch import Tensor, nn

from lib.datasets import Split
from lib.pruning.shared import reconstruction


def path(gram: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Penalties (steps,), falling, and coefficients (channels, steps): the solution is linear between two steps.

    gram: (channels, channels). The penalty is in units of G: nothing is left at :math:`\\max_c |G 1|_c`. Channels that
    contribute nothing stay at 0, and so does, of channels that are multiples of each other, all but one.

    On each piece the coefficients of the active channels A, of signs s, are :math:`\\beta = G_{AA}^{-1} (b_A - \\lambda
    s)` with b = G 1 (Osborne et al., 2000; Efron et al., 2004). Where several channels tie, least squares without
    negative coefficients says which of them enter; a channel that depends on active ones stays out while they are
    active. (``lars_path_gram`` of scikit-learn drops it for good, and can end elsewhere, depending on the rounding.)

    Raises ValueError where the path has more than 20 steps for each channel.
    """
    live = (gram.diagonal() > 1e-12 * gram.diagonal().max().clamp_min(1e-300)).numpy()
    part = gram.numpy()[live][:, live]
    target = part.sum(1)
    penalty = abs(target).max(initial=0.0)
    rounding = 1e-12 * (part.diagonal().max(initial=0.0) + penalty)
    active, root, beta = np.zeros(0, int), np.zeros((0, 0)), np.zeros(len(part))  # part[active, active] = root root^T
    penalties, steps = [penalty], [beta]
    while penalty > rounding:
        if len(steps) > 20 * len(part) + 20:
            raise ValueError(f"the path of {len(part)} channels has more than {len(steps)} steps: use fewer channels")
        correlation = target - part @ beta
        signs = np.sign(correlation)
        tied = np.flatnonzero(abs(correlation) >= penalty - rounding)
        tied = tied[~np.isin(tied, active)]
        for channel in _entering(part, active, root, signs, tied):
            active, root = np.append(active, channel), _extended(root, part[active, channel], part[channel, channel])
        # beta = start - penalty slope on this piece, and the correlation is rest + penalty turn
        start, slope = np.zeros((2, len(part)))
        solved = cho_solve((root, True), np.stack([target[active], signs[active]], 1), check_finite=False)
        start[active], slope[active] = solved.T
        rest, turn = target - part @ start, part @ slope
        inside, waiting = np.zeros((2, len(part)), bool)
        inside[active], waiting[tied] = True, True
        events = [0.0]
        with np.errstate(divide="ignore", invalid="ignore"):
            for sign in (1, -1):  # a channel that stays out of a tie falls faster than the penalty on its own side
                joins = ~inside & ~(waiting & (signs == sign))
                events += list(sign * rest[joins] / (1 - sign * turn[joins]))
            events += list((start / slope)[beta != 0])
        penalty = max(event for event in events if 0 <= event < penalty)
        beta = start - penalty * slope
        beta[beta * signs <= 1e-12] = 0
        if not beta[active].all():
            active = active[beta[active] != 0]
            root = np.linalg.cholesky(part[np.ix_(active, active)])
        penalties.append(penalty)
        steps.append(beta)
    coefficients = np.zeros((len(gram), len(steps)))
    coefficients[live] = np.transpose(steps)
    return np.array(penalties), coefficients


def _entering(gram: np.ndarray, active: np.ndarray, root: np.ndarray, signs: np.ndarray, tied: np.ndarray) -> list[int]:
    """Which of the tied channels become active: non-negative least squares (Lawson and Hanson) given the active ones.

    With S the part of G that the active channels leave of the tied ones, and r that of the signs, it minimizes
    u^T S u / 2 - r^T u over u >= 0. A channel that is left nothing, to rounding, depends on others and does not enter.
    """
    reduced = solve_triangular(root, gram[np.ix_(active, tied)] * signs[tied], lower=True, check_finite=False)
    left = gram[np.ix_(tied, tied)] * np.outer(signs[tied], signs[tied]) - reduced.T @ reduced
    pull = 1 - reduced.T @ solve_triangular(root, signs[active], lower=True, check_finite=False)
    u, chosen = np.zeros(len(tied)), []
    while True:
        known = np.linalg.solve(left[np.ix_(chosen, chosen)], left[chosen])
        pivots = left.diagonal() - (left[chosen] * known).sum(0)
        gain = np.where(pivots > 1e-12 * gram[tied, tied], pull - left @ u, 0)
        gain[chosen] = 0
        if not (gain > 1e-9).any():
            return [int(tied[place]) for place in chosen]
        chosen.append(int(gain.argmax()))
        while (best := np.linalg.solve(left[np.ix_(chosen, chosen)], pull[chosen])).min(initial=1.0) <= 0:
            now = u[chosen]
            falls = best <= 0
            share = (now[falls] / (now[falls] - best[falls])).min()
            u[chosen] = now + share * (best - now)
            chosen = [place for place in chosen if u[place] > 1e-14]
            u[[place for place in range(len(u)) if place not in chosen]] = 0
        u[chosen] = best


def _extended(root: np.ndarray, column: np.ndarray, corner: float) -> np.ndarray:
    """The Cholesky factor of a matrix with one more row and column."""
    row = solve_triangular(root, column, lower=True, check_finite=False)
    last = np.sqrt(corner - row @ row)
    return np.block([[root, np.zeros((len(row), 1))], [row[None], np.array([[last]])]])


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
