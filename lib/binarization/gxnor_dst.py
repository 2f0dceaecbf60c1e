r"""Gated XNOR network: three values for weights and signals, and no real copy of the weights in training.

Weights live in a discrete space of steps :math:`\Delta z`, ternary for N = 1 and binary for N = 0 (deng2018gxnor):

.. math:: Z_N = \Big\{ \frac{n}{2^{N-1}} - 1 : n = 0, \dots, 2^N \Big\}, \qquad \Delta z = 2^{1-N} .

Any optimizer gives a real increment :math:`\Delta W`. What of it would leave [-1, 1] is cut off; what is left,
:math:`\rho`, is a whole number of steps :math:`\kappa` and a remainder :math:`\nu`, and the remainder becomes one more
step with a probability (:func:`lib.binarization.shared.states.transition`):

.. math:: W \leftarrow W + \kappa\, \Delta z + \operatorname{sgn}(\rho)\, \Delta z\, b, \qquad
   b \sim \mathrm{Bernoulli}\big(\tanh(m \lvert \nu \rvert / \Delta z)\big), \quad m = 3 .

So a learning rate is a probability: Adam's increment is about as large as its rate. What flows between the layers is

.. math:: \varphi_r(x) = 1 \text{ if } x > r, \quad -1 \text{ if } x < -r, \quad 0 \text{ else,}

and an operation can be skipped where either operand is 0. Adam keeps two real moments for each weight, and batch norm
is real: "no real values" is true of the weights alone; with ``increment="sgd"`` or ``"sign"`` it is true of their
optimizer too.
"""

import math
from collections.abc import Collection
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import training
from lib.binarization.shared.conversion import EPSILON, chosen, read_activations
from lib.binarization.shared.signs import LAYERS
from lib.binarization.shared.state_optimizer import DiscreteStateTransition
from lib.binarization.shared.states import TernaryStates, check_space
from lib.datasets import Split
from lib.training import LoopOptions
from lib.weights import check_one_of, compress, layers

DERIVATIVES = ("rectangular", "triangular")
FIT_DEFAULTS: LoopOptions = {"batch_size": 256, "loss": "squared_hinge", "weight_decay": 0.0}


def check_activation(r: float, a: float, derivative: str) -> None:
    """Raise ValueError unless :class:`TernaryActivation` takes these: r from 0, a above 0, both finite."""
    check_one_of("derivative", derivative, DERIVATIVES)
    if not (math.isfinite(r) and r >= 0 and math.isfinite(a) and a > 0):
        raise ValueError(f"r must be 0 or more and a above 0, both finite, not {r} and {a}")


class TernaryActivation(nn.Module):
    """phi_r(x), for x of any shape: 1 where x > r, -1 where x < -r, else 0. The published default is r = a = 0.5.

    r: threshold, from 0; 0.5 by default.
    a: half the width of the derivative around r and -r, above 0; 0.5 by default.
    derivative: "rectangular" (default), 1 / (2 a) where r - a <= |x| <= r + a, or "triangular",
      max(0, 1 - ||x| - r| / a) / a.
    Raises ValueError for another derivative, r below 0, and a not above 0.

    >>> TernaryActivation()(torch.tensor([-2.0, -0.5, 0.4, 0.6])).tolist()
    [-1.0, 0.0, 0.0, 1.0]
    """

    def __init__(self, r: float = 0.5, a: float = 0.5, derivative: str = "rectangular") -> None:
        super().__init__()
        check_activation(r, a, derivative)
        self.r, self.a, self.derivative = r, a, derivative

    def extra_repr(self) -> str:
        return f"r={self.r}, a={self.a}, derivative={self.derivative}"

    def forward(self, x: Tensor) -> Tensor:
        return _Ternary.apply(x, self.r, self.a, self.derivative)

    def bases(self) -> list[tuple[float, float]]:
        """(threshold t, factor b) of each term of the output, the sum of b · (+1 where x >= t, else -1)."""
        r = np.float32(self.r)  # of float32, which the kernels read
        return [(float(-r), 0.5), (float(np.nextafter(r, np.float32(np.inf))), 0.5)]  # x > r is x >= the next float


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, r: float, a: float, derivative: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = r, a, derivative
        return functional.hardshrink(x, r).sign_()  # 0 where -r <= x <= r: eighteen times as fast as comparing

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (r, a, derivative), x = ctx.settings, ctx.saved_tensors[0].abs()
        if derivative == "rectangular":
            return gradient * ((x >= r - a) & (x <= r + a)) / (2 * a), None, None, None
        return gradient * (1 - (x - r).abs() / a).clamp(min=0) / a, None, None, None


