"""Give a layer more channels without changing the function (chen2016net2net, wei2016network)."""

import torch
from torch import Tensor, nn

from lib import structure
from lib.arguments import check_one_of, check_sizes
from lib.morphism.shared import channels
from lib.morphism.shared.checks import check, check_noise, draw, proved
from lib.morphism.shared.layers import layer_named
from lib.structure.grouping import suggested

NEW_CHANNELS = ("copies", "zeros")


@torch.no_grad()
def widen(
    model: nn.Module,
    layer: str,
    example: Tensor,
    *,
    width: int,
    new: str = "copies",
    noise: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    r"""Give a layer, and everything its channels are tied to, more channels.

    Channel j of the wider layer is a copy of channel g(j) of the old one,

    .. math:: g(j) = j \text{ for } j \le n, \text{ else random}; \quad
        U^{(i)}_j = W^{(i)}_{g(j)}, \quad U^{(i+1)}_{\cdot j} = W^{(i+1)}_{\cdot g(j)} / |\{x : g(x) = g(j)\}|

    (Net2WiderNet of chen2016net2net). Batch norm, PReLU and depthwise convolutions on the way copy what they hold for a
    channel; layers that an addition ties are widened with it; after a flatten each place of a map has its column. These
    ties are the groups of :func:`lib.structure.groups`.

    model: any network that can be traced by :mod:`lib.structure`; not changed.
    layer: a convolution or linear layer that computes the channels of a group.
    example: one or more inputs, (n, ...).
    width: channels afterwards, more than now; where grouped convolutions compute or read the channels in parts, a
        multiple of these.
    new: "copies" (default), or "zeros": new filters are random, and have weight zero in the layers that read them
        (wei2016network).
    noise: standard deviation of what is added to new filters, in units of that of the layer's weights; 0 (default)
        is exact. The authors of cai2018path use 0.006.
    seed: of g, of random filters and of noise; default 0.

    Returns the wider copy. Raises ValueError for a layer that does not exist or whose channels cannot be widened (they
    are an output, are normalized over, ...), and for a width that is not larger.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> wide, x = widen(model, "0", torch.zeros(1, 2), width=5), torch.ones(1, 2)
    >>> tuple(wide[2].weight.shape), bool((wide(x) - model(x)).abs() < 1e-6)
    ((1, 5), True)
    """
    check(model, example)
    layer_named(model, layer)
    check_noise(noise)
    check_sizes({"width": width, "seed": seed}, {"seed": 0})
    check_one_of("new", new, NEW_CHANNELS)
    group = _group(model, layer, example)
    for name in (*group.producers, *group.carriers, *group.consumers):
        layer_named(model, name, nn.Module)  # finite
    if width <= group.channels or width % group.parts:
        parts = f", in multiples of {group.parts}" if group.parts > 1 else ""
        raise ValueError(f"the width of layer {layer!r} must be above the present {group.channels}{parts}, not {width}")
    generator = torch.Generator().manual_seed(seed)
    # method
    plan = channels.planned(group, width, generator)
    gained = channels.gains(model, group, plan, copies=new == "copies")
    wide = channels.widened(model, gained, random=None if new == "copies" else generator)
    # end of method
    proved(model, wide, example, f"widening layer {layer!r}")
    for name in group.producers if noise else ():
        weight: Tensor = layer_named(wide, name).weight
        fresh = plan.fresh.to(weight.device)
        weight[fresh] += noise * weight.std(correction=0) * draw(weight[fresh].shape, weight, generator)
    return wide


def _group(model: nn.Module, layer: str, example: Tensor) -> structure.Group:
    groups = structure.groups(model, example)
    for group in groups:
        if layer in group.producers:
            return group
    why = suggested(model, example).spared.get(layer, "without some of them the network does not run, or differs")
    names = [name for group in groups for name in group.producers]
    accepted = (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "none"
    raise ValueError(f"the channels of layer {layer!r} cannot be widened ({why}): accepted are {accepted}")
