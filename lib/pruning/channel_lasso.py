r"""Channel pruning: choose the channels by a LASSO, and refit the weights that are kept by least squares.

With :math:`Z_c`, the contribution of channel c to the next layer's answers Y, the channels are chosen by

.. math:: \min_\beta \frac{1}{2N} \Big\lVert Y - \sum_c \beta_c Z_c \Big\rVert^2 + \lambda \lVert \beta \rVert_1,

raising :math:`\lambda` until at most c' of the :math:`\beta_c` are not zero. Then the next layer's weights are fitted
again to the answers of the original network, with the patches X' of the channels that are kept (he2017channel),

.. math:: W' = \arg\min_W \lVert Y - X' W^\top \rVert^2 .

The whole path in :math:`\lambda` is computed at once (least angle regression), from the matrix G of
:mod:`lib.pruning.shared.reconstruction` alone: :math:`Z^\top Z = G` and :math:`Z^\top Y = G\,1`, because :math:`Y =
\sum_c Z_c`. The weights W in Z are those of the trained network. They are not scaled to norm 1, so moving a factor from
one layer into the next, which does not change the function, does not change the scores either.

:func:`scores` and :func:`refit` choose in the whole network and repair it afterwards, so that all criteria can be
compared. The paper goes layer by layer, with Y from the whole network and Z from the one that is cut so far:
:func:`layer_by_layer`. Its additions for residual networks are left out: a sampler of channels in front of a block, and
a block's last layer that makes up for the error of the shortcut.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.pruning.shared import reconstruction, refitting
from lib.pruning.shared.cholesky import Cholesky
from lib.structure import Masks


def path(gram: Tensor, target: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""Compute the LASSO's solutions for all penalties at once: they are linear in the penalty between two steps.

    On each piece the coefficients of the active channels A, with signs s, are :math:`\beta = G_{AA}^{-1} (b_A - \lambda
    s)` with b = G 1 (Osborne et al., 2000; Efron et al., 2004): they grow by :math:`G_{AA}^{-1} s` as the penalty falls
    by 1. If several channels tie, non-negative least squares decides which of them enter. A channel that depends on
    active ones stays out while they are active. (``lars_path_gram`` of scikit-learn drops it for good, and can end
    elsewhere, depending on rounding.)

    gram: (channels, channels), the matrix G, float64. The penalty is in units of G.
    target: (channels,), b, float64, for a Y that is not the sum of all Z. Default None: G 1.

    Returns the penalties (steps,), falling from :math:`\max_c |G 1|_c`, at which all coefficients are 0, and the
    coefficients (channels, steps). A channel that contributes nothing stays at 0; so do all but one of several channels
    that are multiples of each other.
    Raises ValueError if the path has more than 20 steps for each channel.

    >>> penalties, coefficients = path(torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    >>> penalties.tolist(), coefficients[0].tolist()  # the first channel enters at once: 1 - penalty / 4
    ([4.0, 1.0, 0.0], [0.0, 0.75, 1.0])
    """
    live = (gram.diagonal() > 1e-12 * gram.diagonal().max().clamp_min(1e-300)).cpu().numpy()
    part = np.ascontiguousarray(gram.cpu().numpy()[live][:, live])
    goal = part.sum(1) if target is None else target.cpu().numpy()[live]
    penalty = abs(goal).max(initial=0.0)
    rounding = 1e-12 * (part.diagonal().max(initial=0.0) + penalty)
    factor, rows = Cholesky(len(part)), np.empty_like(part)  # of part[active][:, active]; part[active]
    active: list[int] = []
    correlation, signs, beta = goal, np.zeros(len(part)), np.zeros(len(part))
    penalties, steps = [penalty], [beta]
    while penalty > rounding:
        if len(steps) > 20 * len(part) + 20:
            raise ValueError(f"the path of {len(part)} channels has more than {len(steps)} steps: use fewer channels")
        tied = abs(correlation) >= penalty - rounding
        tied[active] = False
        signs[tied] = np.sign(correlation[tied])
        for channel in _entering(part, active, factor, signs, np.flatnonzero(tied)):
            factor.append(part[channel][active], part[channel, channel])
            rows[len(active)] = part[channel]
            active.append(channel)
        # method
        # as the penalty falls by one, beta grows by slope,
        # and the correlation falls by turn
        slope = factor.solve(signs[active])
        turn = slope @ rows[: len(active)]
        # end of method
        events = [np.zeros(1)]
        with np.errstate(divide="ignore", invalid="ignore"):
            for sign in (1, -1):  # a channel that stays out of a tie falls faster than the penalty on its own side
                joins = ~(tied & (signs == sign))
                joins[active] = False
                events.append(sign * (correlation - penalty * turn)[joins] / (1 - sign * turn[joins]))
            there = beta[active] != 0
            events.append(penalty + beta[active][there] / slope[there])
        event = np.concatenate(events)
        # method
        before, penalty = penalty, event[(event >= 0) & (event < penalty)].max()
        beta, correlation = beta.copy(), correlation - (before - penalty) * turn
        beta[active] += (before - penalty) * slope
        # end of method
        left = [place for place, value in enumerate(beta[active] * signs[active]) if value <= 1e-12]
        for place in reversed(left):
            beta[active.pop(place)] = 0
            factor.remove(place)
            rows[place : len(active)] = rows[place + 1 : len(active) + 1]
        if left or len(steps) % 32 == 0:  # so that rounding errors do not add up
            beta[active] = factor.solve(goal[active] - penalty * signs[active])
            correlation = goal - beta[active] @ rows[: len(active)]
        penalties.append(penalty)
        steps.append(beta)
    coefficients = np.zeros((len(gram), len(steps)))
    coefficients[live] = np.transpose(steps)
    return np.array(penalties), coefficients


