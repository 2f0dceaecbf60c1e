r"""ThiNet: remove the channels that the next layer misses least.

The set T of channels to remove is the one whose contributions to the next layer's outputs sum to the least
(luo2017thinet),

.. math:: \arg\min_T \sum_i \Big(\sum_{c \in T} \hat x_{i,c}\Big)^2 = \arg\min_T \sum_{c,d \in T} G_{cd},

over sampled outputs i. The search is greedy: it removes one channel after the other, each time the one that leaves the
smallest sum. Then every channel that is kept gets one least-squares factor, which makes up for what is gone,

.. math:: w = \arg\min_w \sum_i \Big(y_i - \sum_{c \notin T} w_c\, \hat x_{i,c}\Big)^2,

and is multiplied into the next layer's kernels. The contributions and the matrix G come from
:mod:`lib.pruning.shared.reconstruction`.

:func:`scores` and :func:`rescale` choose in the whole network and repair it afterwards, so that all criteria can be
compared. The paper goes layer by layer, and leaves the sums of residual blocks whole: :func:`layer_by_layer`. Its
fine-tuning after each layer is left out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.pruning.shared import reconstruction, refitting
from lib.structure import Masks


def removal_order(gram: Tensor) -> Tensor:
    r"""Order the channels as the greedy search removes them.

    Adding channel j to the set T costs :math:`G_{jj} + 2 \sum_{c \in T} G_{jc}`, and the sums are kept from step to
    step: a step takes time proportional to the number of channels.

    gram: (channels, channels), the matrix G, symmetric.

    Returns (channels,) numbers of the channels, the first to go first.

    >>> removal_order(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([1, 0])
    """
    # method
    cost, order = gram.diagonal().clone(), []
    for _ in range(len(gram)):
        j = int(cost.argmin())
        order.append(j)
        cost = cost + 2 * gram[j]
        cost[j] = torch.inf
    return torch.tensor(order, device=gram.device)
    # end of method


def objective(gram: Tensor, removed: Tensor) -> float:
    """Return the squared error of the next layers if channels go, as a share of the energy of their answers.

    gram: (channels, channels), the matrix G that :func:`lib.pruning.shared.reconstruction.grams` returns.
    removed: numbers of the channels that go.

    Returns the error: 0 if nothing is missed, 1 if all channels go.

    >>> objective(torch.tensor([[0.75, 0.0], [0.0, 0.25]]), torch.tensor([1]))
    0.25
    """
    return gram[removed][:, removed].sum().item()


def scores(
    model: nn.Module, split: Split, *, images: int = 200, places: int = 10, outputs: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """Score each filter by how late the greedy search removes it.

    ``keep(scores, fraction=f)`` therefore removes exactly the set that the search has removed when it reaches the share
    f. Layers that an addition ties get the same scores; leave theirs out to keep the sums whole, as the paper does. The
    paper draws one output at each place; we draw up to ``outputs``.

    model: any network that can be traced; it is left as it was.
    split: samples from which the contributions are measured; labels are not read.
    images: number of images to draw, 1 or more. Default 200.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them if there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns layer name -> (filters,) in [0, 1): the share of the layer that is removed before this filter, larger =
    keep.
    Raises ValueError for an empty split, numbers out of range, inputs that are not finite, and a network that cannot be
    traced.
    Source: luo2017thinet.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> scores(model, split)["0"].sort().values
    tensor([0.0000, 0.2500, 0.5000, 0.7500])
    """
    matrices = reconstruction.grams(model, split, images=images, places=places, outputs=outputs, seed=seed)
    return {name: lateness(gram) for name, gram in matrices.items()}


def lateness(gram: Tensor) -> Tensor:
    """Return how late the greedy search removes each channel.

    gram: (channels, channels), the matrix G, symmetric.

    Returns (channels,) in [0, 1): the share of the channels that go before.

    >>> lateness(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 0.0000])
    """
    late = torch.empty(len(gram), device=gram.device)
    late[removal_order(gram)] = torch.arange(len(gram), device=gram.device) / len(gram)
    return late


def rescale(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    split: Split,
    *,
    images: int = 1000,
    places: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Multiply the kernels that read a kept channel by a least-squares factor, in a masked copy of the model.

    The layers get their factors one after the other, from first to last. Shrink the copy with the same masks
    afterwards.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True = keep, from the scores of any criterion.
    split: samples from which the factors are computed; labels are not read.
    images: number of images to draw, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    seed: seed of the draws. Default 0.

    Returns the copy, of the size of the model.
    Raises ValueError for an empty split, numbers out of range, and masks that :func:`lib.structure.mask` refuses.
    Source: luo2017thinet.
    """
    return refitting.reconstruct(model, masks, split, factors, images=images, places=places, seed=seed)


