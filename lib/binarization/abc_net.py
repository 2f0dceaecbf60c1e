r"""ABC-Net: weights and activations as sums of a few matrices of signs.

A weight W becomes :math:`\widehat W = \sum_{m=1}^{M} \alpha_m B_m`, with the signs at M thresholds

.. math:: B_m = \operatorname{sign}(\bar W + u_m \operatorname{std}(W)), \quad \bar W = W - \operatorname{mean}(W),
   \quad u_m = -1 + (m - 1) \tfrac{2}{M - 1}, \qquad \alpha = \arg\min \Big\lVert W - \sum_m \alpha_m B_m \Big\rVert^2

(lin2017abcnet; u = 0 for M = 1). The mean is not added back, since α fits W itself. The bases are nested, so there are
at most M + 1 values: the outer two are opposites, and each of the others is the mean of the weights it stands for.
Another kind, "greedy", is residual binarization (tang2017compact): M times the sign of what is left and its mean size,
which gives up to 2^M values.

W is trained, and α is computed again in each forward pass. For the gradient α is a constant and each sign is W itself,
whatever the size of W. The gradient at each base is taken before its factor α, as in the paper, so

.. math:: \frac{\partial C}{\partial W} = \sum_m \alpha_m \frac{\partial C}{\partial B_m}
   = \frac{\partial C}{\partial \widehat W} \sum_m \alpha_m .

The input of a layer becomes :math:`\sum_n \beta_n A_n`, :math:`A_n = 2 \cdot \mathbb 1[h_n(x) \ge \tfrac12] - 1`,
:math:`h_n(x) = \mathrm{clip}(x + v_n, 0, 1)`, with trained β and v. A layer is then M N products of signs.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lib.binarization.shared.conversion import chosen, norm_before, read_signs
from lib.binarization.shared.signs import Binarized, BinaryForm, Sign
from lib.weights import Encoding, check_one_of, compress

MOST = 16  # bases: a symbol of a file has at most 16 bits
KINDS, SCOPES = ("abc", "greedy"), ("layer", "filter")


@torch.no_grad()
def approximate(weight: Tensor, bases: int = 3, kind: str = "abc", scope: str = "layer") -> tuple[Tensor, Tensor]:
    """Approximate a weight by signs and scales, which :func:`combine` adds up.

    weight: any shape, (filters, ...).
    bases: M, from 1 to 16; 3 by default.
    kind: "abc" (default), signs at M thresholds, or "greedy", each sign for what the ones before it leave.
    scope: what shares its scales, the whole "layer" (default) or each "filter", weight[i].

    Returns signs, (M, *shape of the weight), +1 and -1, and scales, (M, groups), with one group or as many as filters.
    Raises ValueError for another scope, kind or number of bases, and for a weight that is empty or not finite.

    >>> signs, scales = approximate(torch.tensor([[0.5, -0.5, 2.0, -2.0]]), bases=2, kind="greedy")
    >>> combine(signs, scales).tolist()
    [[0.5, -0.5, 2.0, -2.0]]
    """
    _check(bases, kind, scope)
    if not weight.numel():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is empty: it has no signs")
    signs, scales = _terms(weight, bases, kind, scope)
    return torch.stack([sign.to(weight.dtype, copy=True).reshape(weight.shape) for sign in signs]), scales


def combine(signs: Iterable[Tensor], scales: Tensor) -> Tensor:
    """The sum of scale · sign over M bases, always in the same order, so that a file gives the same floats again.

    signs: M tensors of the weight's shape, +1 and -1.
    scales: (M, groups).
    Returns the approximation, of the weight's shape.
    """
    pairs = zip(signs, scales, strict=True)
    sign, scale = next(pairs)
    total = sign.reshape(len(scale), -1) * scale[:, None]
    for sign, scale in pairs:
        total.addcmul_(sign.reshape(len(scale), -1), scale[:, None])
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
    centered = rows - rows.mean(1, keepdim=True)
    std = centered.square().mean(1, keepdim=True).sqrt_()
    u = torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)

    def signs() -> Iterator[Tensor]:  # all in one buffer: fresh memory costs more than computing them twice
        buffer = torch.empty_like(rows)
        for shift in u.to(rows):
            yield torch.add(centered, shift * std, out=buffer).ge_(0).mul_(2).sub_(1)

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
    check_one_of("kind", kind, KINDS)
    check_one_of("scope", scope, SCOPES)


def _groups(shape: torch.Size, scope: str) -> int:
    return shape[0] if scope == "filter" else 1


class AbcWeight(BinaryForm):
    """A latent weight, of two dimensions or more, seen as a sum of matrices of signs.

    A file holds one symbol for each weight, and the scales.

    bases: M, how many matrices, from 1 to 16; 3 by default.
    kind: "abc" (default) or "greedy".
    scope: what shares its scales, the "layer" (default) or each "filter".
    Raises ValueError for another scope, kind or number of bases.
    """

    def __init__(self, bases: int = 3, *, kind: str = "abc", scope: str = "layer") -> None:
        super().__init__()
        _check(bases, kind, scope)
        self.settings = bases, kind, scope

    def extra_repr(self) -> str:
        return "bases={}, kind={}, scope={}".format(*self.settings)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, latent: Tensor) -> Tensor:
        return _Approximation.apply(latent, self.settings)

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        (latent,) = stored
        signs, scales = approximate(latent, *self.settings)
        return signs, scales.expand(-1, len(latent))

    def encode(self, *stored: Tensor) -> Encoding:
        """One symbol for each weight: how many of its signs are +1, or for "greedy" its signs as M bits."""
        (latent,) = stored
        count, kind, scope = self.settings
        signs, scales = approximate(latent, count, kind, scope)
        worth = [1 if kind == "abc" else 2**m for m in range(count)]
        symbols = sum(w * (sign > 0).flatten().long() for w, sign in zip(worth, signs, strict=True))
        return Encoding(symbols={kind: symbols}, tables={scope: scales})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        (kind, symbols), (scope, scales) = *encoding.symbols.items(), *encoding.tables.items()
        scales = scales.reshape(-1, _groups(shape, scope))
        count = len(scales)
        _check(count, kind, scope)
        if symbols.max() > (count if kind == "abc" else 2**count - 1):
            raise ValueError(f"symbol {symbols.max()} is too large for {count} signs")
        # The last threshold is reached first.
        bits = (symbols >= count - m if kind == "abc" else symbols >> m & 1 for m in range(count))
        return combine((2.0 * bit.reshape(shape).float() - 1.0 for bit in bits), scales)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return dict.fromkeys(KINDS, shape.numel()), {scope: MOST * _groups(shape, scope) for scope in SCOPES}


class _Approximation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, settings: tuple[int, str, str]) -> Tensor:
        signs, scales = _terms(latent, *settings)
        ctx.slope = scales.sum(0)[:, None]
        return combine(signs, scales).to(latent.dtype).reshape(latent.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient.reshape(len(ctx.slope), -1) * ctx.slope).reshape(gradient.shape), None


class AbcActivation(nn.Module):
    r"""The sum of β_n A_n, for x of any shape, with trained v and β of shape (N,).

    A_n is +1 where x reaches :math:`t_n = \tfrac12 - v_n`, else -1, and its gradient passes where 0 <= x + v_n <= 1,
    that is :math:`\lvert x - t_n \rvert \le \tfrac12`. At first v and β are those of :func:`gaussian`, the best for
    what comes out of batch norm.

    bases: N, from 1 to 16; 3 by default. ValueError for another.
    """

    def __init__(self, bases: int = 3) -> None:
        super().__init__()
        t, beta = gaussian(bases)
        self.v, self.beta = nn.Parameter(0.5 - t), nn.Parameter(beta)

    def extra_repr(self) -> str:
        return f"bases={len(self.v)}"

    # method
    def forward(self, x: Tensor) -> Tensor:
        return sum(beta * Sign.apply(x - t, 0.5) for t, beta in zip(0.5 - self.v, self.beta, strict=True))

    # end of method

    def bases(self) -> list[tuple[float, float]]:
        """(threshold t, factor b) of each term of the output, the sum of b · (+1 where x >= t, else -1)."""
        return list(zip((0.5 - self.v).tolist(), self.beta.tolist(), strict=True))


def gaussian(bases: int) -> tuple[Tensor, Tensor]:
    """Thresholds t and factors b whose sum is nearest to a standard Gaussian in the mean square.

    Found by Lloyd's iteration: each value is the mean of what it stands for, each threshold the middle of two values.

    bases: how many, from 1 to 16.
    Returns t and b, (bases,) each.

    >>> t, b = gaussian(1)
    >>> t.abs().tolist(), round(b.item(), 3)  # the sign, with the mean of |x|
    ([0.0], 0.798)
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
    """Binarize the weights, and if asked the inputs, of a network and return it; do not use the original afterwards.

    The weights of the named layers become sums of matrices of signs.

    model: the network.
    names: of linear and 2-d convolution layers; None (default): all but the first and the last.
    bases: M, matrices of signs for each weight, from 1 to 16; 3 by default.
    kind: of the matrices, "abc" (default) or "greedy".
    scope: what shares its scales, the "layer" (default) or each "filter".
    activation_bases: N, signs for each input of these layers, after a batch norm, from 1 to 16; None (default): inputs
      stay as they are.

    Returns the model to use from now on. Raises ValueError for another number of bases, kind or scope, an unknown
    layer, where no layer is left, and for weights that are not finite; the model is then as it was.

    >>> from lib import models
    >>> model = binarize(models.lenet_300_100(), bases=2)
    >>> len(model.fc2.weight.unique())
    3
    """
    if activation_bases is not None:
        _check(activation_bases)
    layers_to_change = chosen(model, names)
    compress(model, lambda name, _: AbcWeight(bases, kind=kind, scope=scope) if name in layers_to_change else None)
    if activation_bases is None:
        return model
    return read_signs(
        model, layers_to_change, lambda layer: Binarized(layer, AbcActivation(activation_bases), norm_before(layer))
    )
