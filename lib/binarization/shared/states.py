r"""Discrete weights, and the rule by which they move from state to state.

The space has :math:`2^N + 1` states with steps of :math:`\Delta z`; it is binary for N = 0 and ternary for N = 1
(deng2018gxnor):

.. math:: Z_N = \Big\{ \frac{n}{2^{N-1}} - 1 : n = 0, \dots, 2^N \Big\}, \qquad \Delta z = 2^{1-N} .
"""

import math
from typing import Any

import torch
from torch import Tensor

from lib.arguments import check_one_of
from lib.binarization.shared.signs import BinaryForm
from lib.weights import Encoding

LARGEST = 6  # N: a state n from 0 to 2^N must fit into int8
PROBABILITIES = ("tanh", "linear")


def check_space(space: int) -> None:
    """Raise ValueError unless ``space`` is a whole number N from 0 to 6."""
    if space not in range(LARGEST + 1):
        raise ValueError(f"space must be a whole number from 0 to {LARGEST}, not {space}")


class TernaryStates(BinaryForm):
    """A weight in Z_N, of any shape, kept only as the int8 buffer ``states``: the n of each weight.

    A weight that is already in Z_N is stored unchanged. Any other is divided by the mean of its |w| and rounded to the
    nearest state: for N = 1, to 0 where |w| is below half the mean.

    A backward pass adds the gradient of the dense weight to ``gradient``, where the optimizer
    :class:`lib.binarization.shared.state_optimizer.DiscreteStateTransition` finds it. The only parameter is empty.

    space: N, a whole number from 0 to 6; 1 by default.
    Raises ValueError for another space and, when a weight is stored, if it is not finite.

    >>> form = TernaryStates()
    >>> stored = form.right_inverse(torch.tensor([[0.9, -0.1, -1.2]]))
    >>> form(stored).tolist(), form.states.tolist()
    ([[1.0, 0.0, -1.0]], [[2, 1, 0]])
    """

    states: Tensor  # int8, a buffer: it is saved, loaded and moved with the layer

    def __init__(self, space: int = 1) -> None:
        super().__init__()
        check_space(space)
        self.space, self.step = int(space), 2.0 ** (1 - space)  # N and the size of a step
        self.gradient: Tensor | None = None
        self.register_buffer("states", None)

    def extra_repr(self) -> str:  # tells settings apart, for a reader and for the cache of trained networks
        return f"space={self.space}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        weight = weight.detach()
        if not weight.isfinite().all():
            raise ValueError("a weight holds NaN or infinity: finite ones are needed to choose states")
        states = self._nearest(weight)
        if not torch.equal(states * self.step - 1, weight):
            size = weight.abs().mean()
            states = self._nearest(weight / torch.where(size > 0, size, 1))
        self.gradient, self.states = None, states.to(torch.int8)
        # A parametrization must store a tensor. An empty one has the weight's type and place and costs nothing.
        return weight.new_zeros(0)

    def _nearest(self, weight: Tensor) -> Tensor:
        """n = (W + 1) / dz, rounded; a weight between two states goes to the upper one."""
        return ((weight.clamp(-1, 1) + 1) / self.step + 0.5).floor().clamp(max=2**self.space)

    def forward(self, stored: Tensor) -> Tensor:
        return _Dense.apply(stored, self)

    def bases(self, *stored: Tensor) -> tuple[Tensor, Tensor]:
        """W as a sum over k = 1, ..., 2^N of dz / 2 times +1 where n >= k, else -1; for N = 1: W >= 0 and W > 0."""
        (empty,) = stored
        k = torch.arange(1, 2**self.space + 1, dtype=torch.int8).reshape(-1, *[1] * self.states.dim())
        signs = 2 * (self.states >= k).to(empty.dtype) - 1
        return signs, empty.new_full((len(signs), len(self.states)), self.step / 2)

    def encode(self, *stored: Tensor) -> Encoding:
        return Encoding(symbols={"state": self.states.flatten().long()}, tables={"step": torch.tensor([self.step])})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        return encoding.symbols["state"].reshape(shape) * encoding.tables["step"] - 1

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"state": shape.numel()}, {"step": 1}


class _Dense(torch.autograd.Function):
    """W = n dz - 1, in the type of ``stored``; its gradient goes to the form, and nothing to ``stored``."""

    @staticmethod
    def forward(ctx: Any, stored: Tensor, form: TernaryStates) -> Tensor:
        ctx.form = form
        return form.states.to(stored.dtype) * form.step - 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        before = ctx.form.gradient
        ctx.form.gradient = gradient.detach() if before is None else before + gradient.detach()
        return None, None


def check_transition(probability: str, m: float) -> None:
    """Raise ValueError unless :func:`transition` takes these: "tanh" or "linear", and a finite number above 0."""
    check_one_of("probability", probability, PROBABILITIES)
    if not (math.isfinite(m) and m > 0):
        raise ValueError(f"m must be a finite number above 0, not {m}")


def transition(
    states: Tensor,
    increment: Tensor,
    *,
    space: int = 1,
    generator: torch.Generator | None = None,
    probability: str = "tanh",
    m: float = 3.0,
) -> Tensor:
    r"""Move weights in Z_N by real increments: whole steps always, the rest of a step with a probability.

    An increment is cut off where it would leave [-1, 1] (deng2018gxnor):

    .. math:: \rho = \min(1 - W, \Delta W) \ \text{ if } \Delta W \ge 0, \text{ else } \max(-1 - W, \Delta W), \qquad
       \rho = \kappa\, \Delta z + \nu, \quad \kappa = \mathrm{fix}(\rho / \Delta z),

    .. math:: W \leftarrow W + \kappa\, \Delta z + \operatorname{sgn}(\rho)\, \Delta z\, b, \qquad
       b \sim \mathrm{Bernoulli}\big(\tanh(m \lvert \nu \rvert / \Delta z)\big) .

    states: n of each weight, int8, any shape.
    increment: :math:`\Delta W` of each weight, floats of the same shape.
    space: N, a whole number from 0 to 6; 1 by default.
    generator: of the draws; None (default): torch's own.
    probability: "tanh" (default), as published, or "linear", :math:`\lvert \nu \rvert / \Delta z`, with which the mean
      of the new weight is :math:`W + \rho`.
    m: the slope of tanh; 3 by default.
    Returns the new states, int8.

    >>> states = torch.tensor([0, 1, 2], dtype=torch.int8)  # -1, 0 and 1
    >>> transition(states, torch.tensor([1.0, -1.0, 1.0])).tolist()  # whole steps are certain
    [1, 0, 2]
    """
    # method
    rho = increment / 2.0 ** (1 - space)  # in units of steps, so W is n, and -1 and 1 are 0 and 2^N
    rho = torch.minimum(torch.maximum(rho, -states), 2**space - states)
    kappa = rho.trunc()
    rest = (rho - kappa).abs()
    chance = torch.tanh(m * rest) if probability == "tanh" else rest
    more = torch.rand(rho.shape, generator=generator).to(rho.device) < chance  # b
    return states + (kappa + rho.sign() * more).to(torch.int8)
    # end of method
