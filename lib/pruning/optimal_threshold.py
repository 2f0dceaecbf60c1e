r"""Channel pruning by optimal thresholds on the scales of batch norm, a threshold for each layer.

Batch norm multiplies channel i by a learned scale :math:`\gamma_i`. An l1 penalty trains the scales of channels that
are not needed towards zero: :math:`s\,\operatorname{sign}(\gamma)` is added to their gradient (liu2017slimming). Then,
of the scales of a layer in ascending order of :math:`\gamma^2`, those go that hold at most the share
:math:`\delta` of the sum (ye2020channel):

.. math:: k = \min\Big\{ i : \sum_{j \le i} \gamma_{(j)}^2 > \delta \sum_j \gamma_j^2 \Big\}, \qquad
    \theta = \tfrac12 \big( \lvert\gamma_{(k-1)}\rvert + \lvert\gamma_{(k)}\rvert \big), \qquad
    \text{remove } \lvert\gamma\rvert < \theta.

One threshold for the whole network, as in network slimming, is ``keep(scores, scope="global")``.
"""

import copy

import torch
from torch import Tensor, nn

from lib import running, training
from lib.datasets import Split
from lib.pruning.shared.groups import groups_of
from lib.structure import PER_CHANNEL, Masks


def threshold(scales: Tensor, *, delta: float = 1e-3) -> float:
    """The magnitude below which scales, (channels,), hold at most the share ``delta`` of the sum of their squares.

    Equal scales stay or go together. Raises ValueError for a share outside [0, 1) and scales that are all zero.
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1), not {delta}")
    if scales.dim() != 1 or not torch.isfinite(scales).all() or not scales.any():
        raise ValueError(f"finite scales that are not all zero are needed, not {scales.tolist()[:5]}")
    ascending = scales.detach().double().abs().sort().values
    energy = (ascending / ascending[-1]).square().cumsum(0)  # in units of the largest: no overflow
    first = int((energy / energy[-1] > delta).nonzero()[0])
    return float((ascending[first - 1] + ascending[first]) / 2) if first else 0.0


@torch.no_grad()
def scores(model: nn.Module, data: Split) -> dict[str, Tensor]:
    r"""Layer name -> (filters,) :math:`\lvert\gamma\rvert` of each channel; larger = keep.

    Where several batch norms scale one channel, behind an addition or a concatenation, the root of the sum of squares.
    Layers without batch norm have no score and stay as they are. data: its first image traces the network. Raises
    ValueError on an empty split, and where no layer has batch norm with scales.
    """
    result = {}
    for group in groups_of(model, data):
        carriers = [(model.get_submodule(name), numbers[:, 0]) for name, numbers in group.carriers.items()]
        norms = [(layer, places) for layer, places in carriers if isinstance(layer, PER_CHANNEL) and layer.affine]
        if norms:
            scale = torch.stack([layer.weight[places] for layer, places in norms]).norm(dim=0)
            result |= dict.fromkeys(group.producers, scale)
    if not result:
        raise ValueError(
            f"{type(model).__name__} has no batch norm behind a layer whose filters can go: no scales to read"
        )
    return result


def masks(model: nn.Module, data: Split, *, delta: float = 1e-3) -> Masks:
    """Masks of the channels that reach their layer's :func:`threshold`. Errors as those of it and of :func:`scores`."""
    found = {}
    for name, scale in scores(model, data).items():
        try:
            found[name] = scale.double() >= threshold(scale, delta=delta)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return Masks(found)


def slim(model: nn.Module, split: Split, *, sparsity: float, epochs: int, seed: int, **fit: object) -> nn.Module:
    r"""Train with the penalty :math:`s \sum \lvert\gamma\rvert` on all scales of batch norm, in place; return it.

    sparsity: s, 0 or more. ``fit`` goes to :func:`lib.training.fit`. Raises ValueError where there is no scale.
    """
    if not 0 <= sparsity < float("inf"):
        raise ValueError(f"sparsity must be 0 or more, not {sparsity}")
    scales = [layer.weight for layer in model.modules() if isinstance(layer, PER_CHANNEL) and layer.affine]
    if not scales:
        raise ValueError(f"{type(model).__name__} has no batch norm with scales to penalise")
    hooks = [scale.register_hook(lambda slope, s=scale: slope + sparsity * s.detach().sign()) for scale in scales]
    try:
        training.fit(model, split, epochs=epochs, seed=seed, **fit)
    finally:
        for hook in hooks:
            hook.remove()
    return model


@torch.no_grad()
def recalibrated(model: nn.Module, data: Split, *, batch_size: int = 250) -> nn.Module:
    """A copy of the model whose batch norms have the means and variances of this data.

    A channel whose scale is zero still gives a constant, its shift. Where it is cut out, the next batch norm must
    subtract another mean. Raises ValueError on an empty split.
    """
    groups_of(model, data)
    model = copy.deepcopy(model)
    norms = [layer for layer in model.modules() if isinstance(layer, PER_CHANNEL) and layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    with running.evaluating(model):
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the average over all batches
            layer.train()
        for images in data.images.split(batch_size):
            running.logits(model, images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model