def ternarize(
    model: nn.Module,
    *,
    names: Collection[str] | None = None,
    classes: int | None = None,
    space: int = 1,
    r: float = 0.5,
    a: float = 0.5,
    derivative: str = "rectangular",
) -> nn.Module:
    """Turn the weights and inputs of a network ternary and return it; do not use the original afterwards.

    The weights of the named layers become :class:`lib.binarization.shared.states.TernaryStates`. All of these layers
    but the network's first, which reads the image, get a :class:`TernaryActivation` before them; ReLU modules before
    them are removed. A network without batch norm gets one before each activation.

    names: of linear and 2-d convolution layers; None (default): all of them.
    classes: width of the output, which then gets a batch norm of its own; None (default): the output stays as it is.
    space: N of the weights' space, 0 (binary), 1 (ternary, default) to 6.
    r: threshold of the activation, from 0; 0.5 by default.
    a: half the width of its derivative around r and -r, above 0; 0.5 by default.
    derivative: of the activation, "rectangular" (default) or "triangular".

    Returns the model to use from now on. Raises ValueError for an unknown setting or layer, where no layer is left,
    and for weights that are shared or not finite; the model is then as it was.

    >>> from lib import models
    >>> model = ternarize(models.mlp(hidden=(8,)))
    >>> sorted(set(model.fc1.weight.flatten().tolist()))
    [-1.0, 0.0, 1.0]
    """
    check_space(space)
    check_activation(r, a, derivative)
    accepted = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
    names = chosen(model, accepted if names is None else names)
    readers = [name for name in names if name != accepted[0]]
    compress(model, lambda name, layer: TernaryStates(space) if name in names else None)
    model = read_activations(model, readers, lambda: TernaryActivation(r, a, derivative))
    return model if classes is None else nn.Sequential(model, nn.BatchNorm1d(classes, eps=EPSILON))


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
    **options: Unpack[LoopOptions],
) -> list[float]:
    """Train a ternarized model by :class:`DiscreteStateTransition`, in place.

    model: as :func:`ternarize` returns it.
    split: images and labels to train on.
    epochs: how often to go through the split.
    seed: of the order of images, the shifts and the draws of the transitions.
    increment: what moves a weight in states: "adam" (default), "sgd" or "sign".
    probability: of one more step for the rest of an increment: "tanh" (default) or "linear".
    learning_rate: of the weights in states; 0.1 by default.
    real_learning_rate: of biases, batch norm and all else that is real; None (default): the same. Increments "sgd" and
      "sign" need one of its own: their unit is the gradient, or its sign, times the rate, while Adam's increment is
      about the rate itself.
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
        # Weights in states have one parameter, an empty tensor: no elements tells them from what is real.
        rates = {False: learning_rate, True: learning_rate if real_learning_rate is None else real_learning_rate}
        groups = [
            group | {"params": [p for p in group["params"] if (p.numel() > 0) == real], "lr": rate}
            for group in groups
            for real, rate in rates.items()
        ]
        return DiscreteStateTransition(
            model, groups, lr=learning_rate, increment=increment, probability=probability, seed=seed
        )

    return training.fit(model, split, epochs=epochs, seed=seed, optimizer=optimizer, **FIT_DEFAULTS | options)
