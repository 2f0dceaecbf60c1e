r"""Gated XNOR network: three values for weights and signals, and no real copy of the weights in training.

Weights live in a discrete space of steps :math:`\Delta z`, ternary for N = 1 and binary for N = 0 (deng2018gxnor):

.. math:: Z_N = \Big\{ \frac{n}{2^{N-1}} - 1 : n = 0, \dots, 2^N \Big\}, \qquad \Delta z = 2^{1-N} .

Any optimizer gives a real increment :math:`\Delta W`. What of it would leave [-1, 1] is cut off, the rest is a whole
number of steps and a remainder, and the remainder becomes one more step with a probability:

.. math:: \rho = \min(1 - W, \Delta W) \ \text{ if } \Delta W \ge 0, \text{ else } \max(-1 - W, \Delta W), \qquad
   \rho = \kappa\, \Delta z + \nu, \quad \kappa = \mathrm{fix}(\rho / \Delta z),

.. math:: W \leftarrow W + \kappa\, \Delta z + \operatorname{sgn}(\rho)\, \Delta z\, b, \qquad
   b \sim \mathrm{Bernoulli}\big(\tanh(m \lvert \nu \rvert / \Delta z)\big), \quad m = 3 .

So a learning rate is a probability: Adam's increment is about as large as its rate. What flows between the layers is

.. math:: \varphi_r(x) = 1 \text{ if } x > r, \quad -1 \text{ if } x < -r, \quad 0 \text{ else,}

and an operation of which either operand is 0 rests. Adam keeps two real moments for each weight, and batch norm is
real: "no real values" is said of weights alone, and with ``increment="sgd"`` or ``"sign"`` of their optimizer too.
"""

import math
from collections.abc import Callable, Collection, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import training
from lib.binarization.shared.signs import EPSILON, LAYERS, BinaryForm, chosen, read_activations
from lib.datasets import Split
from lib.weights import Encoding, compress, compressed_form, layers

DERIVATIVES = ("rectangular", "triangular")
INCREMENTS = ("adam", "sgd", "sign")
PROBABILITIES = ("tanh", "linear")