def layer_by_layer(
    model: nn.Module,
    split: Split,
    *,
    fraction: float,
    tied: bool = False,
    images: int = 200,
    fit_images: int = 1000,
    places: int = 10,
    outputs: int = 64,
    seed: int = 0,
) -> tuple[nn.Module, Masks]:
    """Prune as the paper does: choose the channels of one layer, rescale, and go on with the result.

    The channels are chosen by what the next layer reads in the network as cut so far. That layer is then rescaled to
    its answers in the model.

    model: any network that can be traced; it is left as it was.
    split: samples to choose with and to compute the factors from; labels are not read.
    fraction: share of the filters to remove from every layer, in [0, 1); the number is rounded down.
    tied: whether layers that an addition ties lose filters as well. Default False, as in the paper: the sums of
        residual blocks stay whole.
    images: number of images to draw for the choice, 1 or more. Default 200.
    fit_images: number of images to draw for the factors, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them if there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns a masked copy of the model, and the masks; shrink the copy with them.
    Raises ValueError for a fraction out of range, a model that has no layer to prune, and what :func:`rescale` refuses.
    Source: luo2017thinet.

    >>> from lib import models
    >>> split = Split(torch.rand(8, 1, 28, 28), torch.zeros(8, dtype=torch.long))
    >>> masked, masks = layer_by_layer(models.lenet5(), split, fraction=0.5)
    >>> masks
    Masks(removed: conv1 10 of 20, conv2 25 of 50, fc1 250 of 500)
    """
    return refitting.layer_by_layer(
        model,
        split,
        lambda gram, goal, count: lateness(gram),
        factors,
        fraction=fraction,
        tied=tied,
        images=images,
        fit_images=fit_images,
        places=places,
        outputs=outputs,
        seed=seed,
    )


def factors(patches: Tensor, answers: Tensor, weight: Tensor, channel: Tensor) -> Tensor:
    """Multiply the weight of one layer by the best factor for each channel, in the sense of least squares.

    patches: (n, inputs, k), what the layer reads; k is the number of positions of the kernel.
    answers: (n, outputs), what it should answer, without the bias.
    weight: (outputs, inputs, k).
    channel: (inputs,) number of the channel that an input belongs to; a channel may have several inputs.

    Returns the new weight, (outputs, inputs, k). A channel that contributes nothing keeps the factor 1.
    """
    names, number = channel.unique(return_inverse=True)
    gram, error = weight.new_zeros(len(names), len(names)), weight.new_zeros(len(names))
    step = max(1, 2**22 // max(1, len(weight) * len(channel)))
    # method
    for x, y in zip(patches.split(step), answers.split(step), strict=True):
        # of each input; a channel may have several
        parts = reconstruction.contributions(x, weight).flatten(0, 1)
        rows = parts.new_zeros(len(parts), len(names)).index_add_(1, number, parts)
        gram += rows.T @ rows
        error += rows.T @ (y.flatten() - rows.sum(1))
    # (X^T X)^-1 X^T (y - X 1), around w = 1
    change = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ error
    return weight * (1 + change)[number][:, None]
    # end of method
