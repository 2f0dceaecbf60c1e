r"""ABC-Net: weights, and what flows between the layers, as sums of a few matrices of signs.

A weight W becomes :math:`\widehat W = \sum_{m=1}^{M} \alpha_m B_m`, with its signs at M thresholds,

.. math:: B_m = \operatorname{sign}(\bar W + u_m \operatorname{std}(W)), \quad \bar W = W - \operatorname{mean}(W),
   \quad u_m = -1 + (m - 1) \tfrac{2}{M - 1}, \qquad \alpha = \arg\min \Big\lVert W - \sum_m \alpha_m B_m \Big\rVert^2

(lin2017abcnet; u = 0 for M = 1). The mean is not added again: α fits W itself. As the bases are nested there are at
most M + 1 values. The outer two are opposites; each other one is the mean of the weights it stands for. Another kind,
"greedy", is residual binarization: the sign of what is left and its mean size, M times (tang2017compact), 2^M values.

W is trained and α found anew in each forward pass. For the gradient α is a constant, and each sign is as W itself,
whatever the size of W. With the gradient at each base taken before its factor α, as in the paper,

.. math:: \frac{\partial C}{\partial W} = \sum_m \alpha_m \frac{\partial C}{\partial B_m}
   = \frac{\partial C}{\partial \widehat W} \sum_m \alpha_m .

What a layer reads becomes :math:`\sum_n \beta_n A_n`, :math:`A_n = 2 \cdot \mathbb 1[h_n(x) \ge \tfrac12] - 1`,
:math:`h_n(x) = \mathrm{clip}(x + v_n, 0, 1)`, with trained β and v. A layer is then M N products of signs.
"""

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from lib.binarization.shared.signs import Binarized, BinaryForm, Sign, chosen, norm_before, read_signs
from lib.weights import Encoding, compress

MOST = 16  # bases: a symbol of a file has at most 16 bits
KINDS, SCOPES = ("abc", "greedy"), ("layer", "filter")


@torch.no_grad()
def approximate(weight: Tensor, bases: int = 3, kind: str = "abc", scope: str = "layer") -> tuple[Tensor, Tensor]:
    """Signs (M, *weight's shape) of ±1 and scales (M, groups), M = ``bases``: what :func:`combine` adds up.

    weight: any shape. scope: one group, the "layer", or each "filter", weight[i], for itself. kind: "abc" or "greedy".
    Raises ValueError for another scope, kind or number of bases, and for a weight that is empty or not finite.
    """
    _check(bases, kind, scope)
    if not weight.numel():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is empty: it has no signs")
    signs, scales = _terms(weight, bases, kind, scope)
    return torch.stack([sign.to(weight.dtype, copy=True).reshape(weight.shape) for sign in signs]), scales


def combine(signs: Iterable[Tensor], scales: Tensor) -> Tensor:
    """The sum of scale · sign over the M ``signs``, always in one order, so that a file gives the same floats again."""
    total = None
    for sign, scale in zip(signs, scales, strict=True):
        rows = sign.reshape(len(scale), -1), scale[:, None]
        total = torch.mul(*rows) if total is None else total.addcmul_(*rows)
    return total.reshape(sign.shape)


def _terms(weight: Tensor, count: int, kind: str, scope: str) -> tuple[Iterable[Tensor], Tensor]:
    """The signs, each (groups, n), to be read one after the other, and the scales (M, groups)."""
    rows = weight.reshape(_groups(weight.shape, scope), -1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    signs, scales = (_abc if kind == "abc" else _greedy)(rows, count)
    if not scales.isfinite().all():
        raise ValueError("the weights hold NaN or infinity, or are too large to be added up: finite ones are needed")
    return signs, scales.to(weight.dtype)


def _abc(rows: Tensor, count: int) -> tuple[Iterable[Tensor], Tensor]:
    centred = rows - rows.mean(1, keepdim=True)
    std = centred.square().mean(1, keepdim=True).sqrt_()
    u = torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)

    def signs() -> Iterator[Tensor]:  # all in one buffer: fresh memory costs more than computing them twice
        buffer = torch.empty_like(rows)
        for each in u.to(rows):
            yield torch.add(centred, each * std, out=buffer).ge_(0).mul_(2).sub_(1)

    sums = torch.stack([torch.stack([sign.sum(1), sign.mul_(rows).sum(1)], 1) for sign in signs()], 1).double()
    s, moments = sums[:, :, :1], sums[:, :, 1:]
    # B_m · B_k = n - |s_m - s_k|, s_m = the sum of B_m, as the bases are nested; α = (B Bᵀ)⁺ B W, shared by equal bases
    inverse = torch.linalg.pinv(rows.shape[1] - (s - s.mT).abs(), rtol=1e-12, hermitian=True)
    return signs(), (inverse @ moments).squeeze(2).T


def _greedy(rows: Tensor, count: int) -> tuple[Iterable[Tensor], Tensor]:
    signs, scales, rest = [], [], rows.clone()
    for _ in range(count):  # H_k = sign(R), β_k = mean |R|, R <- R - β_k H_k; at first R = W
        signs.append(Sign.apply(rest))
        scales.append(rest.abs().mean(1))
        rest.addcmul_(signs[-1], scales[-1][:, None], value=-1)
    return signs, torch.stack(scales)


