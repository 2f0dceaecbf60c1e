r"""Prune channels by an optimal threshold on the scales of batch norm, one threshold for each layer.

Batch norm multiplies channel i by a learned scale :math:`\gamma_i`. An l1 penalty in training drives the scales of
channels that are not needed toward zero: :math:`s\,\operatorname{sign}(\gamma)` is added to their gradient
(liu2017slimming). Then each layer sorts its scales by :math:`\gamma^2` and removes the smallest ones, which together
hold at most the share :math:`\delta` of the sum (ye2020channel):

.. math:: k = \min\Big\{ i : \sum_{j \le i} \gamma_{(j)}^2 > \delta \sum_j \gamma_j^2 \Big\}, \qquad
    \theta = \tfrac12 \big( \lvert\gamma_{(k-1)}\rvert + \lvert\gamma_{(k)}\rvert \big), \qquad
    \text{remove } \lvert\gamma\rvert < \theta.

One threshold for the whole network, as in network slimming, is ``keep(scores, scope="global", groups=groups)`` with the
groups of :func:`lib.structure.groups`: layers that an addition ties then get one mask and count once.
"""

import copy
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.pruning.shared.counts import count
from lib.pruning.shared.groups import groups_of
from lib.structure import PER_CHANNEL, Masks
from lib.training import FitOptions


def threshold(scales: Tensor, *, delta: float = 1e-3) -> float:
    """Return the magnitude below which the scales hold at most the share ``delta`` of the sum of all squared scales.

    Equal scales are kept or removed together.

    scales: (channels,) scales of one layer, of either sign.
    delta: share of the sum of squares that may go, in [0, 1). Default 0.001.

    Returns the threshold; 0 if no scale may go.
    Raises ValueError for a share outside [0, 1), and for scales that are not finite or all zero.

    >>> threshold(torch.tensor([1.0, -0.5, 0.01, 0.02]), delta=0.001) > 0.02  # halfway from 0.02 to 0.5
    True
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1), not {delta}")
    if scales.dim() != 1 or not torch.isfinite(scales).all() or not scales.any():
        raise ValueError(f"scales must be finite and not all zero, not {scales.tolist()[:5]}")
    # method
    ascending = scales.detach().double().abs().sort().values
    # in units of the largest: no overflow
    energy = (ascending / ascending[-1]).square().cumsum(0)
    first = int((energy / energy[-1] > delta).nonzero()[0])
    return float((ascending[first - 1] + ascending[first]) / 2) if first else 0.0
    # end of method


@torch.no_grad()
def scores(model: nn.Module, split: Split) -> dict[str, Tensor]:
    r"""Score each filter by the scale of its channel, :math:`\lvert\gamma\rvert`.

    If several batch norms scale one channel, after an addition or a concatenation, the score is the root mean square of
    their scales. It has the size of one scale, so that a threshold for the whole network does not spare a channel for
    being read often. A layer without batch norm gets no score, so it keeps all its filters.

    model: any network that can be traced; it is left as it was.
    split: its first image traces the network; nothing else in it is used.

    Returns layer name -> (filters,), larger = keep.
    Raises ValueError for an empty split, a network that cannot be traced, and one that has no batch norm with scales.
    Source: liu2017slimming.

    >>> from lib import models
    >>> split = Split(torch.zeros(1, 3, 32, 32), torch.tensor([0]))
    >>> scores(models.resnet8(width=4), split)["stage1_1.conv1"]
    tensor([1., 1., 1., 1.])
    """
    result: dict[str, Tensor] = {}
    for group in groups_of(model, split):
        carriers = [(model.get_submodule(name), numbers) for name, numbers in group.carriers.items()]
        norms = [(layer, numbers) for layer, numbers in carriers if isinstance(layer, PER_CHANNEL) and layer.affine]
        if norms:
            scales = torch.cat([layer.weight[numbers].T for layer, numbers in norms])
            scale = scales.to(torch.promote_types(scales.dtype, torch.float32)).norm(dim=0) / len(scales) ** 0.5
            result |= dict.fromkeys(group.producers, scale)
    if not result:
        raise ValueError(
            f"{type(model).__name__} has no batch norm after a layer whose filters can go: no scales to read"
        )
    return result


def masks(model: nn.Module, split: Split, *, delta: float = 1e-3) -> Masks:
    """Choose the filters whose scales reach the threshold of their layer.

    model: any network that can be traced; it is left as it was.
    split: its first image traces the network; nothing else in it is used.
    delta: share of a layer's sum of squared scales that may go, in [0, 1). Default 0.001.

    Returns layer name -> (filters,) bool, True = keep; layers without batch norm are not in it.
    Raises ValueError, naming the layer, for a share outside [0, 1) and scales that are not finite or all zero; also for
    an empty split, a network that cannot be traced, and one that has no batch norm with scales.
    Source: ye2020channel.
    """
    result = {}
    for name, scale in scores(model, split).items():
        try:
            result[name] = scale.double() >= threshold(scale, delta=delta)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return Masks(result)


def slim(
    model: nn.Module, split: Split, *, sparsity: float, epochs: int, seed: int, **options: Unpack[FitOptions]
) -> nn.Module:
    r"""Train with the penalty :math:`s \sum \lvert\gamma\rvert` on all scales of batch norm.

    model: any network that has batch norm with scales; it is trained in place.
    split: samples to train on.
    sparsity: the factor s of the penalty, 0 or more.
    epochs: number of epochs.
    seed: seed of the order of the samples.
    options: how to train: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Returns the same model.
    Raises TypeError for other options, and ValueError for a sparsity out of range, an empty split, and a network that
    has no batch norm with scales; all before training.
    Source: liu2017slimming.
    """
    training.check_options(options)
    if not 0 <= sparsity < float("inf"):
        raise ValueError(f"sparsity must be 0 or more and finite, not {sparsity}")
    scales = [layer.weight for layer in model.modules() if isinstance(layer, PER_CHANNEL) and layer.affine]
    if not scales:
        raise ValueError(f"{type(model).__name__} has no batch norm with scales to penalize")
    # method
    hooks = [scale.register_hook(lambda slope, s=scale: slope + sparsity * s.detach().sign()) for scale in scales]
    # end of method
    try:
        training.fit(model, split, epochs=epochs, seed=seed, **options)
    finally:
        for hook in hooks:
            hook.remove()
    return model


@torch.no_grad()
def recalibrated(model: nn.Module, split: Split, *, batch_size: int = 250) -> nn.Module:
    """Copy a model, and give the batch norms of the copy the means and variances of these samples.

    A channel whose scale is zero still puts out a constant, its shift. When it is cut out, the next batch norm has to
    subtract another mean. Only forward passes are needed, no training.

    model: any network; it is left as it was.
    split: samples to run through the network.
    batch_size: samples in each forward pass, 1 or more; the averages over all batches are used. Default 250.

    Returns the copy, in the modes of the model.
    Raises ValueError for an empty split and a batch_size below 1.
    """
    split.check_not_empty("to measure the means and variances of batch norm")
    batch_size = count("batch_size", batch_size)
    model = copy.deepcopy(model)
    norms = [layer for layer in model.modules() if isinstance(layer, PER_CHANNEL) and layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    with running.evaluating(model):
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the average over all batches
            layer.train()
        for images in split.images.split(batch_size):
            running.logits(model, images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model