def _entering(gram: np.ndarray, active: list[int], factor: Cholesky, signs: np.ndarray, tied: np.ndarray) -> list[int]:
    """Choose which of the tied channels become active, by non-negative least squares (Lawson and Hanson).

    It minimizes u^T S u / 2 - r^T u over u >= 0. S and r are what is left of the tied part of G and of its signs once
    the active channels have been eliminated. A channel of which nothing is left, up to rounding, depends on others and
    does not enter.
    """
    reduced = np.stack([factor.forward(gram[j][active] * signs[j]) for j in tied], 1) if len(tied) else np.zeros((0, 0))
    left = gram[np.ix_(tied, tied)] * np.outer(signs[tied], signs[tied]) - reduced.T @ reduced
    pull = 1 - reduced.T @ factor.forward(signs[active])
    u = np.zeros(len(tied))
    chosen: list[int] = []
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


def scores(
    model: nn.Module,
    split: Split,
    *,
    fraction: float | None = None,
    images: int = 200,
    places: int = 10,
    outputs: int = 64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score each filter by the penalty at which its channel leaves, as a share of the penalty at which all are gone.

    This gives one order for all fractions. The set that the LASSO chooses for a certain number may differ from it in a
    few channels, because a channel can leave, come back and leave again as the penalty changes. With a ``fraction``,
    this set comes first: ``keep(scores, fraction=fraction)`` then keeps exactly the paper's set. Layers that an
    addition ties get the same scores.

    model: any network that can be traced; it is left as it was.
    split: samples from which the contributions are measured; labels are not read.
    fraction: share of the filters that will be removed from each layer, in [0, 1), the number rounded down. Default
        None: no set is preferred.
    images: number of images to draw, 1 or more. Default 200.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them if there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns layer name -> (filters,) in [0, 1], larger = keep.
    Raises ValueError for a fraction out of range, an empty split, numbers out of range, inputs that are not finite, and
    a network that cannot be traced.
    Source: he2017channel.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> scores(model, split)["0"].max()  # the last channel to leave
    tensor(1.)
    """
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    matrices = reconstruction.grams(model, split, images=images, places=places, outputs=outputs, seed=seed)
    scored: dict[int, Tensor] = {}  # tied layers share one matrix
    for gram in matrices.values():
        if id(gram) not in scored:
            count = None if fraction is None else len(gram) - int(fraction * len(gram) + 1e-9)
            scored[id(gram)] = _scored(gram, None, count)
    return {name: scored[id(gram)].clone() for name, gram in matrices.items()}


def support(coefficients: np.ndarray, count: int) -> np.ndarray:
    """Find the channels that are left once the penalty, rising from 0, leaves at most ``count``.

    coefficients: (channels, steps), as :func:`path` returns them.
    count: largest number of channels, 0 or more.

    Returns (channels,) bool.

    >>> support(np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 1.0]]), 1).tolist()
    [True, False]
    """
    # method
    left = coefficients != 0
    return left[:, np.flatnonzero(left.sum(0) <= count)[-1]]
    # end of method


def _scored(gram: Tensor, target: Tensor | None, count: int | None) -> Tensor:
    penalties, coefficients = path(gram, target)
    score = np.zeros(len(gram))
    for channel, row in enumerate(coefficients != 0):
        if row.any():  # it is gone at the penalty of the step before its first nonzero one
            score[channel] = penalties[max(0, row.argmax() - 1)] / penalties[0]
    if count is not None:
        score = (score + support(coefficients, count)) / 2
    return torch.from_numpy(score).float().to(gram.device)


def refit(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    split: Split,
    *,
    ridge: float = 1e-6,
    images: int = 1000,
    places: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Refit the layers that read removed channels by least squares, in a masked copy of the model.

    The layers get their weights one after the other, from first to last, so that an error of an earlier layer is
    corrected. Shrink the copy with the same masks afterwards.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True = keep, from the scores of any criterion.
    split: samples to fit to; labels are not read.
    ridge: penalty on the change of the weights, as a share of the mean square of an input, 1e-12 or more and finite. It
        keeps the weights near their old values if there are fewer samples than weights. The paper has none; below 1e-12
        rounding errors win. Default 1e-6.
    images: number of images to draw, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    seed: seed of the draws. Default 0.

    Returns the copy, of the size of the model.
    Raises ValueError for a ridge out of range, an empty split, numbers out of range, and masks that
    :func:`lib.structure.mask` refuses.
    Source: he2017channel.
    """
    solve = _ridged(ridge)
    return refitting.reconstruct(model, masks, split, solve, images=images, places=places, seed=seed)


