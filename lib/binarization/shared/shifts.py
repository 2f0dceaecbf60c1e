r"""Batch norm and AdaMax whose factors are powers of two, so that shifting bits replaces multiplying.

A number is replaced by the power of two that is nearest in the exponent (courbariaux2016binarynet):

.. math:: \mathrm{AP2}(x) = \operatorname{sign}(x)\, 2^{\mathrm{round}(\log_2 \lvert x \rvert)}

Batch norm of the values x of a channel, with C(x) = x - mean, is then

.. math:: \sigma^2 = \operatorname{mean}\big(C(x)\, \mathrm{AP2}(C(x))\big), \qquad
   y = C(x)\, \mathrm{AP2}\big(1 / \sqrt{\sigma^2 + \epsilon}\big)\, \mathrm{AP2}(\gamma) + \beta ,

and a step of AdaMax with the gradient g

.. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \max(\beta_2 v, \lvert g \rvert), \quad
   w \leftarrow w - \mathrm{AP2}\Big(\frac{\eta}{1 - \beta_1^t}\Big) \frac{m}{\mathrm{AP2}(v)} .

Sums, means and the decay of the moments stay real. In the backward pass AP2(x) counts as x.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class _Ap2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # method
        part, exponent = torch.frexp(x.abs())  # x = part · 2^exponent, part from 1/2 to 1
        exponent = exponent - (part.double() < 0.5**0.5).int()  # round(log2 x) = exponent + round(log2 part)
        largest = math.frexp(torch.finfo(x.dtype).max)[1] - 1
        return x.sign() * torch.ldexp(torch.ones_like(x), exponent.clamp(max=largest))
        # end of method

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def ap2(x: Tensor) -> Tensor:
    """The nearest power of two of each value, with its sign; 0 stays 0. Its gradient is that of x.

    x: any shape, floats.

    >>> ap2(torch.tensor([3.0, -0.7, 0.0, 1.4])).tolist()
    [4.0, -0.5, 0.0, 1.0]
    """
    return _Ap2.apply(x)


class ShiftNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of rows, steps or images (n, channels, ...) whose factors are powers of two: see the two below."""

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        batch = self.training or self.running_mean is None
        kept: Any = self.running_mean, self.running_var
        mean = x.mean(axes) if batch else kept[0]
        # method
        centered = x - mean.reshape(shape)
        variance = (centered * ap2(centered)).mean(axes) if batch else kept[1]
        y = centered * ap2((variance + self.eps).rsqrt()).reshape(shape)
        if self.affine:
            y = y * ap2(self.weight).reshape(shape) + self.bias.reshape(shape)
        # end of method
        if self.training and self.track_running_stats:
            self._track(mean.detach(), variance.detach())
        return y

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        count: Any = self.num_batches_tracked
        count.add_(1)
        share = 1 / count.item() if self.momentum is None else self.momentum
        for kept, value in ((self.running_mean, mean), (self.running_var, variance)):
            if kept is not None:
                kept.lerp_(value, share)


class ShiftBatchNorm1d(ShiftNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d whose factors are powers of two. It takes the same arguments; its running variance is biased.

    >>> norm = ShiftBatchNorm1d(1, affine=False)
    >>> norm(torch.tensor([[0.0], [2.0], [4.0]])).flatten().tolist()  # the variance is 8/3
    [-1.0, 0.0, 1.0]
    """


class ShiftBatchNorm2d(ShiftNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d whose factors are powers of two, as in :class:`ShiftBatchNorm1d`."""


def shift_norms(model: nn.Module) -> nn.Module:
    """Let every nn.BatchNorm1d and nn.BatchNorm2d multiply by powers of two only. In place; returns the model.

    Parameters, statistics and modes stay.

    model: any network with batch norm; ValueError without.

    >>> from lib import models
    >>> type(shift_norms(models.mlp(hidden=(8,))).bn1).__name__
    'ShiftBatchNorm1d'
    """
    kinds: dict[type, type] = {nn.BatchNorm1d: ShiftBatchNorm1d, nn.BatchNorm2d: ShiftBatchNorm2d}
    norms = [module for module in model.modules() if type(module) in kinds]
    if not norms:
        raise ValueError(f"{type(model).__name__} has no batch norm of rows or images: it needs one before its signs")
    for norm in norms:
        norm.__class__ = kinds[type(norm)]
    return model


class ShiftAdaMax(torch.optim.Optimizer):
    """AdaMax whose learning rate and divisors are powers of two.

    parameters: tensors, or groups of them as torch's optimizers take them.
    lr: the learning rate; 2^-10 by default.
    betas: decay rates of m and v, from 0 to below 1; 1 - 2^-3 and 1 - 2^-10 by default.
    weight_decay: added to the gradient, times the parameter; 0 by default.

    Raises ValueError for a learning rate that is not a finite number above 0, and for other decay rates.

    >>> w = nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = ShiftAdaMax([w], lr=0.3)  # the nearest power of two is 0.25; at first it is divided by 2^-3
    >>> (5 * w).sum().backward()
    >>> optimizer.step()
    >>> w.item()  # m = 5 / 8 over AP2(5) = 4, times AP2(0.3 · 8) = 2
    0.6875
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        lr: float = 2**-10,
        betas: tuple[float, float] = (1 - 2**-3, 1 - 2**-10),
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 < lr < float("inf"):
            raise ValueError(f"lr must be a finite number above 0, not {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be from 0 to below 1, not {betas}")
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient.

        closure: computes the loss and its gradients first, as torch's optimizers take it; None by default.
        Returns what the closure returns, or None.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                gradient, state = p.grad.add(p, alpha=group["weight_decay"]), self.state[p]
                if not state:
                    state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                # method
                state["step"] += 1
                m = state["m"].lerp_(gradient, 1 - first)
                v = torch.maximum(state["v"].mul_(second), gradient.abs(), out=state["v"])
                rate = ap2(torch.tensor(group["lr"] / (1 - first ** state["step"]))).item()
                p.sub_(m * (rate / ap2(v)).nan_to_num(posinf=0.0))  # without any gradient yet, v and m are 0
                # end of method
        return loss
