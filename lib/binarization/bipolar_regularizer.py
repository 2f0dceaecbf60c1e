r"""Bipolar regularizer: it pulls weights to +1 and -1, where weight decay would pull them to 0.

Weight decay works against binary weights, since near 0 a small step flips a sign. Its opposite (tang2017compact) is the
penalty

.. math:: P = \tfrac12 \sum_i (1 - w_i^2), \quad w_i \in [-1, 1], \qquad
   \frac{\partial (C + \lambda P)}{\partial w_i} = \frac{\partial C}{\partial w_i} - \lambda w_i ,

which is least where every w is +1 or -1. A form keeps its latent weight in [-c, c], so w = latent / c. The gradient of
w is applied to the latent weight unchanged, like the gradient of the sign; a step of Adam is then the paper's with a
learning rate 1 / c times as large (:mod:`lib.binarization.binaryconnect`). Weights of :mod:`lib.binarization.bwn` have
c = 1.

The same paper approximates activations by several matrices of signs, each for what the ones before it leave over:

.. math:: A \approx \sum_k \beta_k H_k, \qquad H_k = \operatorname{sign}(R_k), \quad
   \beta_k = \operatorname{mean} \lvert R_k \rvert, \quad R_1 = A, \quad R_{k+1} = R_k - \beta_k H_k .

:func:`residual_signs` computes them. Left out: networks that are trained with them, with PReLU, and with a layer of
scales after a last layer of signs.
"""

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization.binaryconnect import FIT_DEFAULTS, BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared.signs import BinaryForm, Sign
from lib.datasets import Split
from lib.training import LoopOptions
from lib.weights import compressed


def forms(model: nn.Module) -> list[tuple[BinaryForm, Tensor, float]]:
    """(form, latent weight, limit c) of each layer that has one sign for each weight.

    model: with weights of :mod:`lib.binarization.binaryconnect` or :mod:`lib.binarization.bwn`; ValueError if none.
    """
    binary: list[tuple[BinaryForm, Tensor, float]] = []
    for _, form, (latent, *_) in compressed(model):  # not layers(): reading a weight may draw signs
        if isinstance(form, BinaryConnectWeight | BinaryWeight):
            binary.append((form, latent, getattr(form, "limit", 1.0)))
    if not binary:
        raise ValueError(f"{type(model).__name__} has no BinaryConnectWeight or BinaryWeight: binarize it first")
    return binary


def penalty(model: nn.Module) -> Tensor:
    """P, summed over all binary weights: a scalar, 0 if all are at their limits and half their number if all are 0.

    model: with weights of :mod:`lib.binarization.binaryconnect` or :mod:`lib.binarization.bwn`; ValueError if none.
    """
    # method
    return torch.stack([(1 - (latent / limit).square()).sum() / 2 for _, latent, limit in forms(model)]).sum()
    # end of method


@torch.no_grad()
def push(model: nn.Module, strength: float) -> None:
    """Add the gradient of strength · P, which is -strength · w, to the gradient of each latent weight. In place.

    model: with binary weights, after a backward pass; ValueError if there are none.
    strength: λ.
    """
    # method
    for _, latent, limit in forms(model):
        if latent.grad is not None:
            latent.grad.sub_(latent, alpha=strength / limit)
    # end of method


