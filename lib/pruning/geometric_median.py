r"""Prune filters near the geometric median of their layer: those that the other filters can replace.

The geometric median of the filters :math:`\mathcal F_j` of a layer is the point with the smallest sum of distances to
them. Among the filters themselves it is the one with the smallest

.. math:: g(\mathcal F_j) = \sum_{j'} \lVert \mathcal F_j - \mathcal F_{j'} \rVert_2

(he2019fpgm, equations 4 to 9), and the filters with the smallest g go first, however large their weights are. In the
paper's *soft* schedule the chosen filters are set to zero after each epoch, but still trained in the next one, so they
may come back.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from lib import structure, training, weights
from lib.datasets import Split
from lib.pruning.shared.groups import filters, groups_of
from lib.training import FitOptions


@torch.no_grad()
def scores(model: nn.Module, split: Split) -> dict[str, Tensor]:
    """Score each filter by the sum of its Euclidean distances to the other filters of its layer.

    model: any network that can be traced; it is left as it was.
    split: its first image traces the network; nothing else in it is used.

    Returns layer name -> (filters,) float64, larger = keep; a layer that only computes a gate for the channels of other
    layers, as in squeeze-and-excitation, gets no score.
    Raises ValueError for an empty split, weights that are not finite, and a network that cannot be traced.
    Source: he2019fpgm, equations 4 to 9.

    >>> from lib import models
    >>> split = Split(torch.zeros(1, 1, 28, 28), torch.tensor([0]))
    >>> structure.keep(scores(models.lenet5(), split), fraction=0.5).removed
    {'conv1': 10, 'conv2': 25, 'fc1': 250}
    """
    return {name: distances(model, name) for group in groups_of(model, split) for name in group.producers}


def distances(model: nn.Module, name: str) -> Tensor:
    """Return g of each filter of one layer: the sum of its distances to the others.

    model: any network.
    name: name of one of its layers with a weight.

    Returns (filters,) float64.
    Raises ValueError for a layer that does not exist and for weights that are not finite.
    """
    # method
    rows = filters(model, name).double()
    # same distances, but their squares lose fewer digits in the matrix product
    centered = rows - rows.mean(0)
    return torch.cdist(centered, centered, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0).sum(1)
    # end of method


def soft(
    model: nn.Module, split: Split, *, fraction: float, epochs: int, seed: int, **options: Unpack[FitOptions]
) -> nn.Module:
    """Train, and after each epoch set the filters with the smallest g to zero; after the last epoch, cut them out.

    The zeros go on training with all other weights.

    model: any network that can be traced; it is trained in place.
    split: samples to train on.
    fraction: share of the filters of each layer to set to zero, in [0, 1).
    epochs: number of epochs.
    seed: seed of the order of the samples.
    options: how to train: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Returns the smaller network, a copy.
    Raises TypeError for other options, and ValueError for a fraction outside [0, 1), an empty split, and a network that
    cannot be traced; all before training.
    Source: he2019fpgm.
    """

    training.check_options(options)

    def chosen() -> structure.Masks:
        groups = groups_of(model, split)
        ranks = {name: distances(model, name) for group in groups for name in group.producers}
        return structure.keep(ranks, fraction=fraction, groups=groups)

    @torch.no_grad()
    def step(epoch: int) -> None:
        for name, kept in chosen().items() if epoch else ():
            layer = weights.layer_named(model, name)
            for values in (layer.weight, layer.bias):
                if values is not None:
                    values[~kept] = 0

    chosen()  # raises errors before an epoch is spent
    training.fit(model, split, epochs=epochs, seed=seed, before_epoch=step, **options)
    return structure.shrink(model, chosen(), split.images[:1])
