r"""Pruning filters by their l1 norm: a filter with small weights is taken to answer softly, and goes first.

The score of filter j of a layer with the kernels :math:`\mathcal F_{j,l}`, one for each of its n input channels, is

.. math:: s_j = \sum_{l=1}^{n} \lVert \mathcal F_{j,l} \rVert_1

(li2017pruning, section 3.1). With the filter go its feature map and the kernels of the next layers that read it. The
layers are ranked each by itself, or from first to last without the kernels that are gone already (section 3.2).
Batch norm rescales every map, so there the weights alone say little; ``folded`` counts its scale in.
"""

import copy

import torch
from torch import Tensor, nn

from lib import running, structure
from lib.datasets import Split
from lib.pruning.shared.groups import groups_of
from lib.structure import PER_CHANNEL, Masks


@torch.no_grad()
def scores(model: nn.Module, data: Split, *, folded: bool = False) -> dict[str, Tensor]:
    r"""Layer name -> (filters,) sum of the absolute weights of each filter; larger = keep.

    data: its first image traces the network; nothing else of it is used.
    folded: multiply by :math:`\lvert\gamma_j\rvert / \sqrt{\sigma_j^2 + \epsilon}` of the batch norm behind the layer.
    Raises ValueError on an empty split, weights that are not finite, and a network that cannot be traced.
    """
    found, scales = groups_of(model, data), {}
    if folded:
        scales = _scales(model, [name for group in found for name in group.producers], data)
    return {name: filter_norms(model, name) * scales.get(name, 1) for group in found for name in group.producers}


@torch.no_grad()
def greedy(model: nn.Module, data: Split, *, fraction: float) -> Masks:
    """Masks that remove ``fraction`` of the filters of each layer, from the first layer of the network to the last.

    A filter is scored without its kernels for the maps that earlier layers have lost. Layers tied by an addition are
    masked where the first of them runs. Errors as those of :func:`scores` and :func:`lib.structure.keep`.
    """
    model, masks = copy.deepcopy(model), Masks()
    found = {name: group for group in groups_of(model, data) for name in group.producers}
    with running.captured(model, found) as flow, running.evaluating(model):
        running.logits(model, data.images[:1])
    for first in flow.outputs:  # in the order in which they ran
        if first in masks:
            continue
        group = found[first]
        masks |= structure.keep(
            {name: filter_norms(model, name) for name in group.producers}, fraction=fraction, groups=[group]
        )
        for name, columns in group.consumers.items():
            layer = model.get_submodule(name)
            if getattr(layer, "groups", 1) == 1:  # a filter of a grouped one reads a part of the maps
                layer.weight[:, columns[~masks[first]].flatten()] = 0
    return masks


def filter_norms(model: nn.Module, name: str) -> Tensor:
    norms = model.get_submodule(name).weight.detach().abs().flatten(1).sum(1)
    if not torch.isfinite(norms).all():
        raise ValueError(f"the weights of layer {name!r} hold NaN or infinity: finite weights are needed")
    return norms


def _scales(model: nn.Module, producers: list[str], data: Split) -> dict[str, Tensor]:
    """Producer -> what the batch norm that reads its very output multiplies each map with."""
    norms = {name: layer for name, layer in model.named_modules() if isinstance(layer, PER_CHANNEL)}
    with running.captured(model, [*producers, *norms]) as flow, running.evaluating(model):
        running.logits(model, data.images[:1])
    scales = {}
    for name in producers:
        for norm, layer in norms.items():
            if norm in flow.inputs and flow.inputs[norm] is flow.outputs.get(name) and layer.running_var is not None:
                scale = (layer.running_var + layer.eps).rsqrt()
                scales[name] = scale if layer.weight is None else scale * layer.weight.detach().abs()
    return scales
