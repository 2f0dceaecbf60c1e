r"""Canonical polyadic (CP) decomposition: a convolution becomes four, two of them depthwise.

The kernel, a tensor of four ways (outputs, inputs, rows, columns), is approximated by a sum of R products of four
vectors (lebedev2015speeding),

.. math:: W_{tsij} \approx \sum_{r=1}^{R} A^t_{tr}\, A^s_{sr}\, A^y_{ir}\, A^x_{jr},

which is a 1 x 1 convolution from S inputs to R channels, a d x 1 and a 1 x d depthwise one, and a 1 x 1 one to T
outputs: R (S + 2 d + T) weights. No formula gives the best factors. Alternating least squares solves for one factor
while the other three stay as they are (the paper uses non-linear least squares),

.. math:: A^n \leftarrow W_{(n)} K \, (G + \lambda I)^{-1}, \qquad K = \bigodot_{m \ne n} A^m, \qquad
          G = \circledast_{m \ne n} (A^m)^\top A^m,

with the Khatri-Rao product K, the elementwise product G of the Gram matrices, and a ridge :math:`\lambda` against terms
that grow without bound while they cancel each other. No step raises :math:`\lVert W - \hat W \rVert^2 + \lambda \sum_n
\lVert A^n \rVert^2`, where W is scaled to length one. The ridge shows only if a kernel is exactly such a sum: with the
default of 1e-6 the fit stops a few millionths of the kernel's length away from it, with 1e-12 less than a
ten-millionth. Several random starts run side by side.
Shapes: W (T, S, d_y, d_x), factors (T, R), (S, R), (d_y, R), (d_x, R).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.factorization.shared import parts, rows
from lib.factorization.shared.rows import Replaced

KINDS = (nn.Conv2d,)
WAYS = "tsyx"


@dataclass(frozen=True)
class Decomposition:
    """The four factors of the best start, and how the fit went.

    factors: A^t (T, R), A^s (S, R), A^y (d_y, R), A^x (d_x, R).
    residuals: ||W - W^|| / ||W|| after each sweep, (sweeps, starts).
    objectives: the squared residual plus the ridge's term, which never rises, (sweeps, starts).
    """

    factors: tuple[Tensor, Tensor, Tensor, Tensor]
    residuals: Tensor
    objectives: Tensor

    @property
    def kernel(self) -> Tensor:
        """Multiply the factors out to the kernel W^, (T, S, d_y, d_x)."""
        return torch.einsum("tr,sr,yr,xr->tsyx", *self.factors)


def decompose(
    weight: Tensor, rank: int, *, sweeps: int = 100, starts: int = 3, ridge: float = 1e-6, seed: int = 0
) -> Decomposition:
    r"""Fit a sum of products of four vectors to a kernel, by alternating least squares in float64.

    weight: the kernel, (T, S, d_y, d_x), finite.
    rank: R, number of products, 1 to :func:`largest_rank`.
    sweeps: how often each factor is solved for, default 100.
    starts: number of random starts; the one with the least objective is returned, default 3.
    ridge: :math:`\lambda` in (0, 1), for a kernel of length one, default 1e-6.
    seed: of the random starts, default 0.

    Raises ValueError for numbers out of range, and for a kernel of another shape or not finite (lebedev2015speeding).

    >>> column, line = torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 0, -1])
    >>> sobel = (column[:, None] * line)[None, None]
    >>> bool((decompose(sobel, rank=1, sweeps=5).kernel - sobel).abs().max() < 1e-4)
    True
    """
    if weight.dim() != 4 or not weight.numel() or not torch.isfinite(weight).all():
        raise ValueError(f"the kernel of shape {tuple(weight.shape)} must have four dimensions and finite entries")
    if sweeps < 1 or starts < 1 or not 0 < ridge < 1:
        raise ValueError(f"sweeps and starts must be 1 or more and ridge in (0, 1), not {sweeps}, {starts} and {ridge}")
    rank = rows.checked_rank(rank, largest_rank(weight))
    weight = weight.detach().double()
    length = weight.norm()
    w = weight / (length if length > 0 else 1)
    generator = torch.Generator().manual_seed(int(seed))
    a = [torch.randn(starts, n, rank, generator=generator, dtype=torch.float64) for n in w.shape]
    residuals, objectives = [], []
    # method
    for _ in range(sweeps):
        for n, way in enumerate(WAYS):
            others = [m for m in range(4) if m != n]
            gram = math.prod(a[m].mT @ a[m] for m in others)  # G
            terms = ",".join(f"b{WAYS[m]}r" for m in others)
            onto = torch.einsum(f"tsyx,{terms}->b{way}r", w, *(a[m] for m in others))  # W_(n) K
            a[n] = torch.linalg.solve(gram + ridge * torch.eye(rank), onto, left=False)
        # end of method
        fit, length_hat = (onto * a[3]).sum((1, 2)), (gram * (a[3].mT @ a[3])).sum((1, 2))
        misfit = (w.square().sum() - 2 * fit + length_hat).clamp_min(0)  # ||W||^2 - 2 <W, W^> + ||W^||^2
        a = _balanced(a)
        residuals.append(misfit.sqrt())
        objectives.append(misfit + ridge * sum(factor.square().sum((1, 2)) for factor in a))
    best = int(objectives[-1].nan_to_num(torch.inf).argmin())
    t, s, y, x = (factor[best] * length**0.25 for factor in a)
    return Decomposition((t, s, y, x), torch.stack(residuals), torch.stack(objectives))


def largest_rank(weight: Tensor) -> int:
    """Return a rank that is enough for any kernel of this shape: the product of all its sizes but the largest.

    >>> largest_rank(torch.zeros(50, 20, 5, 5))
    500
    """
    return weight.numel() // max(weight.shape)


def _balanced(a: list[Tensor]) -> list[Tensor]:
    """Scale the columns of all four factors to equal length: the same products, with the smallest ridge term."""
    lengths = [factor.norm(dim=1, keepdim=True) for factor in a]
    mean = (lengths[0] * lengths[1] * lengths[2] * lengths[3]) ** 0.25
    return [factor * (mean / length.clamp_min(1e-300)) for factor, length in zip(a, lengths, strict=True)]


def factorize(
    layer: nn.Conv2d,
    rank: int,
    *,
    sweeps: int = 100,
    starts: int = 3,
    ridge: float = 1e-6,
    seed: int = 0,
) -> nn.Sequential:
    r"""Replace a convolution by four: 1 x 1, d x 1 depthwise, 1 x d depthwise, and 1 x 1 with the bias.

    layer: a two-dimensional convolution of one group.
    rank: R, number of products of four vectors, and of channels between the four.
    sweeps: how often each factor is solved for, default 100.
    starts: number of random starts; the best is taken, default 3.
    ridge: :math:`\lambda` in (0, 1), for a kernel of length one, default 1e-6.
    seed: of the random starts, default 0.

    The layer itself is left as it is. Raises ValueError for another layer, for weights that are not finite, and for
    numbers out of range (lebedev2015speeding).

    >>> factors = factorize(nn.Conv2d(4, 6, 3), rank=5, sweeps=2)
    >>> [tuple(part.weight.shape) for part in factors]
    [(5, 4, 1, 1), (5, 1, 3, 1), (5, 1, 1, 3), (6, 5, 1, 1)]
    """
    weight = rows.checked(layer, KINDS)
    rank = rows.checked_rank(rank, largest_rank(weight))
    t, s, y, x = decompose(weight, rank, sweeps=sweeps, starts=starts, ridge=ridge, seed=seed).factors
    down, across = parts.apart(layer)
    return parts.row(
        layer,
        parts.convolution(s.T[:, :, None, None]),
        parts.convolution(y.T[:, None, :, None], groups=rank, **down),
        parts.convolution(x.T[:, None, None, :], groups=rank, **across),
        parts.convolution(t[:, :, None, None], layer.bias),
    )


def factorize_model(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int],
    layers: Iterable[str] | None = None,
    sweeps: int = 100,
    starts: int = 3,
    ridge: float = 1e-6,
    seed: int = 0,
) -> tuple[nn.Module, list[Replaced]]:
    r"""Copy the model and replace each convolution by four, if these have fewer parameters.

    model: any network; it is left as it is.
    rank: of every layer, cut to its :func:`largest_rank`; or layer name -> rank, for the layers that it names.
    layers: names of the layers to factorize; default: every two-dimensional convolution of one group that its owner
        calls.
    sweeps: how often each factor is solved for, default 100.
    starts: number of random starts; the best is taken, default 3.
    ridge: :math:`\lambda` in (0, 1), for a kernel of length one, default 1e-6.
    seed: of the random starts of each layer, default 0.

    Returns the copy, and for each layer its ranks, its parameters before and after, and the reason if it cannot be
    factorized.
    Raises ValueError for ``layers`` given together with a mapping of ranks, for a name that the model does not have, a
    layer that cannot be factorized, a weight that two layers share, and numbers out of range.

    >>> from lib import models
    >>> small, report = factorize_model(models.lenet5(), rank={"conv1": 3}, sweeps=2)
    >>> report[0].before, report[0].after
    (520, 113)
    """

    def form(name: str, layer: nn.Conv2d) -> tuple[nn.Sequential, tuple[int, ...]]:
        chosen = rows.chosen_rank(rank, name, largest_rank(layer.weight))
        return factorize(layer, chosen, sweeps=sweeps, starts=starts, ridge=ridge, seed=seed), (chosen,)

    return rows.factorize_model(model, form, KINDS, rows.chosen_layers(layers, rank))
