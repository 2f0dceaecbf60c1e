r"""Bipolar regularizer: weights are drawn to +1 and -1, where weight decay would draw them to 0.

Weight decay fights binary weights: near 0 a small step turns a sign. Its opposite (tang2017compact) is the penalty

.. math:: P = \tfrac12 \sum_i (1 - w_i^2), \quad w_i \in [-1, 1], \qquad
   \frac{\partial (C + \lambda P)}{\partial w_i} = \frac{\partial C}{\partial w_i} - \lambda w_i ,

least where every w is +1 or -1. A form keeps its latent weight within a limit c, so w = latent / c. The latent takes
the gradient of w as it takes that of the sign, as if it were w; a step of Adam is then the paper's with a learning rate
1 / c larger (:mod:`lib.binarization.binaryconnect`). Weights of :mod:`lib.binarization.bwn` have c = 1.

The same paper adds up several matrices of signs for what flows between layers, each for what those before it leave,

.. math:: A \approx \sum_k \beta_k H_k, \qquad H_k = \operatorname{sign}(R_k), \quad
   \beta_k = \operatorname{mean} \lvert R_k \rvert, \quad R_1 = A, \quad R_{k+1} = R_k - \beta_k H_k .
"""

import math

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared.signs import BinaryForm, Sign
from lib.datasets import Split
from lib.weights import compressed_form


def forms(model: nn.Module) -> list[tuple[BinaryForm, Tensor, float]]:
    """The form, the latent weight and its limit c of each layer with one sign for each weight; ValueError if none."""
    found = [compressed_form(module) for module in model.modules()]  # reads no weight: that may draw signs
    found = [each for each in found if each and isinstance(each[0], BinaryConnectWeight | BinaryWeight)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no BinaryConnectWeight or BinaryWeight: binarize it first")
    return [(form, latent, getattr(form, "limit", 1.0)) for form, (latent,) in found]


def penalty(model: nn.Module) -> Tensor:
    """P over all binary weights, a scalar: 0 where all are at their limits, half their number where all are 0."""
    return torch.stack([(1 - (latent / limit).square()).sum() / 2 for _, latent, limit in forms(model)]).sum()


@torch.no_grad()
def push(model: nn.Module, strength: float) -> None:
    """Add the gradient of strength · P, -strength · w, to that of each latent weight, after a backward pass."""
    for _, latent, limit in forms(model):
        if latent.grad is not None:
            latent.grad.sub_(latent, alpha=strength / limit)


def fit(model: nn.Module, split: Split, *, strength: float, epochs: int, seed: int, **how: object) -> list[float]:
    """Train as :func:`lib.binarization.binaryconnect.fit` does, on C + ``strength`` · P; return each epoch's mean C.

    ``strength`` is λ: below 0 it is L2 decay, in the same units, and 0 is training without a penalty. Weights are kept
    in [-c, c]. ``how`` goes to :func:`lib.training.fit`, with ``learning_rate`` 0.001, ``batch_size`` 100, ``loss``
    "squared_hinge" and ``weight_decay`` 0 where it does not say otherwise; ``before_epoch`` may count flips.
    Errors as those of that function, for a strength that is not finite, and for a model without binary weights.
    """
    bounded = [(latent, limit) for _, latent, limit in forms(model)]
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number, not {strength}")
    how = {"learning_rate": 1e-3, "batch_size": 100, "loss": "squared_hinge", "weight_decay": 0.0} | how

    def adam(groups: list[dict]) -> torch.optim.Optimizer:
        betas = (how.get("momentum", 0.9), 0.999)
        optimizer = torch.optim.Adam(groups, lr=how["learning_rate"], betas=betas, fused=True)
        optimizer.register_step_pre_hook(lambda *_: push(model, strength))
        return optimizer

    def keep_limits() -> None:
        with torch.no_grad():
            for latent, limit in bounded:
                latent.clamp_(-limit, limit)

    return training.fit(model, split, epochs=epochs, seed=seed, optimizer=adam, after_step=keep_limits, **how)


@torch.no_grad()
def signs(model: nn.Module) -> list[Tensor]:
    """The signs, +1 and -1, of the binary weights of each layer as they are now: what :func:`flips` compares."""
    return [form.bases(latent)[0][0] for form, latent, _ in forms(model)]


def flips(before: list[Tensor], after: list[Tensor]) -> float:
    """The share, in [0, 1], of signs that changed between two calls of :func:`signs`."""
    if [each.shape for each in before] != [each.shape for each in after]:
        raise ValueError(f"signs of two models: {len(before)} and {len(after)} layers must be of the same shapes")
    return torch.cat([(a != b).flatten() for a, b in zip(before, after, strict=True)]).double().mean().item()


@torch.no_grad()
def mean_size(model: nn.Module) -> float:
    """The mean of |w| = |latent| / c over all binary weights, in [0, 1]: near 1, few signs are about to change."""
    return torch.cat([(latent / limit).abs().flatten() for _, latent, limit in forms(model)]).double().mean().item()


@torch.no_grad()
def residual_signs(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""β (count,) and H (count, *shape of x), for the whole tensor: x is about the sum of β · H.

    Each term takes :math:`n \beta_k^2` off the squared distance to the n values. ValueError for an empty x or NaN.
    """
    if count < 1 or not x.numel() or not x.isfinite().all():
        raise ValueError(f"{count} signs for each of {x.numel()} values: at least 1 of each is needed, all finite")
    scales, matrices, rest = [], [], x
    for _ in range(count):
        matrices.append(Sign.apply(rest))
        scales.append(rest.abs().mean())
        rest = rest - scales[-1] * matrices[-1]
    return torch.stack(scales), torch.stack(matrices)
