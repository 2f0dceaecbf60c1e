r"""Prune filters by their l1 norm: a filter with small weights is expected to respond weakly, so it goes first.

The score of filter j of a layer is the sum of its absolute weights. With the kernels :math:`\mathcal F_{j,l}`, one for
each of the n input channels,

.. math:: s_j = \sum_{l=1}^{n} \lVert \mathcal F_{j,l} \rVert_1

(li2017pruning, section 3.1). A filter takes its feature map with it, and the kernels of the next layers that read the
map. Each layer is ranked by itself, or the layers are ranked from first to last, without kernels that are already gone
(section 3.2). Batch norm rescales every map, so the weights before it say little by themselves; ``folded`` includes its
scale.
"""

import copy

import torch
from torch import Tensor, nn

from lib import running, structure, weights
from lib.datasets import Split
from lib.pruning.shared.groups import filters, groups_of
from lib.structure import PER_CHANNEL, Masks


@torch.no_grad()
def scores(model: nn.Module, split: Split, *, folded: bool = False) -> dict[str, Tensor]:
    r"""Score each filter by the sum of its absolute weights.

    model: any network that can be traced; it is left as it was.
    split: its first image traces the network; nothing else in it is used.
    folded: multiply the score by :math:`\lvert\gamma_j\rvert / \sqrt{\sigma_j^2 + \epsilon}` of the batch norm that
        follows the layer. Default False, as in the paper.

    Returns layer name -> (filters,), larger = keep; a layer that only computes a gate for the channels of other layers,
    as in squeeze-and-excitation, gets no score.
    Raises ValueError for an empty split, weights that are not finite, a network that cannot be traced and, with
    ``folded``, for a batch norm without running statistics.
    Source: li2017pruning, section 3.1.

    >>> from lib import models
    >>> split = Split(torch.zeros(1, 1, 28, 28), torch.tensor([0]))
    >>> masks = structure.keep(scores(models.lenet5(), split), fraction=0.5)
    >>> masks.removed
    {'conv1': 10, 'conv2': 25, 'fc1': 250}
    """
    producers = [name for group in groups_of(model, split) for name in group.producers]
    scales = _scales(model, producers, split) if folded else {}
    return {name: filter_norms(model, name) * scales.get(name, 1) for name in producers}


@torch.no_grad()
def greedy(model: nn.Module, split: Split, *, fraction: float) -> Masks:
    """Choose filters layer by layer, first to last: score a filter without its kernels for maps that are already gone.

    Layers that an addition ties get one mask, chosen when the first of them runs.

    model: any network that can be traced; it is left as it was.
    split: its first image traces the network; nothing else in it is used.
    fraction: share of the filters to remove from every layer, in [0, 1).

    Returns the masks, layer name -> (filters,) bool, True = keep.
    Raises ValueError for a fraction outside [0, 1), an empty split, weights that are not finite, and a network that
    cannot be traced.
    Source: li2017pruning, section 3.2.
    """
    model, masks = copy.deepcopy(model), Masks()
    groups = {name: group for group in groups_of(model, split) for name in group.producers}
    with running.captured(model, groups) as flow, running.evaluating(model):
        running.logits(model, split.images[:1])
    for name in groups:
        if name not in flow.outputs:
            raise ValueError(f"layer {name!r} did not run: its place in the order of layers is not known")
    for first in flow.outputs:  # in the order in which they ran
        if first in masks:
            continue
        group = groups[first]
        masks |= structure.keep(
            {name: filter_norms(model, name) for name in group.producers}, fraction=fraction, groups=[group]
        )
        for name, columns in group.consumers.items():
            _forget(weights.layer_named(model, name), columns[~masks[first].cpu()].flatten())
    return masks


def _forget(layer: weights.Layer, numbers: Tensor) -> None:
    """Set the kernels for these inputs to zero. A filter of a grouped convolution reads one block of the inputs."""
    blocks = layer.weight.unflatten(0, (getattr(layer, "groups", 1), -1))
    width = blocks.shape[2]
    blocks[numbers // width, :, numbers % width] = 0


def filter_norms(model: nn.Module, name: str) -> Tensor:
    """Return the l1 norm of each filter of one layer.

    model: any network.
    name: name of one of its layers with a weight.

    Returns (filters,).
    Raises ValueError for a layer that does not exist and for weights that are not finite.
    """
    # method
    return filters(model, name).abs().sum(1)
    # end of method


def _scales(model: nn.Module, producers: list[str], split: Split) -> dict[str, Tensor]:
    """Producer -> the factor of each map in the batch norm that reads exactly what the producer puts out."""
    norms = {name: layer for name, layer in model.named_modules() if isinstance(layer, PER_CHANNEL)}
    with running.captured(model, [*producers, *norms]) as flow, running.evaluating(model):
        running.logits(model, split.images[:1])
    scales = {}
    for name in producers:
        for norm, layer in norms.items():
            if norm in flow.inputs and flow.inputs[norm] is flow.outputs.get(name):
                if layer.running_var is None:
                    raise ValueError(f"batch norm {norm!r} keeps no running variance: folded needs it")
                scale = (layer.running_var + layer.eps).rsqrt()
                scales[name] = scale * layer.weight.detach().abs() if layer.affine else scale
    return scales