def layer_by_layer(
    model: nn.Module,
    split: Split,
    *,
    fraction: float,
    tied: bool = False,
    ridge: float = 1e-6,
    images: int = 200,
    fit_images: int = 1000,
    places: int = 10,
    outputs: int = 64,
    seed: int = 0,
) -> tuple[nn.Module, Masks]:
    """Prune as the paper does: choose the channels of one layer, refit the next, and go on with the result.

    A layer keeps the channels that the LASSO chooses for this number. The next layer reads its inputs in the network as
    cut so far, and is fitted to its answers in the model.

    model: any network that can be traced; it is left as it was.
    split: samples to choose with and to fit to; labels are not read.
    fraction: share of the filters to remove from every layer, in [0, 1); the number is rounded down.
    tied: whether layers that an addition ties lose filters as well. Default False: the sums of residual blocks stay
        whole.
    ridge: penalty on the change of the weights, as in :func:`refit`. Default 1e-6.
    images: number of images to draw for the choice, 1 or more. Default 200.
    fit_images: number of images to draw for the fit, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them if there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns a masked copy of the model, and the masks; shrink the copy with them.
    Raises ValueError for a fraction out of range, a model that has no layer to prune, and what :func:`refit` refuses.
    Source: he2017channel.

    >>> from lib import models
    >>> split = Split(torch.rand(8, 1, 28, 28), torch.zeros(8, dtype=torch.long))
    >>> masked, masks = layer_by_layer(models.lenet5(), split, fraction=0.9)
    >>> masks
    Masks(removed: conv1 18 of 20, conv2 45 of 50, fc1 450 of 500)
    """
    return refitting.layer_by_layer(
        model,
        split,
        _scored,
        _ridged(ridge),
        fraction=fraction,
        tied=tied,
        images=images,
        fit_images=fit_images,
        places=places,
        outputs=outputs,
        seed=seed,
    )


def _ridged(ridge: float) -> refitting.Solve:
    if not 1e-12 <= ridge < np.inf:
        raise ValueError(f"ridge must be 1e-12 or more and finite, not {ridge}")
    return partial(least_squares, ridge=ridge)


def least_squares(patches: Tensor, answers: Tensor, weight: Tensor, channel: Tensor, *, ridge: float) -> Tensor:
    r"""Fit the weight of one layer to its answers: :math:`W + (X^\top X + r I)^{-1} X^\top (Y - X W^\top)`.

    patches: (n, inputs, k), what the layer reads; k is the number of positions of the kernel.
    answers: (n, outputs), what it should answer, without the bias.
    weight: (outputs, inputs, k).
    channel: (inputs,) number of the channel that an input belongs to; not needed here, only by other repairs.
    ridge: the penalty r, as a share of the mean square of an input.

    Returns the new weight, (outputs, inputs, k).
    """
    x, w = patches.flatten(1), weight.flatten(1)
    if len(x) < x.shape[1] > 2**11:  # (X^T X + r I)^-1 X^T = X^T (X X^T + r I)^-1, and fewer equations
        penalty = ridge * x.square().sum(0).mean().clamp_min(1e-200)
        dual = x @ x.T + penalty * torch.eye(len(x), dtype=x.dtype, device=x.device)
        change = x.T @ torch.cholesky_solve(answers - x @ w.T, torch.linalg.cholesky(dual))
        return (w + change.T).reshape(weight.shape)
    # method
    square = x.T @ x
    penalty = ridge * square.diagonal().mean().clamp_min(1e-200)
    system = square + penalty * torch.eye(len(square), dtype=square.dtype, device=x.device)
    change = torch.cholesky_solve(x.T @ (answers - x @ w.T), torch.linalg.cholesky(system))
    return (w + change.T).reshape(weight.shape)
    # end of method
