r"""Gated XNOR network: three values for weights and activations, and no real copy of the weights in training.

Weights live in a discrete space of steps :math:`\Delta z`, ternary for N = 1 and binary for N = 0 (deng2018gxnor):

.. math:: Z_N = \Big\{ \frac{n}{2^{N-1}} - 1 : n = 0, \dots, 2^N \Big\}, \qquad \Delta z = 2^{1-N} .

Any optimizer gives a real increment :math:`\Delta W`, which is cut off where it would leave [-1, 1]. The rest,
:math:`\rho`, is :math:`\kappa` whole steps and a remainder :math:`\nu`, which becomes one more step with a probability
that grows with it (:func:`lib.binarization.shared.states.transition`):

.. math:: W \leftarrow W + \kappa\, \Delta z + \operatorname{sgn}(\rho)\, \Delta z\, b, \qquad
   b \sim \mathrm{Bernoulli}\big(\tanh(m \lvert \nu \rvert / \Delta z)\big), \quad m = 3 .

So a learning rate sets a probability, since Adam's increment is about as large as its rate. The activations are

.. math:: \varphi_r(x) = 1 \text{ if } x > r, \quad -1 \text{ if } x < -r, \quad 0 \text{ else,}

and an operation can be skipped where either operand is 0. Adam keeps two real moments for each weight, and batch norm
is real. So "no real values" is true only of the weights; with ``increment="sgd"`` or ``"sign"`` it is also true of
their optimizer.

The authors' code keeps the network with the lowest test error. After 15 epochs without a lower one, it gives each
weight a random state with a probability of 0.8. :func:`fit` does the same on a validation split, if one is given.
"""

import copy
import math
from collections.abc import Collection
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import training
from lib.arguments import check_one_of
from lib.binarization.shared.conversion import check_classes, closed, free
from lib.binarization.shared.plans import check_signs, planned, read_activations
from lib.binarization.shared.restarts import Restarts
from lib.binarization.shared.signs import Activation
from lib.binarization.shared.state_optimizer import DiscreteStateTransition
from lib.binarization.shared.states import LARGEST, TernaryStates, check_space
from lib.datasets import Split
from lib.training import LoopOptions
from lib.weights import compress

DERIVATIVES = ("rectangular", "triangular")
FIT_DEFAULTS: LoopOptions = {"batch_size": 256, "loss": "squared_hinge", "weight_decay": 0.0}


def check_activation(r: float, a: float, derivative: str, space: int = 1) -> None:
    """Raise ValueError unless :class:`TernaryActivation` takes these settings."""
    check_one_of("derivative", derivative, DERIVATIVES)
    if not (math.isfinite(r) and r >= 0 and math.isfinite(a) and a > 0):
        raise ValueError(f"r must be 0 or more and a above 0, both finite, not {r} and {a}")
    if space not in range(1, LARGEST + 1):
        raise ValueError(f"the space of activations must be a whole number from 1 to {LARGEST}, not {space}")
    if space > 1 and r >= 1:
        raise ValueError(f"r must be below 1 where activations have more than three values, not {r}")


class TernaryActivation(Activation):
    r"""phi_r(x), for x of any shape: 1 where x > r, -1 where x < -r, else 0. The published default is r = a = 0.5.

    For N > 1 the values are those of :math:`Z_N`, and the output rises by :math:`\Delta z = 2^{1-N}` at each
    :math:`r_k = r + (k - 1) (1 - r)\, \Delta z`, k = 1, ..., 2^(N-1), and at the same places below 0.

    r: threshold, from 0; 0.5 by default.
    a: half the width of the derivative around each step, above 0; 0.5 by default.
    derivative: "rectangular" (default), the sum of 1 / (2 a) where \|\|x\| - r_k\| <= a, or "triangular", that of
      max(0, 1 - \|\|x\| - r_k\| / a) / a, both times the height of a step.
    space: N, from 1 (three values, the default) to 6 (65 values).
    Raises ValueError for another derivative or space, r below 0 (or from 1, for N > 1), and a not above 0.

    >>> TernaryActivation()(torch.tensor([-2.0, -0.5, 0.4, 0.6])).tolist()
    [-1.0, 0.0, 0.0, 1.0]
    >>> TernaryActivation(space=2)(torch.tensor([-2.0, -0.5, 0.4, 0.6])).tolist()
    [-1.0, 0.0, 0.0, 0.5]
    """

    def __init__(self, r: float = 0.5, a: float = 0.5, derivative: str = "rectangular", space: int = 1) -> None:
        super().__init__()
        check_activation(r, a, derivative, space)
        self.r, self.a, self.derivative, self.space = r, a, derivative, int(space)

    def extra_repr(self) -> str:
        more = f", space={self.space}" if self.space > 1 else ""
        return f"r={self.r}, a={self.a}, derivative={self.derivative}{more}"

    def forward(self, x: Tensor) -> Tensor:
        return _Discrete.apply(x, self.steps(), self.a, self.derivative)

    def steps(self) -> list[float]:
        """The r_k: thresholds above 0 at which the output goes from one value to the next."""
        count = 2 ** (self.space - 1)
        return [self.r + k * (1 - self.r) / count for k in range(count)]

    def bases(self) -> list[tuple[float, float]]:
        found, height = [], 2.0 ** (1 - self.space)
        for r in map(np.float32, self.steps()):  # in float32, as the kernels read them
            above = np.nextafter(r, np.float32(np.inf))  # x > r is x >= the next float
            found += [(float(-r), height / 2), (float(above), height / 2)]
        return found


