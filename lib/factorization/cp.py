r"""Canonical polyadic (CP) decomposition: a convolution becomes four, two of them depthwise.

The kernel, a tensor of four ways (outputs, inputs, rows, columns), is a sum of R products of four vectors
(lebedev2015speeding),

.. math:: W_{tsij} \approx \sum_{r=1}^{R} A^t_{tr}\, A^s_{sr}\, A^y_{ir}\, A^x_{jr},

which is a 1 x 1 convolution from S inputs to R channels, a d x 1 and a 1 x d depthwise one, and a 1 x 1 one to T
outputs: R (S + 2 d + T) weights. No decomposition gives the best factors. Alternating least squares solves for one
factor while the other three stay (the paper uses non-linear least squares),

.. math:: A^n \leftarrow W_{(n)} K \, (G + \lambda I)^{-1}, \qquad K = \bigodot_{m \ne n} A^m, \qquad
          G = \circledast_{m \ne n} (A^m)^\top A^m,

with the Khatri-Rao product K, the elementwise product G of the Gram matrices, and a ridge :math:`\lambda` against terms
that grow without bound while they cancel each other. It never raises
:math:`\lVert W - \hat W \rVert^2 + \lambda \sum_n \lVert A^n \rVert^2`, where W is scaled to length one.
Several random starts run side by side. Shapes: W (T, S, d_y, d_x), factors (T, R), (S, R), (d_y, R), (d_x, R).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.factorization.shared import rows
from lib.factorization.shared.rows import Replaced

KINDS = (nn.Conv2d,)
WAYS = "tsyx"


@dataclass(frozen=True)
class Decomposition:
    """The four factors of the best start, and for every sweep and start the relative residual and the objective."""

    factors: tuple[Tensor, Tensor, Tensor, Tensor]
    residuals: Tensor  # (sweeps, starts): ||W - W^|| / ||W||
    objectives: Tensor  # (sweeps, starts): what falls

    @property
    def kernel(self) -> Tensor:
        """The kernel that the factors stand for."""
        return torch.einsum("tr,sr,yr,xr->tsyx", *self.factors)


def decompose(
    weight: Tensor, rank: int, *, sweeps: int = 100, starts: int = 3, ridge: float = 1e-6, seed: int = 0
) -> Decomposition:
    """Alternating least squares on a kernel (T, S, d_y, d_x), in float64.

    sweeps: how often each factor is solved for. starts: random beginnings, of which the best is returned. ridge:
        :math:`\\lambda`, for a kernel of length one. Raises ValueError for numbers out of range and kernels not finite.
    """
    if weight.dim() != 4 or not weight.numel() or not torch.isfinite(weight).all():
        raise ValueError(f"the kernel of shape {tuple(weight.shape)} must have four ways and finite entries")
    if sweeps < 1 or starts < 1 or not 0 < ridge < 1:
        raise ValueError(
            f"accepted are sweeps and starts from 1 and a ridge in (0, 1), not {sweeps}, {starts}, {ridge}"
        )
    rows.checked_rank(rank, largest_rank(weight))
    weight = weight.detach().double()
    length = weight.norm()
    w = weight / (length if length > 0 else 1)
    generator = torch.Generator().manual_seed(seed)
    a = [torch.randn(starts, n, rank, generator=generator, dtype=torch.float64) for n in w.shape]
    residuals, objectives = [], []
    for _ in range(sweeps):
        for n, way in enumerate(WAYS):
            others = [m for m in range(4) if m != n]
            gram = math.prod(a[m].mT @ a[m] for m in others)  # G
            terms = ",".join(f"b{WAYS[m]}r" for m in others)
            onto = torch.einsum(f"tsyx,{terms}->b{way}r", w, *(a[m] for m in others))  # W_(n) K
            a[n] = torch.linalg.solve(gram + ridge * torch.eye(rank), onto, left=False)
        fit, length_hat = (onto * a[3]).sum((1, 2)), (gram * (a[3].mT @ a[3])).sum((1, 2))
        misfit = (w.square().sum() - 2 * fit + length_hat).clamp_min(0)  # ||W||^2 - 2 <W, W^> + ||W^||^2
        a = _balanced(a)
        residuals.append(misfit.sqrt())
        objectives.append(misfit + ridge * sum(each.square().sum((1, 2)) for each in a))
    best = int(objectives[-1].nan_to_num(torch.inf).argmin())
    found = tuple(each[best] * length**0.25 for each in a)
    return Decomposition(found, torch.stack(residuals), torch.stack(objectives))


def largest_rank(weight: Tensor) -> int:
    """No tensor needs more terms than it has entries for each number of its longest way."""
    return weight.numel() // max(weight.shape)


def _balanced(a: list[Tensor]) -> list[Tensor]:
    """The same products with columns of one length in all four factors, which makes the ridge's term least."""
    lengths = [each.norm(dim=1, keepdim=True) for each in a]
    mean = (lengths[0] * lengths[1] * lengths[2] * lengths[3]) ** 0.25
    return [each * (mean / length.clamp_min(1e-300)) for each, length in zip(a, lengths, strict=True)]


def factorize(layer: nn.Conv2d, rank: int, **how: object) -> nn.Sequential:
    """Four convolutions: 1 x 1, d x 1 depthwise, 1 x d depthwise, and 1 x 1 with the bias.

    layer: a two-dimensional convolution of one group. how: arguments of :func:`decompose`.
    """
    t, s, y, x = decompose(rows.checked(layer, KINDS), rank, **how).factors
    down, across = rows.apart(layer)
    return rows.row(
        layer,
        rows.convolution(s.T[:, :, None, None]),
        rows.convolution(y.T[:, None, :, None], groups=rank, **down),
        rows.convolution(x.T[:, None, None, :], groups=rank, **across),
        rows.convolution(t[:, :, None, None], layer.bias),
    )


def compress(
    model: nn.Module, *, rank: int | Mapping[str, int], layers: Iterable[str] | None = None, **how: object
) -> tuple[nn.Module, list[Replaced]]:
    """A copy of the model with its convolutions in four factors each, where that is smaller; and what became of each.

    rank: one for all layers, or one for each layer of a mapping. layers: names; by default every two-dimensional
    convolution of one group. how: arguments of :func:`decompose`.
    """

    def form(name: str, layer: nn.Module) -> tuple[nn.Sequential, tuple[int, ...]]:
        chosen = rows.chosen_rank(rank, name, largest_rank(layer.weight))
        return factorize(layer, chosen, **how), (chosen,)

    return rows.compress(model, form, KINDS, rank if layers is None and isinstance(rank, Mapping) else layers)
