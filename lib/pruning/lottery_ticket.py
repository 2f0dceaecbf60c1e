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
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.pruning.shared import selection
from lib.training import FitOptions
from lib.weights import decompress, layers


@dataclass(frozen=True)
class Ticket:
    """What one round found.

    masks: layer name -> bool mask of the shape of the weight, True where a weight is kept.
    density: share of the weights that the masks keep.
    trained: the network that was trained from the start with these masks.
    """

    masks: dict[str, Tensor]
    density: float
    trained: nn.Module


def glorot(model: nn.Module, seed: int) -> nn.Module:
    """Draw the paper's random start: normal weights of variance 2 / (inputs + outputs), and zero biases.

    In place; returns the model.

    model: any network; only its linear, convolution and embedding layers are drawn.
    seed: of the draw; the global random state is left alone.

    Source: frankle2019lottery.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(model):
        nn.init.xavier_normal_(layer.weight, generator=generator)
        bias = getattr(layer, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)
    return model


def rewind(initial: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Go back to the start: a copy of ``initial`` whose weights are zero where the masks do not keep them.

        >>> start = nn.Linear(3, 1)
        >>> model = rewind(start, {"": torch.tensor([[True, False, True]])})
        >>> (model.weight == start.weight).tolist()
        [[True, False, True]]

    initial: the untrained network. It is not changed. With another random start this is the control.
    masks: layer name -> bool mask of the shape of the weight, True where a weight is kept; layers not named keep all.

    Returns the copy, dense.
    Raises ValueError for a mask that fits no layer.
    Source: frankle2019lottery.
    """
    model = decompress(copy.deepcopy(initial))
    weights = {name: layer.weight for name, layer in layers(model)}
    selection.check_masks(masks, weights)
    with torch.no_grad():
        # method
        for name, mask in masks.items():
            weights[name].mul_(mask).add_(0.0)  # adding zero turns -0 into 0
        # end of method
    return model


def train(model: nn.Module, split: Split, *, epochs: int, seed: int, **options: Unpack[FitOptions]) -> nn.Module:
    """Train the weights that are not zero; the others stay zero. In place; returns the model.

    A weight that is zero and has no gradient is left alone by gradient descent, by its momentum, by Adam and by weight
    decay. So it is enough to mask the gradients, which costs less than to mask the weights at every use.

    model: a dense network.
    split: training samples.
    epochs: 0 or more.
    seed: of the order of the samples.
    options: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Raises TypeError for other options, and ValueError for a value that is not accepted and an empty split.
    """
    training.check_options(options)
    with ExitStack() as stack:
        for _, layer in layers(model):
            mask = (layer.weight.detach() != 0).to(layer.weight.dtype)
            stack.callback(layer.weight.register_hook(mask.mul).remove)
        training.fit(model, split, epochs=epochs, seed=seed, **options)
    return model


def find(
    initial: nn.Module,
    learn: Callable[[nn.Module], object],
    *,
    rounds: int,
    share: float = 0.2,
    last_share: float | None = None,
) -> list[Ticket]:
    """Find tickets round by round: train, remove the smallest weights of each layer, and go back to the start.

        >>> start = glorot(nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)), 0)
        >>> tickets = find(start, lambda model: None, rounds=2, share=0.5)  # nothing is learned here
        >>> [ticket.density for ticket in tickets]
        [1.0, 0.625, 0.405]

    initial: the untrained network. It is not changed.
    learn: trains a network in place and leaves its zeros zero, for instance :func:`train` with its arguments.
    rounds: of pruning, 1 or more.
    share: of the surviving weights, what each round removes in every layer but the last, in (0, 1); by default 0.2.
    last_share: the same for the last layer; by default half of share, as in the paper, because the output layer is
        small.

    Returns rounds + 1 tickets, from the whole network to the sparsest.
    Raises ValueError for a value that is not accepted, a network that has no layer with a weight, and a ``learn`` that
    changes zeros.
    Source: frankle2019lottery, iterative pruning with resetting.
    """
    last_share = share / 2 if last_share is None else last_share
    if rounds < 1 or not (0 < share < 1 and 0 < last_share < 1):
        raise ValueError(f"rounds must be 1 or more and shares in (0, 1), not {rounds}, {share} and {last_share}")
    names = [name for name, _ in layers(initial)]
    if not names:
        raise ValueError(f"{type(initial).__name__} has no layer with a weight: there is nothing to prune")
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers(initial)}
    tickets = []
    for done in range(rounds + 1):
        # method
        model = rewind(initial, masks)
        learn(model)
        # end of method
        if any((layer.weight[~masks[name]] != 0).any() for name, layer in layers(model)):
            raise ValueError("weights that were pruned are no longer zero: learn() must leave the zeros alone")
        density = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
        tickets.append(Ticket(masks, density, model))
        # method
        shares = {name: (1 - (last_share if name == names[-1] else share)) ** (done + 1) for name in names}
        masks = magnitude.masks(model, density=shares)
        # end of method
    return tickets