class _Discrete(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: list[float], a: float, derivative: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = steps, a, derivative
        # 0 where -r <= x <= r: eighteen times as fast as comparing
        parts = [functional.hardshrink(x, r).sign_() for r in steps]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0) / len(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (steps, a, derivative), x = ctx.settings, ctx.saved_tensors[0].abs()
        if derivative == "rectangular":
            passed = [gradient * ((x >= r - a) & (x <= r + a)) / (2 * a) for r in steps]
        else:
            passed = [gradient * (1 - (x - r).abs() / a).clamp(min=0) / a for r in steps]
        return passed[0] if len(passed) == 1 else torch.stack(passed).sum(0) / len(passed), None, None, None


def ternarize(
    model: nn.Module,
    *,
    names: Collection[str] | None = None,
    classes: int | None = None,
    space: int = 1,
    r: float = 0.5,
    a: float = 0.5,
    derivative: str = "rectangular",
    activation_space: int = 1,
    example: Tensor | None = None,
) -> nn.Module:
    """Turn the weights and inputs of a network ternary and return it; do not use the original afterwards.

    The weights of the named layers become :class:`lib.binarization.shared.states.TernaryStates`. These layers, except
    for those that read the network's input, get a :class:`TernaryActivation` before them. It replaces the activation
    there, such as ReLU; odd functions such as tanh stay. If it follows no batch norm, it gets one.

    model: the network.
    names: of linear and 2-d convolution layers that are called; None (default): all of them. Layers whose weight is
      read without a call, such as the output layer of attention, then get ternary weights only.
    classes: width of the output, which then gets a batch norm of its own; None (default): the output stays as it is.
    space: N of the weights' space, 0 (binary), 1 (ternary, default) to 6.
    r: threshold of the activation, from 0; 0.5 by default.
    a: half the width of its derivative around r and -r, above 0; 0.5 by default.
    derivative: of the activation, "rectangular" (default) or "triangular".
    activation_space: N of the activation's space, 1 (three values, default) to 6.
    example: a batch of the network's input, on which a copy is tried; None (default): torch.fx traces the network.

    Returns the model to use from now on. Raises ValueError for an unknown setting or layer, a layer that is not called,
    if no layer is left, for an activation that is called as a function or is read by others too, an input that stays on
    one side of 0, a network that cannot be traced, and weights that are shared or not finite; the model is then
    unchanged.

    >>> from lib import models
    >>> model = ternarize(models.mlp(hidden=(8,)))
    >>> sorted(set(model.fc1.weight.flatten().tolist()))
    [-1.0, 0.0, 1.0]
    """
    check_space(space)
    check_activation(r, a, derivative, activation_space)
    check_classes(classes)

    def activation() -> TernaryActivation:
        return TernaryActivation(r, a, derivative, activation_space)

    plan = planned(model, names, activation=activation(), named_ends=False, remove=True, example=example)
    ternary = free(model) if names is None else names

    def change(model: nn.Module) -> nn.Module:
        compress(model, lambda name, layer: TernaryStates(space) if name in ternary else None)
        return closed(read_activations(model, plan, activation), classes)

    if example is not None:
        check_signs(change(copy.deepcopy(model)), example)
    return change(model)


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    increment: str = "adam",
    probability: str = "tanh",
    learning_rate: float = 0.1,
    real_learning_rate: float | None = None,
    validation: Split | None = None,
    patience: int = 15,
    **options: Unpack[LoopOptions],
) -> list[float]:
    """Train a ternarized model by :class:`DiscreteStateTransition`, in place.

    model: as :func:`ternarize` returns it.
    split: images and labels to train on.
    epochs: how often to go through the split.
    seed: of the order of images, the shifts and the draws of the transitions.
    increment: what moves a discrete weight: "adam" (default), "sgd" or "sign".
    probability: of one more step for the remainder of an increment: "tanh" (default) or "linear".
    learning_rate: of the discrete weights; 0.1 by default.
    real_learning_rate: of biases, batch norm and everything else that is real; None (default): the same. Set it for the
      increments "sgd" and "sign": they are the gradient, or its sign, times the rate, while Adam's increment is about
      the rate itself.
    validation: split on which the network is judged after each epoch. Training ends with the network of the lowest
      error, and restarts from random states if the error stops falling. None (default): neither.
    patience: epochs without a lower error before a restart; 15 by default.
    options: of the training, see :func:`lib.training.fit`:

      - batch_size: images in a step; 256 by default.
      - loss: "squared_hinge" (default), "cross_entropy" or "squared_error".
      - weight_decay: of real parameters of two dimensions or more; 0 by default.
      - shift: pixels by which each image is moved at most, in both directions; 0 by default.

    Returns each epoch's mean loss. Raises TypeError for other options, and ValueError for an unknown setting, an empty
    split, a model that is not ternarized, and a loss or gradient that is not finite.
    """
    training.check_options(options, kinds=LoopOptions)

    def optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        # The only parameter of a discrete weight is an empty tensor, which tells it from real parameters.
        rates = {False: learning_rate, True: learning_rate if real_learning_rate is None else real_learning_rate}
        groups = [
            group | {"params": [p for p in group["params"] if (p.numel() > 0) == real], "lr": rate}
            for group in groups
            for real, rate in rates.items()
        ]
        return DiscreteStateTransition(
            model, groups, lr=learning_rate, increment=increment, probability=probability, seed=seed
        )

    restarts = None if validation is None else Restarts(model, validation, patience=patience, seed=seed)
    losses = training.fit(
        model,
        split,
        epochs=epochs,
        seed=seed,
        optimizer=optimizer,
        before_epoch=restarts,
        **FIT_DEFAULTS | options,
    )
    if restarts is not None:
        restarts.finish()
    return losses
