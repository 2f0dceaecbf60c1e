r"""Filter pruning via the geometric median: the filters nearest to all others are the ones that the others can replace.

The geometric median of the filters :math:`\mathcal F_j` of a layer is the point with the least sum of distances to
them. Among the filters themselves that is the one with the least

.. math:: g(\mathcal F_j) = \sum_{j'} \lVert \mathcal F_j - \mathcal F_{j'} \rVert_2

(he2019fpgm, equations 4 to 9), and the filters with the smallest g go first. No filter is called unimportant by its
norm. In the paper's *soft* schedule filters that are set to zero after an epoch are still trained in the next one and
may come back.
"""

import torch
from torch import Tensor, nn

from lib import structure, training
from lib.datasets import Split
from lib.pruning.shared.groups import groups_of


@torch.no_grad()
def scores(model: nn.Module, data: Split) -> dict[str, Tensor]:
    """Layer name -> (filters,) sum of the Euclidean distances to the other filters; larger = keep.

    data: its first image traces the network; nothing else of it is used. Raises ValueError on an empty split, weights
    that are not finite, and a network that cannot be traced.
    """
    return {name: distances(model, name) for group in groups_of(model, data) for name in group.producers}


def distances(model: nn.Module, name: str) -> Tensor:
    """g of each filter of the layer, (filters,)."""
    filters = model.get_submodule(name).weight.detach().flatten(1).double()
    if not torch.isfinite(filters).all():
        raise ValueError(f"the weights of layer {name!r} hold NaN or infinity: finite weights are needed")
    centred = filters - filters.mean(0)  # the distances stay, their squares lose fewer digits in the matrix product
    return torch.cdist(centred, centred, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0).sum(1)


def soft(model: nn.Module, split: Split, *, fraction: float, epochs: int, seed: int, **fit: object) -> nn.Module:
    """Train, and after each epoch set the ``fraction`` of each layer's filters that have the smallest g to zero.

    The zeros are trained on with the rest, and the choice after the last epoch is cut out. Trains ``model`` in place,
    with the arguments ``fit`` of :func:`lib.training.fit`, and returns the smaller network. Errors as those of
    :func:`lib.structure.keep`; a fraction outside [0, 1) is refused before training.
    """

    def chosen() -> structure.Masks:
        found = groups_of(model, split)
        ranks = {name: distances(model, name) for group in found for name in group.producers}
        return structure.keep(ranks, fraction=fraction, groups=found)

    @torch.no_grad()
    def step(epoch: int) -> None:
        for name, kept in chosen().items() if epoch else ():
            layer = model.get_submodule(name)
            for values in (layer.weight, layer.bias):
                if values is not None:
                    values[~kept] = 0

    chosen()  # refuses before an epoch is spent
    training.fit(model, split, epochs=epochs, seed=seed, before_epoch=step, **fit)
    return structure.shrink(model, chosen(), split.images[:1])