def fit(
    model: nn.Module,
    split: Split,
    *,
    strength: float,
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    before_epoch: Callable[[int], None] | None = None,
    **options: Unpack[LoopOptions],
) -> list[float]:
    """Train a network with binary weights by Adam on C + strength · P, with weights kept in [-c, c]. In place.

    model: with weights of :mod:`lib.binarization.binaryconnect` or :mod:`lib.binarization.bwn`.
    split: images and labels to train on.
    strength: λ, any finite number: above 0 weights are pulled to ±c, below 0 it is L2 decay in the same units, and 0 is
      training without a penalty.
    epochs: how often to go through the split.
    seed: of the order of images and the shifts.
    learning_rate: of Adam; 0.001 by default.
    momentum: Adam's first decay rate; 0.9 by default.
    before_epoch: called with i before epoch i, for example to note the signs; None by default.
    options: of the training, see :func:`lib.training.fit`:

      - batch_size: images in a step; 100 by default.
      - loss: C, "squared_hinge" (default), "cross_entropy" or "squared_error".
      - weight_decay: of parameters of two dimensions or more, besides the penalty; 0 by default.
      - shift: pixels by which each image is moved at most, in both directions; 0 by default.

    Returns each epoch's mean C. Raises TypeError for other options, and ValueError for a strength or loss that is not
    finite, a model without binary weights, an empty split, and an unknown loss.

    >>> from lib import models
    >>> from lib.binarization import binaryconnect
    >>> model = binaryconnect.binarize(models.mlp(inputs=4, hidden=(8,), classes=3))
    >>> split = Split(torch.rand(12, 1, 2, 2), torch.arange(12) % 3)
    >>> len(fit(model, split, strength=1e-3, epochs=2, seed=0)), 0 <= mean_size(model) <= 1
    (2, True)
    """
    training.check_options(options, kinds=LoopOptions)
    bounded = [(latent, limit) for _, latent, limit in forms(model)]
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number, not {strength}")

    def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=(momentum, 0.999), fused=True)
        optimizer.register_step_pre_hook(lambda *_: push(model, strength))
        return optimizer

    def keep_limits() -> None:
        with torch.no_grad():
            for latent, limit in bounded:
                latent.clamp_(-limit, limit)

    return training.fit(
        model,
        split,
        epochs=epochs,
        seed=seed,
        optimizer=adam,
        before_epoch=before_epoch,
        after_step=keep_limits,
        **FIT_DEFAULTS | options,
    )


@torch.no_grad()
def signs(model: nn.Module) -> list[Tensor]:
    """The current signs of the binary weights, +1 and -1: one tensor for each layer, for :func:`flips` to compare."""
    return [form.bases(latent)[0][0] for form, latent, _ in forms(model)]


def flips(before: list[Tensor], after: list[Tensor]) -> float:
    """The share of signs that flipped between two calls of :func:`signs`, from 0 to 1.

    before: what the first call returned.
    after: what the second returned. Raises ValueError if the shapes differ.

    >>> flips([torch.tensor([1.0, -1.0])], [torch.tensor([1.0, 1.0])])
    0.5
    """
    if [layer.shape for layer in before] != [layer.shape for layer in after]:
        raise ValueError(f"before and after must have equal shapes: they have {len(before)} and {len(after)} layers")
    return torch.cat([(a != b).flatten() for a, b in zip(before, after, strict=True)]).double().mean().item()


@torch.no_grad()
def mean_size(model: nn.Module) -> float:
    """The mean of |w| = |latent| / c over all binary weights, from 0 to 1; near 1, few signs are about to flip.

    model: with weights of :mod:`lib.binarization.binaryconnect` or :mod:`lib.binarization.bwn`; ValueError if none.
    """
    return torch.cat([(latent / limit).abs().flatten() for _, latent, limit in forms(model)]).double().mean().item()


@torch.no_grad()
def residual_signs(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""Approximate x by a sum of β · H, with H matrices of signs. Each takes :math:`n \beta_k^2` off the squared error.

    x: any shape, n values.
    count: of the terms, from 1.
    Returns β, (count,), and H, (count, *shape of x). Raises ValueError for an empty x and values that are not finite.
    """
    if count < 1 or not x.numel() or not x.isfinite().all():
        raise ValueError(f"count must be 1 or more and x finite and not empty, not {count} and {x.numel()} values")
    scales, matrices, rest = [], [], x
    for _ in range(count):
        matrices.append(Sign.apply(rest))
        scales.append(rest.abs().mean())
        rest = rest - scales[-1] * matrices[-1]
    return torch.stack(scales), torch.stack(matrices)
