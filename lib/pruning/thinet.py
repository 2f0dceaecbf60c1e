r"""ThiNet: remove the channels that the next layer misses least.

Of a layer's channels the set T goes whose contributions to the next layer's outputs sum to the least (luo2017thinet),

.. math:: \arg\min_T \sum_i \Big(\sum_{c \in T} \hat x_{i,c}\Big)^2 = \arg\min_T \sum_{c,d \in T} G_{cd},

over sampled outputs i. It is found greedily: one channel after the other, each time the one that leaves the smallest
sum. Then one least-squares factor for each channel that stays makes up for what is gone,

.. math:: w = \arg\min_w \sum_i \Big(y_i - \sum_{c \notin T} w_c\, \hat x_{i,c}\Big)^2,

and is multiplied into the next layer's kernels. :mod:`lib.reconstruction` has the contributions and the matrix G.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.pruning.shared import reconstruction


def removal_order(gram: Tensor) -> Tensor:
    """The channels in the order in which the greedy search removes them. gram: (channels, channels), symmetric.

    With G's diagonal and the row sums over T at hand, adding j to T costs G_jj + 2 sum_{c in T} G_jc: a step is O(C).
    """
    cost, order = gram.diagonal().clone(), []
    for _ in range(len(gram)):
        j = int(cost.argmin())
        order.append(j)
        cost = cost + 2 * gram[j]
        cost[j] = torch.inf
    return torch.tensor(order)


def objective(gram: Tensor, removed: Tensor) -> float:
    """The squared error of the next layers, as a share of their answers' energy, if ``removed`` (indices) go."""
    return gram[removed][:, removed].sum().item()


def scores(
    model: nn.Module, data: Split, *, images: int = 200, places: int = 10, outputs: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Layer name -> (filters,) in [0, 1): the share of the layer that the greedy search removes before this filter.

    So ``keep(scores, fraction=f)`` removes exactly the set that the search has removed at f. Layers that an addition
    ties have the same scores. images, places, outputs: what is sampled, see :func:`lib.reconstruction.grams`; the paper
    draws one output at each place, we draw up to ``outputs``. Raises ValueError for an empty split.
    """
    found = {}
    for name, gram in reconstruction.grams(
        model, data, images=images, places=places, outputs=outputs, seed=seed
    ).items():
        found[name] = torch.empty(len(gram))
        found[name][removal_order(gram)] = torch.arange(len(gram)) / len(gram)
    return found


def rescale(model: nn.Module, masks: Mapping[str, Tensor], data: Split, **sampling: int) -> nn.Module:
    """A masked copy of the model, in which each kept channel's kernels in the next layers have a least-squares factor.

    masks: from the scores of any criterion. sampling: images, places and seed of
    :func:`lib.reconstruction.reconstruct`, which goes through the network from first to last layer.
    """
    return reconstruction.reconstruct(model, masks, data, factors, **sampling)


def factors(patches: Tensor, answers: Tensor, weight: Tensor, channel: Tensor) -> Tensor:
    """The weight with a factor for each channel; one that contributes nothing keeps 1. Shapes as in ``reconstruct``."""
    names, number = channel.unique(return_inverse=True)
    gram, error = torch.zeros(len(names), len(names), dtype=weight.dtype), torch.zeros(len(names), dtype=weight.dtype)
    step = max(1, 2**22 // max(1, len(weight) * len(channel)))
    for x, y in zip(patches.split(step), answers.split(step), strict=True):
        each = reconstruction.contributions(x, weight).flatten(0, 1)
        rows = each.new_zeros(len(each), len(names)).index_add_(1, number, each)
        gram += rows.T @ rows
        error += rows.T @ (y.flatten() - rows.sum(1))
    change = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ error  # (X^T X)^-1 X^T (y - X 1), around w = 1
    return weight * (1 + change)[number][:, None]
