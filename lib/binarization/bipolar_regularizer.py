r"""Bipolar regularizer: weights are drawn to +1 and -1, where weight decay would draw them to 0.

Weight decay fights binary weights: near 0 a small step turns a sign. Its opposite (tang2017compact) is the penalty

.. math:: P = \tfrac12 \sum_i (1 - w_i^2), \quad w_i \in [-1, 1], \qquad
   \frac{\partial (C + \lambda P)}{\partial w_i} = \frac{\partial C}{\partial w_i} - \lambda w_i ,

least where every w is +1 or -1. A form keeps its latent weight within a limit c, so w = latent / c, and the latent takes
the gradient of w as it takes that of the sign: straight through. A step of Adam is then the paper's with a learning
rate 1 / c larger, as in :mod:`lib.binarization.binaryconnect`. For the weights of :mod:`lib.binarization.bwn` c = 1.

The same paper adds up several matrices of signs for what flows between layers, each for what those before it leave,

.. math:: A \approx \sum_k \beta_k H_k, \qquad H_k = \operatorname{sign}(R_k), \quad
   \beta_k = \operatorname{mean} \lvert R_k \rvert, \quad R_1 = A, \quad R_{k+1} = R_k - \beta_k H_k .
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization._signs import Sign, clip
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.data import Split
from lib.weights import compressed_form, layers


def forms(model: nn.Module) -> dict[str, tuple[BinaryConnectWeight | BinaryWeight, Tensor, float]]:
    """Layer name -> form, latent weight and limit c. Raises ValueError where no layer has a sign for each weight."""
    found = {name: compressed_form(layer) for name, layer in layers(model)}
    found = {name: each for name, each in found.items() if each and isinstance(each[0], KINDS)}
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no binary weights: accepted are those of binaryconnect, bnn, bwn and xnor_net"
        )
    return {name: (form, stored[0], getattr(form, "limit", 1.0)) for name, (form, stored) in found.items()}


KINDS = BinaryConnectWeight | BinaryWeight


def penalty(model: nn.Module) -> Tensor:
    """P over all binary weights, a scalar: 0 where all are at their limits, half their number where all are 0."""
    return sum(((1 - (latent / limit).square()).sum() / 2 for _, latent, limit in forms(model).values()))


@torch.no_grad()
def push(model: nn.Module, strength: float) -> None:
    """Add the gradient of strength · P, -strength · w, to that of each latent weight, after a backward pass."""
    for _, latent, limit in forms(model).values():
        if latent.grad is not None:
            latent.grad.sub_(latent, alpha=strength / limit)


def fit(
    model: nn.Module,
    split: Split,
    *,
    strength: float,
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    batch_size: int = 100,
    loss: str = "squared_hinge",
    weight_decay: float = 0.0,
    shift: int = 0,
    before_epoch: Callable[[int], None] | None = None,
) -> list[float]:
    """Train as :func:`lib.binarization.binaryconnect.fit` does, on C + ``strength`` · P; return each epoch's mean C.

    ``strength`` is λ. One below 0 is ordinary L2 decay of the same strength, in the same units, and 0 is training as it
    was. ``before_epoch(i)`` is called before epoch i, for instance to count the signs that changed.
    Errors as those of :func:`lib.training.fit`, and ValueError for a model without binary weights.
    """
    bounded = [(latent, limit) for _, latent, limit in forms(model).values()]
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number, not {strength}")

    def adam(groups: list[dict]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=(0.9, 0.999), fused=True)
        optimizer.register_step_pre_hook(lambda *_: push(model, strength))
        return optimizer

    def keep_limits() -> None:
        clip(model)
        with torch.no_grad():
            for latent, limit in bounded:
                latent.clamp_(-limit, limit)

    how = {"batch_size": batch_size, "loss": loss, "weight_decay": weight_decay, "shift": shift}
    how |= {"optimizer": adam, "before_epoch": before_epoch, "after_step": keep_limits}
    return training.fit(model, split, epochs=epochs, seed=seed, learning_rate=learning_rate, **how)


@torch.no_grad()
def signs(model: nn.Module) -> dict[str, Tensor]:
    """Layer name -> the signs, +1 and -1, of its binary weights now: for :func:`flips`."""
    return {name: form.bases(latent)[0][0] for name, (form, latent, _) in forms(model).items()}


def flips(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """The share of signs that are others in ``after`` than in ``before``, both of :func:`signs`, in [0, 1]."""
    if {name: each.shape for name, each in before.items()} != {name: each.shape for name, each in after.items()}:
        raise ValueError(f"signs of different models: layers {', '.join(before)} and {', '.join(after)}")
    changed = sum((before[name] != after[name]).sum().item() for name in before)
    return changed / sum(each.numel() for each in before.values())


@torch.no_grad()
def mean_size(model: nn.Module) -> float:
    """The mean of |w| = |latent| / c over all binary weights: in [0, 1], near 1 where few signs can change soon."""
    found = forms(model).values()
    return sum((latent / c).abs().sum().item() for _, latent, c in found) / sum(
        latent.numel() for _, latent, _ in found
    )


@torch.no_grad()
def residual_signs(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""β (count,) and H (count, *shape of x), for the whole tensor: x is about the sum of β · H.

    Each takes :math:`n \beta_k^2` from the squared distance to x of n values. Raises ValueError for an empty x, one
    that is not finite, and a count below 1.
    """
    if count < 1 or x.numel() == 0 or not x.isfinite().all():
        raise ValueError(f"{count} signs for each of {x.numel()} values: at least 1 of each is needed, all finite")
    scales, matrices, rest = [], [], x
    for _ in range(count):
        matrices.append(Sign.apply(rest))
        scales.append(rest.abs().mean())
        rest = rest - scales[-1] * matrices[-1]
    return torch.stack(scales), torch.stack(matrices)