def _one_of(what: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{what} must be one of {', '.join(accepted)}, not {value!r}")


class TernaryStates(BinaryForm):
    """A weight in Z_N, of any shape, as the state n of each: int8 ``states`` is all that is kept.

    space: N, from 0 to 6. A weight in Z_N enters as it is; another is divided by the mean of its |w| and goes to the
    nearest state, for N = 1 to 0 where |w| is below half the mean.
    A backward pass leaves the gradient of the dense weight at ``gradient`` and adds to what is there, for
    :class:`DiscreteStateTransition`, which takes it and drops it. There is no trained parameter but an empty one.
    """

    def __init__(self, space: int = 1):
        super().__init__()
        if space not in range(7):
            raise ValueError(f"space must be a whole number from 0 to 6, not {space}")
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
        return weight.new_zeros(0)

    def _nearest(self, weight: Tensor) -> Tensor:
        """n = (W + 1) / dz, rounded; a weight between two states goes to the upper one."""
        return ((weight.clamp(-1, 1) + 1) / self.step + 0.5).floor().clamp(max=2**self.space)

    def forward(self, stored: Tensor) -> Tensor:
        return _Dense.apply(stored, self)

    def bases(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """W is the sum of dz / 2 times the sign of n >= k, k = 1, ..., 2^N: for N = 1 of W >= 0 and of W > 0."""
        k = torch.arange(1, 2**self.space + 1, dtype=torch.int8).reshape(-1, *[1] * self.states.dim())
        signs = 2 * (self.states >= k).to(stored.dtype) - 1
        return signs, stored.new_full((len(signs), len(self.states)), self.step / 2)

    def encode(self, stored: Tensor) -> Encoding:
        return Encoding(symbols={"state": self.states.flatten().long()}, tables={"step": torch.tensor([self.step])})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        return encoding.symbols["state"].reshape(shape) * encoding.tables["step"] - 1


class _Dense(torch.autograd.Function):
    """W = n dz - 1, in the type of ``stored``; its gradient goes to the form, and nothing to ``stored``."""

    @staticmethod
    def forward(ctx, stored: Tensor, form: TernaryStates) -> Tensor:
        ctx.form = form
        return form.states.to(stored.dtype) * form.step - 1

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, None]:
        before = ctx.form.gradient
        ctx.form.gradient = gradient.detach() if before is None else before + gradient.detach()
        return None, None


class TernaryActivation(nn.Module):
    """phi_r(x), of any shape: 1 where x > r, -1 where x < -r, else 0. The published default is r = a = 0.5.

    derivative: "rectangular", 1 / (2 a) where r - a <= |x| <= r + a, or "triangular", max(0, 1 - ||x| - r| / a) / a.
    Raises ValueError for another derivative, r below 0, and a not above 0.
    """

    def __init__(self, r: float = 0.5, a: float = 0.5, derivative: str = "rectangular"):
        super().__init__()
        _one_of("derivative", derivative, DERIVATIVES)
        if not (math.isfinite(r) and r >= 0 and math.isfinite(a) and a > 0):
            raise ValueError(f"r must be 0 or more and a above 0, both finite, not {r} and {a}")
        self.r, self.a, self.derivative = r, a, derivative

    def extra_repr(self) -> str:
        return f"r={self.r}, a={self.a}, derivative={self.derivative}"

    def forward(self, x: Tensor) -> Tensor:
        return _Ternary.apply(x, self.r, self.a, self.derivative)

    def bases(self) -> list[tuple[float, float]]:
        """(threshold t, factor b) of each term of the output, sum of b · (+1 where x >= t, else -1), for float32."""
        r = np.float32(self.r)
        return [(float(-r), 0.5), (float(np.nextafter(r, np.float32(np.inf))), 0.5)]  # x > r is x >= the next float


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, r: float, a: float, derivative: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = r, a, derivative
        return functional.hardshrink(x, r).sign_()  # 0 where -r <= x <= r: eighteen times as fast as comparing

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (r, a, derivative), x = ctx.settings, ctx.saved_tensors[0].abs()
        if derivative == "rectangular":
            return gradient * ((x >= r - a) & (x <= r + a)) / (2 * a), None, None, None
        return gradient * (1 - (x - r).abs() / a).clamp(min=0) / a, None, None, None


def transition(
    states: Tensor,
    increment: Tensor,
    *,
    space: int = 1,
    generator: torch.Generator | None = None,
    probability: str = "tanh",
    m: float = 3.0,
) -> Tensor:
    r"""The states, int8, after one transition with ``increment``, the :math:`\Delta W` of each weight, of one shape.

    probability: of a step for the rest :math:`\nu`, "tanh" as published, or "linear", :math:`\lvert \nu \rvert /
    \Delta z`, with which the mean of the new weight is that of :math:`W + \rho`.
    """
    rho = increment / 2.0 ** (1 - space)  # all in steps, so W is n, and -1 and 1 are 0 and 2^N
    rho = torch.minimum(torch.maximum(rho, -states), 2**space - states)
    kappa = rho.trunc()
    rest = (rho - kappa).abs()
    chance = torch.tanh(m * rest) if probability == "tanh" else rest
    more = torch.rand(rho.shape, generator=generator).to(rho.device) < chance  # b
    return states + (kappa + rho.sign() * more).to(torch.int8)


class DiscreteStateTransition(torch.optim.Optimizer):
    """Moves the :class:`TernaryStates` of a model by :func:`transition`, and its other parameters by Adam.

    groups: parameters, or groups of them; None takes all of ``model``. lr: of both. increment: of a weight in states,
    "adam", "sgd", -lr · gradient, or "sign", -lr · sign(gradient); the last two keep no moments for it.
    probability, m: of the transition. seed: of its draws. Weight decay acts on the other parameters alone.
    Raises ValueError for an unknown setting, for a model without such weights, and at a step, which then changes
    nothing, for a gradient that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable | None = None,
        *,
        lr: float = 0.1,
        increment: str = "adam",
        probability: str = "tanh",
        m: float = 3.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        _one_of("increment", increment, INCREMENTS)
        _one_of("probability", probability, PROBABILITIES)
        for name, value, good in (
            ("lr", lr, math.isfinite(lr) and lr >= 0),
            ("m", m, math.isfinite(m) and m > 0),
            ("betas", betas, all(0 <= beta < 1 for beta in betas)),
        ):
            if not good:
                raise ValueError(f"{name} is {value}: accepted are lr from 0, m above 0, and betas from 0 to below 1")
        found = [compressed_form(module) for module in model.modules()]
        self.forms = {stored[0]: form for form, stored in filter(None, found) if isinstance(form, TernaryStates)}
        if not self.forms:
            raise ValueError(f"{type(model).__name__} has no weights in discrete states: ternarize it first")
        self.increment, self.probability, self.m = increment, probability, m
        self.generator = torch.Generator().manual_seed(seed)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(model.parameters() if groups is None else groups, defaults)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for form in self.forms.values():
            form.gradient = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        moved = [(p, self.forms.get(p), group) for group in self.param_groups for p in group["params"]]
        for p, form, _ in moved:
            gradient = p.grad if form is None else form.gradient
            if gradient is not None and not gradient.isfinite().all():
                shape = tuple(gradient.shape)
                raise ValueError(
                    f"the gradient of a parameter of shape {shape} holds NaN or infinity: finite is needed"
                )
        for p, form, group in moved:
            if form is None and p.grad is not None:
                p.add_(self._adam(p, p.grad.add(p, alpha=group["weight_decay"]), group))
            elif form is not None and form.gradient is not None:
                gradient, form.gradient = form.gradient, None
                if self.increment == "adam":
                    change = self._adam(p, gradient, group)
                else:
                    change = (gradient.sign() if self.increment == "sign" else gradient) * -group["lr"]
                how = {"generator": self.generator, "probability": self.probability, "m": self.m}
                form.states.copy_(transition(form.states, change, space=form.space, **how))
        return loss

    def _adam(self, p: Tensor, gradient: Tensor, group: dict) -> Tensor:
        """-lr m / (sqrt(v) + eps) of the unbiased moments m and v, which the state of p keeps."""
        (first, second), state = group["betas"], self.state[p]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(gradient), "exp_avg_sq": torch.zeros_like(gradient)}
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        mean = state["exp_avg"] / (1 - first ** state["step"])
        return (
            mean.div_((state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])) * -group["lr"]
        )


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
    """Give layers weights in states, and let them read ternary values, and return the model; the given one is used up.

    names: of the layers, all linear and 2-d convolution layers by default. Each of them but the model's first such
    layer, which reads the image as it is, gets a :class:`TernaryActivation`; the ReLU modules before it go. A model
    without batch norm gets one before each activation; ``classes``, the width of the output, asks for one behind that.
    space: N of :class:`TernaryStates`. Raises ValueError for an unknown setting or layer, where no layer is left, and
    for weights that are shared or not finite; the model is then as it was.
    """
    TernaryStates(space), TernaryActivation(r, a, derivative)  # refuse before anything changes
    found = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
    names = chosen(model, found if names is None else names)
    readers = [name for name in names if name != found[0]]
    compress(model, lambda name, layer: TernaryStates(space) if name in names else None)
    model = read_activations(model, readers, lambda: TernaryActivation(r, a, derivative))
    return model if classes is None else nn.Sequential(model, nn.BatchNorm1d(classes, eps=EPSILON))


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.1,
    real_learning_rate: float | None = None,
    batch_size: int = 256,
    increment: str = "adam",
    probability: str = "tanh",
    loss: str = "squared_hinge",
    weight_decay: float = 0.0,
    shift: int = 0,
) -> list[float]:
    """Train a ternarized model with :class:`DiscreteStateTransition`; return each epoch's mean loss.

    real_learning_rate: of biases, batch norm and what else is real; None: the same. Increments "sgd" and "sign" need
    one, since theirs is in other units: Adam's is about the learning rate, theirs that times the gradient or its sign.
    Errors as those of the optimizer and of :func:`lib.training.fit`.
    """

    def optimizer(groups: list[dict]) -> torch.optim.Optimizer:
        rates = {False: learning_rate, True: learning_rate if real_learning_rate is None else real_learning_rate}
        groups = [
            group | {"params": [p for p in group["params"] if (p.numel() > 0) == real], "lr": rate}
            for group in groups
            for real, rate in rates.items()
        ]
        how = {"increment": increment, "probability": probability, "seed": seed}
        return DiscreteStateTransition(model, groups, lr=learning_rate, **how)

    how = {"batch_size": batch_size, "loss": loss, "weight_decay": weight_decay, "shift": shift}
    return training.fit(model, split, epochs=epochs, seed=seed, learning_rate=learning_rate, optimizer=optimizer, **how)