def _check(bases: int, kind: str = "abc", scope: str = "layer") -> None:
    if not isinstance(bases, int) or not 1 <= bases <= MOST:
        raise ValueError(f"the number of bases must be a whole number from 1 to {MOST}, not {bases}")
    for name, value, accepted in (("kind", kind, KINDS), ("scope", scope, SCOPES)):
        if value not in accepted:
            raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {value!r}")


def _groups(shape: torch.Size, scope: str) -> int:
    return shape[0] if scope == "filter" else 1


class AbcWeight(BinaryForm):
    """The sum of ``bases`` matrices of signs for a latent weight, of two dimensions or more.

    kind, scope, errors: those of :func:`approximate`. A file holds one symbol for each weight, and the scales.
    """

    def __init__(self, bases: int = 3, *, kind: str = "abc", scope: str = "layer"):
        super().__init__()
        _check(bases, kind, scope)
        self.settings = bases, kind, scope

    def extra_repr(self) -> str:
        return "bases={}, kind={}, scope={}".format(*self.settings)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, latent: Tensor) -> Tensor:
        return _Approximation.apply(latent, self.settings)

    def bases(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        signs, scales = approximate(latent, *self.settings)
        return signs, scales.expand(-1, len(latent))

    def encode(self, latent: Tensor) -> Encoding:
        """One symbol for each weight: how many of its signs are +1 or, for "greedy", its signs as M bits."""
        count, kind, scope = self.settings
        signs, scales = approximate(latent, count, kind, scope)
        worth = torch.ones(count, dtype=torch.long) if kind == "abc" else 2 ** torch.arange(count)
        return Encoding(symbols={kind: worth @ (signs > 0).flatten(1).long()}, tables={scope: scales})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        (kind, symbols), (scope, scales) = *encoding.symbols.items(), *encoding.tables.items()
        scales = scales.reshape(-1, _groups(shape, scope))
        count, m = len(scales), torch.arange(len(scales))[:, None]
        _check(count, kind, scope)
        if symbols.max() > (count if kind == "abc" else 2**count - 1):
            raise ValueError(f"symbol {symbols.max()} stands where {count} signs are told")
        bits = symbols >= count - m if kind == "abc" else symbols >> m & 1  # the last threshold is reached first
        return combine((2.0 * bits - 1.0).reshape(count, *shape), scales)


class _Approximation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, latent: Tensor, settings: tuple[int, str, str]) -> Tensor:
        signs, scales = _terms(latent, *settings)
        ctx.slope = scales.sum(0)[:, None]
        return combine(signs, scales).to(latent.dtype).reshape(latent.shape)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient.reshape(len(ctx.slope), -1) * ctx.slope).reshape(gradient.shape), None


class AbcActivation(nn.Module):
    r"""The sum of β_n A_n, x of any shape. Trained: v and β, (N,) each, N = ``bases`` from 1 to 16, else ValueError.

    A_n is +1 where x reaches :math:`t_n = \tfrac12 - v_n`, else -1, and its gradient passes where 0 <= x + v_n <= 1,
    that is :math:`\lvert x - t_n \rvert \le \tfrac12`. At first v and β are those of :func:`gaussian`, the best for
    what comes out of batch norm.
    """

    def __init__(self, bases: int = 3):
        super().__init__()
        t, beta = gaussian(bases)
        self.v, self.beta = nn.Parameter(0.5 - t), nn.Parameter(beta)

    def extra_repr(self) -> str:
        return f"bases={len(self.v)}"

    def forward(self, x: Tensor) -> Tensor:
        return sum(beta * Sign.apply(x - t, 0.5) for t, beta in zip(0.5 - self.v, self.beta, strict=True))

    def bases(self) -> list[tuple[float, float]]:
        """(threshold t, factor b) of each term of the output, sum of b · (+1 where x >= t, else -1)."""
        return list(zip((0.5 - self.v).tolist(), self.beta.tolist(), strict=True))


def gaussian(bases: int) -> tuple[Tensor, Tensor]:
    """Thresholds t and factors b, (bases,) each, whose sum is nearest to a standard Gaussian in the mean square.

    By Lloyd's iteration: each value is the mean of what it stands for, each threshold the middle of two values.
    """
    _check(bases)
    t = torch.special.ndtri(torch.arange(1, bases + 1, dtype=torch.float64) / (bases + 1))
    end = torch.tensor([torch.inf])
    for _ in range(1000):
        edges = torch.cat([-end, t, end])
        density = torch.exp(-edges.square() / 2) / (2 * torch.pi) ** 0.5
        values = -density.diff() / torch.special.ndtr(edges).diff()
        t = (values[1:] + values[:-1]) / 2
    return t.float(), values.diff().float() / 2


def binarize(
    model: nn.Module,
    *,
    names: Collection[str] | None = None,
    bases: int = 3,
    kind: str = "abc",
    scope: str = "layer",
    activation_bases: int | None = None,
) -> nn.Module:
    """Give the named layers, or all but the first and the last, weights of ``bases`` matrices of signs. In place.

    activation_bases: also let these layers read sums of that many signs, behind batch norm; None: values as they are.
    kind, scope: as in :func:`approximate`. Returns the model. Raises ValueError as that function does, for a layer
    that is not there, where none is left, and for weights that are not finite; the model is then as it was.
    """
    _check(1 if activation_bases is None else activation_bases)
    names = chosen(model, names)
    compress(model, lambda name, layer: AbcWeight(bases, kind=kind, scope=scope) if name in names else None)
    if activation_bases is None:
        return model
    return read_signs(model, names, lambda layer: Binarized(layer, AbcActivation(activation_bases), norm_before(layer)))
