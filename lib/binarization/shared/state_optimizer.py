"""The optimizer for discrete weights: it moves them from state to state, and all other parameters by Adam."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of
from lib.binarization.shared.states import TernaryStates, check_transition, transition
from lib.weights import compressed_form

INCREMENTS = ("adam", "sgd", "sign")


class DiscreteStateTransition(torch.optim.Optimizer):
    """Moves a model's discrete weights by :func:`lib.binarization.shared.states.transition`, all others by Adam.

    model: with weights stored as :class:`lib.binarization.shared.states.TernaryStates`.
    groups: parameters, or groups of them as torch's optimizers take them; None (default): all of the model's.
    lr: learning rate, of both kinds of parameters; 0.1 by default.
    increment: what moves a discrete weight: "adam" (default), "sgd", -lr · gradient, or "sign", -lr · sign(gradient).
      The last two keep no moments for it.
    probability: of one more step for the remainder of an increment: "tanh" (default) or "linear".
    m: slope of tanh, above 0; 3 by default.
    betas: decay rates of Adam's two moments, from 0 to below 1; 0.9 and 0.999 by default.
    eps: what Adam adds to its denominator; 1e-8 by default.
    weight_decay: of the other parameters; discrete weights have none. 0 by default.
    seed: of the draws; 0 by default.

    Raises ValueError for an unknown setting and for a model without discrete weights; and, at a step, for a gradient
    that is not finite: then nothing is changed.

    >>> from lib.binarization.gxnor_dst import ternarize
    >>> model = ternarize(nn.Sequential(nn.Linear(3, 2)))
    >>> optimizer = DiscreteStateTransition(model)
    >>> model(torch.ones(1, 3)).sum().backward()
    >>> optimizer.step()
    >>> set(model[0].weight.flatten().tolist()) <= {-1, 0, 1}
    True
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[Any] | None = None,
        *,
        lr: float = 0.1,
        increment: str = "adam",
        probability: str = "tanh",
        m: float = 3.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_one_of("increment", increment, INCREMENTS)
        check_transition(probability, m)
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr must be a finite number of 0 or more, not {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be from 0 to below 1, not {betas}")
        # torch hands an optimizer only parameters, and the only parameter of a discrete weight is the empty tensor that
        # it stores. Each layer has its own, so that tensor is the key to the layer's states.
        self.forms: dict[Tensor, TernaryStates] = {}
        for module in model.modules():
            compressed = compressed_form(module)
            if compressed is None:
                continue
            form, (empty, *_) = compressed
            if isinstance(form, TernaryStates):
                self.forms[empty] = form
        if not self.forms:
            raise ValueError(f"{type(model).__name__} has no weights in discrete states: ternarize it first")
        self.increment, self.probability, self.m = increment, probability, m
        self.generator = torch.Generator().manual_seed(seed)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(model.parameters() if groups is None else groups, defaults)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, and of all discrete weights."""
        super().zero_grad(set_to_none)
        for form in self.forms.values():
            form.gradient = None

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state of an optimizer, with the state of the draws as "generator"."""
        return super().state_dict() | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state_dict`, with the same draws; ValueError, with nothing changed, if it has none."""
        draws = state_dict.get("generator")
        if not (isinstance(draws, Tensor) and draws.shape == self.generator.get_state().shape):
            raise ValueError("the state has no 'generator' of the draws: it is not one of this optimizer")
        super().load_state_dict(dict(state_dict))
        self.generator.set_state(draws)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient, and drop the gradients of discrete weights.

        closure: computes the loss and its gradients first, as torch's optimizers take it; None by default.
        Returns what the closure returns, or None. Raises ValueError for a gradient that is not finite.
        """
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
            if form is None:
                if p.grad is not None:
                    p.add_(self._adam(p, p.grad.add(p, alpha=group["weight_decay"]), group))
            elif form.gradient is not None:
                gradient, form.gradient = form.gradient, None
                if self.increment == "adam":
                    change = self._adam(p, gradient, group)
                else:
                    change = (gradient.sign() if self.increment == "sign" else gradient) * -group["lr"]
                moved_states = transition(
                    form.states,
                    change,
                    space=form.space,
                    generator=self.generator,
                    probability=self.probability,
                    m=self.m,
                )
                form.states.copy_(moved_states)
        return loss

    def _adam(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
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
