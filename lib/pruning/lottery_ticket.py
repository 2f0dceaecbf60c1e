r"""The lottery ticket: a sparse part of an untrained network that trains as well as the whole.

Draw :math:`\theta_0` and train it to :math:`\theta_j`. Prune the weights of least magnitude in each layer of
:math:`\theta_j`, which gives the masks :math:`m`. Then go back: start again from

.. math:: f(x;\; m \odot \theta_0), \qquad m_{t+1} \le m_t,

and repeat (frankle2019lottery, iterative pruning with resetting). A *ticket* is the pair of the masks and
:math:`\theta_0`. The control has the same masks and other initial values. If it learns as well, the structure alone was
enough; if the ticket learns better, its initial values matter. Masks: layer name -> bool tensor of the shape of the
layer's weight, True where the weight stays. Biases are never pruned, and go back to :math:`\theta_0` too.

Larger networks have tickets only if they go back to a state early in training instead of to :math:`\theta_0`. For such
late resetting, train a network for some steps, and pass it to :func:`find` as ``initial``.
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
from lib.pruning.shared import selection
from lib.training import FitOptions
from lib.weights import Layer, PackedWeight, decompress, layers, tied

CONVOLUTION = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


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

    model: any dense network; all weights that :func:`lib.weights.layers` lists are drawn. The three weights that
        attention packs into one count as one matrix, and so do the four of an LSTM.
    seed: of the draw; the global random state is left alone.

    Raises ValueError for a weight that two layers share, and for one that is compressed or computed from others.
    Source: frankle2019lottery.
    """
    found = _dense(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in found.values():
            drawn = torch.empty(layer.weight.shape, dtype=torch.promote_types(layer.weight.dtype, torch.float32))
            layer.weight.copy_(nn.init.xavier_normal_(drawn, generator=generator))
            module = layer.module if isinstance(layer, PackedWeight) else layer
            for key, value in module.named_parameters(recurse=False):
                if "bias" in key:
                    value.zero_()
    return model


def _dense(model: nn.Module) -> dict[str, Layer | PackedWeight]:
    """Return layer name -> layer; raise ValueError unless each has a weight that is a parameter of its own."""
    found, shared = dict(layers(model)), tied(model)
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer with a weight: there is nothing to prune")
    for name, layer in found.items():
        if name in shared:
            raise ValueError(
                f"layers {shared[name][0]!r} and {shared[name][1]!r} share one weight: give each its own first"
            )
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(f"the weight of layer {name!r} is computed from other tensors: decompress the model first")
    return found


def rewind(initial: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Go back to the start: copy ``initial``, with zeros where the masks do not keep a weight.

        >>> start = nn.Linear(3, 1)
        >>> model = rewind(start, {"": torch.tensor([[True, False, True]])})
        >>> (model.weight == start.weight).tolist()
        [[True, False, True]]

    initial: the untrained network. It is not changed. With another random start this is the control.
    masks: layer name -> bool mask of the shape of the weight, True where a weight is kept; layers not named keep all.

    Returns the copy, dense.
    Raises ValueError for a mask that fits no layer, for a weight that two layers share, and for a network without
    weights.
    Source: frankle2019lottery.
    """
    model = decompress(copy.deepcopy(initial))
    weights = {name: layer.weight for name, layer in _dense(model).items()}
    selection.check_masks(masks, weights)
    with torch.no_grad():
        # method
        for name, mask in masks.items():
            weights[name].mul_(mask.to(weights[name])).add_(0.0)  # adding zero turns -0 into 0
        # end of method
    return model


def train(
    model: nn.Module,
    split: Split,
    *,
    masks: Mapping[str, Tensor],
    epochs: int,
    seed: int,
    **options: Unpack[FitOptions],
) -> nn.Module:
    """Train the weights that the masks keep; the others must be zero and stay zero. In place; returns the model.

    Gradient descent, momentum, Adam and weight decay all leave a weight alone that is zero and has no gradient. So
    masking the gradients is enough, and it costs less than masking the weights at every use.

    model: a dense network, as :func:`rewind` returns it.
    split: training samples.
    masks: layer name -> bool mask of the shape of the weight, True where a weight is trained; layers not named are
        trained whole, so ``{}`` trains all. A layer that begins with zeros learns where its mask is True.
    epochs: 0 or more.
    seed: of the order of the samples.
    options: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Raises TypeError for other options, and ValueError for a value that is not accepted, an empty split, a mask that
    fits no layer, a weight that is not zero where its mask is False, a compressed weight, and one that two layers
    share.
    """
    training.check_options(options)
    weights = {name: layer.weight for name, layer in _dense(model).items()}
    selection.check_masks(masks, weights)
    for name, mask in masks.items():
        if _revived(weights[name], mask):
            raise ValueError(f"layer {name!r} has weights that its mask removes: rewind the model to the masks first")
    with ExitStack() as stack:
        for name, mask in masks.items():
            if weights[name].requires_grad:
                stack.callback(weights[name].register_hook(mask.to(weights[name]).mul).remove)
        training.fit(model, split, epochs=epochs, seed=seed, **options)
    return model


def _revived(weight: Tensor, mask: Tensor) -> bool:
    """Whether a weight that the mask removes is not zero."""
    return bool((weight.detach() != 0).logical_and_(mask.to(weight.device) == 0).any())


def find(
    initial: nn.Module,
    learn: Callable[[nn.Module, dict[str, Tensor]], object],
    *,
    rounds: int,
    share: float = 0.2,
    convolution_share: float | None = None,
    last_share: float | None = None,
) -> list[Ticket]:
    """Find tickets round by round: train, remove the smallest weights of each layer, and go back to the start.

        >>> start = glorot(nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)), 0)
        >>> tickets = find(start, lambda model, masks: None, rounds=2, share=0.5)  # nothing is learned here
        >>> [ticket.density for ticket in tickets]
        [1.0, 0.625, 0.405]

    initial: the untrained network. It is not changed.
    learn: function of a network and its masks that trains the network in place and keeps removed weights at zero, for
        instance :func:`train` with its other arguments filled in.
    rounds: of pruning, 1 or more.
    share: share of the surviving weights that each round removes in every layer but the last, in (0, 1); by default
        0.2.
    convolution_share: the same for convolutions; by default ``share``. The paper removes fewer of their weights: 10 %
        for its Conv-2 and Conv-4, 15 % for Conv-6.
    last_share: the same for the last layer that the model holds; by default half of its share, as in the paper, because
        the output layer is small.

    Returns rounds + 1 tickets, from the whole network to the sparsest.
    Raises ValueError for a value that is not accepted, a network that has no layer with a weight, a weight that two
    layers share, and a ``learn`` that changes what the masks remove.
    Source: frankle2019lottery, iterative pruning with resetting.
    """
    found = _dense(decompress(copy.deepcopy(initial)))
    convolution_share = share if convolution_share is None else convolution_share
    shares = {name: convolution_share if isinstance(layer, CONVOLUTION) else share for name, layer in found.items()}
    last = list(found)[-1]
    shares[last] = shares[last] / 2 if last_share is None else last_share
    given = [share, convolution_share, shares[last]]
    if rounds < 1 or not all(0 < value < 1 for value in given):
        raise ValueError(f"rounds must be 1 or more and shares in (0, 1), not {rounds} and {given}")
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in found.items()}
    tickets = []
    for done in range(rounds + 1):
        # method
        model = rewind(initial, masks)
        learn(model, masks)
        # end of method
        trained = {name: layer.weight.detach() for name, layer in layers(model)}
        for name, weight in trained.items():
            if not torch.isfinite(weight).all():
                raise ValueError(f"learn() left NaN or infinity in layer {name!r}: finite weights are needed")
            if _revived(weight, masks[name]):
                raise ValueError(
                    f"weights of layer {name!r} that were pruned are no longer zero: learn() must leave the zeros alone"
                )
        density = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
        tickets.append(Ticket(masks, density, model))
        # method
        masks = {
            name: selection.largest(trained[name].abs(), (1 - removed) ** (done + 1), candidates=masks[name])
            for name, removed in shares.items()
        }
        # end of method
    return tickets
