r"""ABC-Net: weights and activations as sums of a few matrices of signs.

A weight W becomes :math:`\widehat W = \sum_{m=1}^{M} \alpha_m B_m`, with the signs at M thresholds

.. math:: B_m = \operatorname{sign}(\bar W + u_m \operatorname{std}(W)), \quad \bar W = W - \operatorname{mean}(W),
   \quad u_m = -1 + (m - 1) \tfrac{2}{M - 1}, \qquad \alpha = \arg\min \Big\lVert W - \sum_m \alpha_m B_m \Big\rVert^2

(lin2017abcnet; u = 0 for M = 1). The mean is not added back, since α fits W itself. The bases are nested, so there are
at most M + 1 values: the outer two are opposites, and each of the others is the mean of the weights it stands for.
The kind "greedy" is residual binarization (tang2017compact): M times, it takes the sign of the remainder and its mean
size. That gives up to 2^M values.

W is trained, and α is computed again in each forward pass. The gradient treats α as a constant and each sign as W
itself, however large W is. As in the paper, :math:`\partial C / \partial B_m` is taken before the factor α, so

.. math:: \frac{\partial C}{\partial W} = \sum_m \alpha_m \frac{\partial C}{\partial B_m}
   = \frac{\partial C}{\partial \widehat W} \sum_m \alpha_m .

The shifts :math:`u_m` are fixed, or trained with W (``train_shifts``). Their gradient, too, treats each sign as its
argument: :math:`\partial C / \partial u_m = \alpha_m \operatorname{std}(W) \sum_i \partial C / \partial \widehat W_i`.

The input of a layer becomes :math:`\sum_n \beta_n A_n`, :math:`A_n = 2 \cdot \mathbb 1[h_n(x) \ge \tfrac12] - 1`,
:math:`h_n(x) = \mathrm{clip}(x + v_n, 0, 1)`, with trained β and v. A layer is then M N products of signs.

In the paper a batch norm and these signs are the activation: convolution, (pooling,) batch norm, signs. Here the
network keeps its own activations, ReLU for example, before the batch norm; ``replace_activations`` removes them.
"""

import copy
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.binarization.shared.conversion import chosen
from lib.binarization.shared.plans import check_signs, planned, read_activations
from lib.binarization.shared.signs import BinaryForm, Sign
from lib.binarization.shared.staircase import MOST, AbcActivation, check_bases
from lib.weights import Encoding, compress

KINDS, SCOPES = ("abc", "greedy"), ("layer", "filter")


