r"""Tucker decomposition of the channels: a small convolution between two 1 x 1 ones, with Bayesian ranks.

The kernel is approximated by a core times two matrices with orthonormal columns, one for the inputs and one for the
outputs; its rows and columns are left alone (kim2016compression),

.. math:: W_{tsij} \approx \sum_{a=1}^{R_4} \sum_{b=1}^{R_3} U^{(t)}_{ta}\, \mathcal C_{abij}\, U^{(s)}_{sb},
          \qquad \mathcal C = W \times_t U^{(t)\top} \times_s U^{(s)\top},

that is, by a 1 x 1 convolution S -> R_3, one of the kernel's size R_3 -> R_4, and a 1 x 1 one R_4 -> T, with
S R_3 + d^2 R_3 R_4 + R_4 T weights. The matrices start as the leading singular vectors of the two unfoldings. They are
then solved for in turn, each as the best one for the other. Variational Bayesian matrix factorization estimates the
rank of each unfolding under noise, in the closed form of Nakajima and others (2013), as in the paper. The whole network
is factorized in one go. Shapes: W (T, S, kernel), with a kernel of one to three dimensions.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor, nn

from lib.factorization.shared import parts, rows
from lib.factorization.shared.parts import Convolution
from lib.factorization.shared.rows import Replaced

KINDS: tuple[type[Convolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def decompose(weight: Tensor, ranks: tuple[int, int], *, sweeps: int = 5) -> tuple[Tensor, Tensor, Tensor, list[float]]:
    """Fit a core between two matrices with orthonormal columns to a kernel, in float64.

    weight: (T, S, kernel).
    ranks: (R_3 of the inputs, R_4 of the outputs), each 1 to the full rank of its unfolding.
    sweeps: how often each matrix is solved for after its start, 0 or more, default 5.

    Returns U_t (T, R_4), the core (R_4, R_3, kernel), U_s (S, R_3), and the relative residual at the start and after
    each sweep. Raises ValueError for ranks or sweeps out of range (kim2016compression).

    >>> u_t, core, u_s, residuals = decompose(torch.ones(6, 4, 3, 3), ranks=(1, 1))
    >>> tuple(core.shape), residuals[-1] < 1e-6
    ((1, 1, 3, 3), True)
    """
    if not isinstance(ranks, Sequence) or len(ranks) != 2:
        raise ValueError(f"ranks must be a pair, that of the inputs and that of the outputs, not {ranks!r}")
    w = weight.detach().double().flatten(2)  # (T, S, places)
    s_rank = rows.checked_rank(ranks[0], min(w.shape[1], w.shape[0] * w.shape[2]))
    t_rank = rows.checked_rank(ranks[1], min(w.shape[0], w.shape[1] * w.shape[2]))
    if sweeps < 0:
        raise ValueError(f"sweeps must be 0 or more, not {sweeps}")
    # method
    u_t, u_s = _leading(w, 0, t_rank), _leading(w, 1, s_rank)
    residuals = []
    for sweep in range(sweeps + 1):
        if sweep:
            u_t = _leading(torch.einsum("tsk,sb->tbk", w, u_s), 0, t_rank)
            u_s = _leading(torch.einsum("tsk,ta->ask", w, u_t), 1, s_rank)
        core = torch.einsum("tsk,ta,sb->abk", w, u_t, u_s)
        # end of method
        misfit = (w - torch.einsum("abk,ta,sb->tsk", core, u_t, u_s)).norm() / w.norm().clamp_min(1e-300)
        residuals.append(misfit.item())
    return u_t, core.reshape(t_rank, s_rank, *weight.shape[2:]), u_s, residuals


def _leading(w: Tensor, way: int, rank: int) -> Tensor:
    """The first ``rank`` left singular vectors of an unfolding, filled up with any orthonormal ones if it has fewer."""
    m = unfolding(w, way)
    return torch.linalg.eigh(m @ m.T).eigenvectors.flip(1)[:, :rank]


def unfolding(w: Tensor, way: int) -> Tensor:
    """Return the tensor as a matrix, with one row for each index along one dimension.

    w: any shape.
    way: dimension of the tensor that becomes the rows.
    """
    return w.movedim(way, 0).flatten(1)


def bayesian_rank(matrix: Tensor) -> int:
    r"""Estimate the rank of a matrix under noise, by empirical variational Bayesian factorization in closed form.

    For an (L, M) matrix, L <= M, with singular values :math:`\gamma` and :math:`\alpha = L / M`: the noise variance
    :math:`\sigma^2` minimizes the free energy, and a component counts if
    :math:`\gamma^2 > M \sigma^2 \bar x`, :math:`\bar x = (1 + \bar\tau)(1 + \alpha / \bar\tau)`. Pure noise gives 0.

    matrix: two dimensions, finite; otherwise ValueError.

    >>> generator = torch.Generator().manual_seed(0)
    >>> left, right, noise = (torch.randn(n, m, generator=generator) for n, m in ((20, 2), (2, 60), (20, 60)))
    >>> bayesian_rank(left @ right + 0.1 * noise)
    2
    """
    if matrix.dim() != 2 or not matrix.numel() or not torch.isfinite(matrix).all():
        raise ValueError(
            f"a matrix of finite numbers is needed, not {tuple(matrix.shape)} with NaN or infinity or none"
        )
    short, long = sorted(matrix.shape)
    x = torch.linalg.svdvals(matrix.detach().double()).square().numpy() / long
    if not x.sum() > 0:
        return 0
    alpha = short / long

    def energy_slope(tau: float) -> float:  # zero where a component just begins to pay
        return sum(np.log1p(z) / z - 0.5 for z in (tau, tau / alpha))

    tau_bar = brentq(energy_slope, 1e-6 * alpha, 100.0)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)

    def free_energy(variance: float) -> float:
        scaled = np.maximum(x / variance, 1e-300)
        strong = scaled[scaled > x_bar]
        excess = strong - (1 + alpha)
        tau = (excess + np.sqrt(excess**2 - 4 * alpha)) / 2
        return (scaled - np.log(scaled)).sum() + (np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau).sum()

    most = int(np.ceil(short / (1 + alpha))) - 1  # at most this many components can be told from noise
    lowest, highest = max(x[most] / x_bar, x[most:].mean(), 1e-12 * x[0]), x.mean()
    grid = np.geomspace(lowest, max(highest, lowest * (1 + 1e-9)), 200)  # the free energy has several minima
    near = int(np.argmin([free_energy(variance) for variance in grid]))
    bounds = grid[max(near - 1, 0)], grid[min(near + 1, len(grid) - 1)]
    variance = minimize_scalar(free_energy, bounds=bounds, method="bounded").x
    return int((x > variance * x_bar).sum())


def ranks_for(layer: Convolution, energy: float | None = None) -> tuple[int, int]:
    """Choose the ranks (R_3, R_4) of a layer from its two unfoldings, each at least 1.

    layer: a convolution of one group.
    energy: share in (0, 1] of the sum of squared singular values that they must hold; None: the Bayesian ranks.

    Raises ValueError for another layer, for weights that are not finite, and for an energy out of range.
    """
    w = rows.checked(layer, KINDS).flatten(2)

    def rank(way: int) -> int:
        matrix = unfolding(w, way)
        return max(1, bayesian_rank(matrix)) if energy is None else rows.rank_for(torch.linalg.svdvals(matrix), energy)

    return rank(1), rank(0)


def factorize(layer: Convolution, ranks: tuple[int, int], *, sweeps: int = 5) -> nn.Sequential:
    """Replace a convolution by three: 1 x 1, one of the kernel's size on fewer channels, and 1 x 1 with the bias.

    A 1 x 1 convolution of full rank is left out: its rotation goes into the core.

    layer: a convolution of one group.
    ranks: (R_3 of the inputs, R_4 of the outputs).
    sweeps: how often each matrix is solved for after its start, 0 or more, default 5.

    The layer itself is left as it is. Raises ValueError for another layer, for weights that are not finite, and for
    ranks or sweeps out of range (kim2016compression).

    >>> factors = factorize(nn.Conv2d(4, 6, 3), ranks=(2, 5))
    >>> [tuple(part.weight.shape) for part in factors]
    [(2, 4, 1, 1), (5, 2, 3, 3), (6, 5, 1, 1)]
    """
    weight = rows.checked(layer, KINDS)
    u_t, core, u_s, _ = decompose(weight, ranks, sweeps=sweeps)
    ones, made, bias = [1] * (weight.dim() - 2), [], layer.bias
    if u_s.shape[0] == u_s.shape[1]:
        core = torch.einsum("ab...,sb->as...", core, u_s)
    else:
        made.append(parts.convolution(u_s.T.reshape(*u_s.T.shape, *ones)))
    if u_t.shape[0] == u_t.shape[1]:
        core = torch.einsum("ab...,ta->tb...", core, u_t)
        made.append(parts.convolution(core, bias, **parts.geometry(layer)))
    else:
        made.append(parts.convolution(core, **parts.geometry(layer)))
        made.append(parts.convolution(u_t.reshape(*u_t.shape, *ones), bias))
    return parts.row(layer, *made)


def factorize_model(
    model: nn.Module,
    *,
    ranks: Mapping[str, tuple[int, int]] | None = None,
    energy: float | None = None,
    layers: Iterable[str] | None = None,
    sweeps: int = 5,
) -> tuple[nn.Module, list[Replaced]]:
    """Copy the model and replace each convolution by up to three, if these have fewer parameters.

    model: any network; it is left as it is.
    ranks: layer name -> (R_3, R_4), for the layers that it names; default: by the Bayesian rule.
    energy: share in (0, 1] of the sum of squared singular values that both ranks must hold, instead of that rule.
    layers: names of the layers to factorize; default: every convolution of one group that its owner calls and whose
        kernel is larger than 1 x 1.
    sweeps: how often each matrix is solved for after its start, 0 or more, default 5.

    Returns the copy, and for each layer its ranks, its parameters before and after, and the reason if it cannot be
    factorized.
    Raises ValueError for ranks together with energy or with layers, for a name that the model does not have, a layer
    that cannot be factorized, a weight that two layers share, and numbers out of range.

    >>> from lib import models
    >>> small, report = factorize_model(models.lenet5(), ranks={"conv1": (1, 6)})
    >>> report[0].before, report[0].after
    (520, 290)
    """
    if ranks is not None and energy is not None:
        raise ValueError("give ranks or energy, not both")

    def form(name: str, layer: Convolution) -> tuple[nn.Sequential, tuple[int, ...]]:
        chosen = ranks_for(layer, energy) if ranks is None else ranks[name]
        return factorize(layer, chosen, sweeps=sweeps), chosen

    return rows.factorize_model(
        model, form, KINDS, rows.chosen_layers(layers, ranks), suited=lambda layer: layer.weight[0, 0].numel() > 1
    )
