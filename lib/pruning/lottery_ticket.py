r"""The lottery ticket: a sparse part of an untrained network that trains as well as the whole.

Draw :math:`\theta_0` and train it to :math:`\theta_j`. Prune the weights of least magnitude in each layer of
:math:`\theta_j`, which gives the masks :math:`m`. Then go back: start again from

.. math:: f(x;\; m \odot \theta_0), \qquad m_{t+1} \le m_t,

and repeat (frankle2019lottery, iterative pruning with resetting). A *ticket* is the pair of the masks and
:math:`\theta_0`. The control has the same masks and other initial values: where it learns as well, the structure alone
was enough; where the ticket learns better, its initial values belong to it. Masks: layer name -> bool tensor of the
shape of the layer's weight, True where the weight stays. Biases are never pruned, and go back to :math:`\theta_0` too.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.weights import decompress, layers


@dataclass(frozen=True)
class Ticket:
    """What one round found: the masks, the share of weights they keep, and the network trained from them."""

    kept: dict[str, Tensor]
    density: float
    trained: nn.Module


def glorot(model: nn.Module, seed: int) -> nn.Module:
    """The paper's random start: weights normal with variance 2 / (inputs + outputs), biases zero. In place."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(model):
        nn.init.xavier_normal_(layer.weight, generator=generator)
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    return model


def rewind(initial: nn.Module, kept: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network with the values of ``initial`` where the masks keep, and zeros elsewhere.

    With another random start as ``initial`` this is the control. Raises ValueError for masks that do not fit.
    """
    model = decompress(copy.deepcopy(initial))
    found = dict(layers(model))
    for name, mask in kept.items():
        if name not in found or found[name].weight.shape != mask.shape:
            raise ValueError(
                f"the mask of layer {name!r} is of shape {tuple(mask.shape)}: the layers are "
                + ", ".join(f"{n} {tuple(layer.weight.shape)}" for n, layer in found.items())
            )
    with torch.no_grad():
        for name, mask in kept.items():
            found[name].weight.mul_(mask).add_(0.0)  # adding zero turns -0 into 0
    return model


def train(model: nn.Module, split: Split, **fit: object) -> nn.Module:
    """Train the weights that are not zero; the others stay zero. ``fit``: of :func:`lib.training.fit`. In place.

    A weight that is zero and has no gradient is left alone by gradient descent, by its momentum, by Adam and by weight
    decay. So it is enough to mask the gradients, which costs less than to mask the weights at every use.
    """
    with ExitStack() as stack:
        for _, layer in layers(model):
            mask = (layer.weight.detach() != 0).to(layer.weight.dtype)
            stack.callback(layer.weight.register_hook(mask.mul).remove)
        training.fit(model, split, **fit)
    return model


def find(
    initial: nn.Module,
    learn: Callable[[nn.Module], object],
    *,
    rounds: int,
    share: float = 0.2,
    last_share: float | None = None,
) -> list[Ticket]:
    """The tickets of ``rounds`` rounds, from the whole network (first) to the sparsest (last).

    learn: trains a network in place and leaves its zeros zero, for instance :func:`train` with its arguments.
    share: of the surviving weights, what each round removes in every layer; ``last_share`` in the last layer (the
        paper: half of it, because the output layer is small).
    ``initial`` is not changed. Raises ValueError for no rounds, shares outside (0, 1), zeros that came back to life.
    """
    last_share = share / 2 if last_share is None else last_share
    if rounds < 1 or not (0 < share < 1 and 0 < last_share < 1):
        raise ValueError(f"rounds must be 1 or more and shares in (0, 1), not {rounds}, {share} and {last_share}")
    names = [name for name, _ in layers(initial)]
    if not names:
        raise ValueError(f"{type(initial).__name__} has no layer with a weight: there is nothing to prune")
    kept = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers(initial)}
    tickets = []
    for done in range(rounds + 1):
        model = rewind(initial, kept)
        learn(model)
        if any((layer.weight[~kept[name]] != 0).any() for name, layer in layers(model)):
            raise ValueError("weights that were pruned are no longer zero: learn() must leave the zeros alone")
        share_kept = sum(int(m.sum()) for m in kept.values()) / sum(m.numel() for m in kept.values())
        tickets.append(Ticket(kept, share_kept, model))
        shares = {name: (1 - (last_share if name == names[-1] else share)) ** (done + 1) for name in names}
        kept = magnitude.masks(model, density=shares)
    return tickets