@torch.no_grad()
def approximate(
    weight: Tensor, bases: int = 3, kind: str = "abc", scope: str = "layer", shifts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Approximate a weight by signs and scales, which :func:`combine` adds up.

    weight: any shape, (filters, ...).
    bases: M, from 1 to 16; 3 by default.
    kind: "abc" (default), signs at M thresholds, or "greedy", the signs of successive remainders.
    scope: what shares one set of scales, the whole "layer" (default) or each "filter", weight[i].
    shifts: u of each base, (M,), in any order, for the kind "abc"; None (default): evenly from -1 to 1.

    Returns signs, (M, *shape of the weight), +1 and -1, and scales, (M, groups): groups is 1 or the number of filters.
    Raises ValueError for another scope, kind or number of bases, and for a weight that is empty or not finite.

    >>> signs, scales = approximate(torch.tensor([[0.5, -0.5, 2.0, -2.0]]), bases=2, kind="greedy")
    >>> combine(signs, scales).tolist()
    [[0.5, -0.5, 2.0, -2.0]]
    """
    _check(bases, kind, scope)
    if not weight.numel():
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is empty: it has no signs")
    signs, scales = _terms(weight, bases, kind, scope, shifts)
    return torch.stack([sign.to(weight.dtype, copy=True).reshape(weight.shape) for sign in signs]), scales


def combine(signs: Iterable[Tensor], scales: Tensor) -> Tensor:
    """The sum of scale · sign over M bases, always in the same order, so that a loaded file gives the same floats.

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


def _terms(
    weight: Tensor, count: int, kind: str, scope: str, shifts: Tensor | None = None
) -> tuple[Iterable[Tensor], Tensor]:
    """The signs, each (groups, n), to be read one after the other, and the scales (M, groups)."""
    rows = weight.reshape(_groups(weight.shape, scope), -1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    u = even_shifts(count) if shifts is None else shifts.detach().sort().values
    signs, scales = _abc(rows, u) if kind == "abc" else _greedy(rows, count)
    if not scales.isfinite().all():
        raise ValueError("the weights hold NaN or infinity, or are too large to be added up: finite ones are needed")
    return signs, scales.to(weight.dtype)


def even_shifts(count: int) -> Tensor:
    """u of each base, evenly from -1 to 1, or 0 for one base.

    count: M, the number of bases.

    >>> even_shifts(3).tolist()
    [-1.0, 0.0, 1.0]
    """
    return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)


def _abc(rows: Tensor, u: Tensor) -> tuple[Iterable[Tensor], Tensor]:
    centered = rows - rows.mean(1, keepdim=True)
    std = centered.square().mean(1, keepdim=True).sqrt_()

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


def _check(bases: int, kind: str, scope: str) -> None:
    check_bases(bases)
    check_one_of("kind", kind, KINDS)
    check_one_of("scope", scope, SCOPES)


def _groups(shape: torch.Size, scope: str) -> int:
    return shape[0] if scope == "filter" else 1


class AbcWeight(BinaryForm):
    """A latent weight, of two dimensions or more, seen as a sum of matrices of signs.

    A file holds one symbol for each weight, and the scales.

    bases: M, how many matrices, from 1 to 16; 3 by default.
    kind: "abc" (default) or "greedy".
    scope: what shares one set of scales, the "layer" (default) or each "filter".
    train_shifts: whether u is trained as well, and stored beside the latent weight; False by default.
    Raises ValueError for another scope, kind or number of bases, and for shifts of the kind "greedy", which has none.
    """

    def __init__(self, bases: int = 3, *, kind: str = "abc", scope: str = "layer", train_shifts: bool = False) -> None:
        super().__init__()
        _check(bases, kind, scope)
        if train_shifts and kind != "abc":
            raise ValueError(f"train_shifts is for the kind 'abc', which has shifts, not {kind!r}")
        self.settings, self.train_shifts = (bases, kind, scope), train_shifts

    def extra_repr(self) -> str:
        more = ", train_shifts=True" if self.train_shifts else ""
        return "bases={}, kind={}, scope={}".format(*self.settings) + more

    def right_inverse(self, weight: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (weight, even_shifts(self.settings[0]).to(weight)) if self.train_shifts else weight

    def forward(self, *stored: Tensor) -> Tensor:
        return _Approximation.apply(self.settings, *stored)

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        latent, *shifts = stored
        signs, scales = approximate(latent, *self.settings, *shifts)
        return signs, scales.expand(-1, len(latent))

    def encode(self, *stored: Tensor) -> Encoding:
        """One symbol for each weight: how many of its signs are +1, or for "greedy" its signs as M bits."""
        latent, *shifts = stored
        count, kind, scope = self.settings
        signs, scales = approximate(latent, count, kind, scope, *shifts)
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
    def forward(ctx: Any, settings: tuple[int, str, str], latent: Tensor, shifts: Tensor | None = None) -> Tensor:
        signs, scales = _terms(latent, *settings, shifts)
        ctx.slope, ctx.scales = scales.sum(0)[:, None], scales
        if shifts is not None:
            ctx.save_for_backward(latent, shifts)
        return combine(signs, scales).to(latent.dtype).reshape(latent.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None]:
        rows = gradient.reshape(len(ctx.slope), -1)
        to_shifts = None
        if ctx.saved_tensors:
            latent, shifts = ctx.saved_tensors
            std = latent.reshape(rows.shape).std(1, correction=0)
            in_order = (ctx.scales * std * rows.sum(1)).sum(1)  # in the order of the sorted shifts
            to_shifts = torch.empty_like(shifts).scatter_(0, shifts.argsort(), in_order)
        return None, (rows * ctx.slope).reshape(gradient.shape), to_shifts


def binarize(
    model: nn.Module,
    *,
    names: Collection[str] | None = None,
    bases: int = 3,
    kind: str = "abc",
    scope: str = "layer",
    activation_bases: int | None = None,
    train_shifts: bool = False,
    replace_activations: bool = False,
    example: Tensor | None = None,
) -> nn.Module:
    """Binarize the weights, and if asked the inputs, of a network and return it; do not use the original afterwards.

    The weights of the named layers become sums of matrices of signs.

    model: the network.
    names: of linear and 2-d convolution layers; None (default): all but the first and the last.
    bases: M, matrices of signs for each weight, from 1 to 16; 3 by default.
    kind: of the matrices, "abc" (default) or "greedy".
    scope: what shares one set of scales, the "layer" (default) or each "filter".
    activation_bases: N, signs for each input of these layers, after a batch norm, from 1 to 16; None (default): inputs
      stay as they are.
    train_shifts: whether the thresholds of the matrices are trained too; False by default.
    replace_activations: whether these signs replace the activations before them, such as ReLU; False by default.
    example: a batch of the network's input, on which a binarized copy is tried; None (default): torch.fx traces the
      network to see which layers are called.

    Returns the model to use from now on. Raises ValueError for another number of bases, kind or scope, an unknown
    layer, if no layer is left, for weights that are not finite and, if inputs become signs, for a layer that is not
    called and a network that cannot be traced; the model is then unchanged.

    >>> from lib import models
    >>> model = binarize(models.lenet_300_100(), bases=2)
    >>> len(model.fc2.weight.unique())
    3
    """
    AbcWeight(bases, kind=kind, scope=scope, train_shifts=train_shifts)  # raises ValueError for other settings

    def form(name: str, _: object) -> AbcWeight | None:
        wanted = name in readers
        return AbcWeight(bases, kind=kind, scope=scope, train_shifts=train_shifts) if wanted else None

    if activation_bases is None:
        if replace_activations:
            raise ValueError("replace_activations needs activation_bases: without them, inputs are not binarized")
        readers = chosen(model, names)
        return compress(model, form)
    inputs = partial(AbcActivation, activation_bases)
    plan = planned(
        model,
        names,
        activation=inputs(),
        ends=("first", "last"),
        norm=True,
        remove=replace_activations,
        example=example,
    )
    readers = plan.readers

    def change(model: nn.Module) -> nn.Module:
        return read_activations(compress(model, form), plan, inputs)

    if example is not None:
        check_signs(change(copy.deepcopy(model)), example)
    return change(model)
