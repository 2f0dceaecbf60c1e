r"""Measure what the next layers read of each channel: enough to choose channels without running the network again.

A layer computes :math:`y_o = \sum_c \hat x_{o,c} + b_o`, where :math:`\hat x_{o,c} = \sum_k W_{o,c,k}\, x_{c,k}` is
what channel c contributes to output o at one place. If each contribution is multiplied by :math:`\beta_c`, which is 0
for a channel that is gone, the squared error of all outputs is

.. math:: \sum_{o,\,\text{places}} \Big(\sum_c (1 - \beta_c)\, \hat x_{o,c}\Big)^2 = (1-\beta)^\top G\, (1-\beta),
   \qquad G_{cd} = \sum_{o,\,\text{places}} \hat x_{o,c}\, \hat x_{o,d},

so the matrix G of a group is all that is needed to choose among its channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib import structure, weights
from lib.datasets import Split
from lib.pruning.shared import patches
from lib.pruning.shared.patches import kernels, sampled
from lib.structure import Group


def contributions(patches: Tensor, weight: Tensor) -> Tensor:
    """Compute what each channel adds to each output; summed over the channels, that is the answer without the bias.

    patches: (n, channels, k), what the layer reads.
    weight: (outputs, channels, k).

    Returns (n, outputs, channels).

    >>> contributions(torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[10.0], [1.0]]]))
    tensor([[[20.,  3.]]])
    """
    # method
    return torch.einsum("nck,ock->noc", patches, weight)
    # end of method


def grams(
    model: nn.Module, split: Split, *, images: int = 200, places: int = 10, outputs: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    r"""Measure the matrix G of every layer whose filters may go.

    If several layers read the channels, their matrices are averaged, each divided by the energy of its answer. So
    :math:`(1-\beta)^\top G (1-\beta)` is a relative error: 1 if all channels go. Layers that an addition ties share one
    G.

    model: any network that can be traced; it is left as it was.
    split: samples to run through the network; labels are not read.
    images: number of images to draw, 1 or more. Default 200.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them if there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns layer name -> (channels, channels) float64.
    Raises ValueError for an empty split, numbers out of range, inputs that are not finite, a network that cannot be
    traced, and a next layer that :func:`lib.pruning.shared.patches.sampled` refuses.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> gram = grams(model, split)["0"]
    >>> gram.shape, round(gram.sum().item(), 6)
    (torch.Size([4, 4]), 1.0)
    """
    check(split, images, places, outputs)
    groups = structure.groups(model, split.images[:1])
    found = measured(model, model, groups, split, images=images, places=places, outputs=outputs, seed=seed)
    return {name: gram for group, (gram, _) in zip(groups, found, strict=True) for name in group.producers}


def check(split: Split, images: int, places: int, outputs: int) -> None:
    """Raise ValueError for an empty split, and for numbers below 1.

    split: samples to run through a network.
    images: number of images to draw.
    places: number of places to draw from each map.
    outputs: number of outputs to draw from each next layer.
    """
    patches.check(split, images, places)
    if outputs < 1:
        raise ValueError(f"outputs must be 1 or more, not {outputs}")


def measured(
    network: nn.Module,
    model: nn.Module,
    groups: Sequence[Group],
    split: Split,
    *,
    images: int,
    places: int,
    outputs: int,
    seed: int,
) -> list[tuple[Tensor, Tensor]]:
    r"""Measure G and :math:`Z^\top Y` in a network that is already partly cut, with the answers Y of the whole one.

    network: the network in which the next layers read; it is left as it was.
    model: the network whose answers Y are wanted, with the same layers; it may be the network itself.
    groups: of its channels.
    split: samples to run through both; labels are not read.
    images: number of images to draw.
    places: number of places to draw from each map.
    outputs: number of outputs to draw from each next layer.
    seed: seed of the draws.

    Returns for each group G (channels, channels), and :math:`Z^\top Y` (channels,). Z are the contributions, and Y the
    answers minus what other channels contribute. Both results are float64, divided by the energy of what the next
    layers answer in the network, and averaged if several layers read the channels. In the whole network :math:`Z^\top Y
    = G\,1`.
    Raises ValueError for inputs that are not finite, and for what :func:`lib.pruning.shared.patches.sampled` refuses.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.consumers))
    rows, drawn = {}, {}
    for name in names:
        weight = kernels(weights.layer_named(network, name))
        rows[name] = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))[:outputs]
        drawn[name] = weight[rows[name]]
    options = {"images": images, "places": places, "seed": seed}
    calls = sampled(network, names, split, **options)
    if network is model:
        reads = ((name, read, torch.zeros_like(answer)) for name, read, answer in calls)
    else:
        pairs = zip(calls, sampled(model, names, split, **options), strict=True)
        reads = ((name, read, wanted - answer) for (name, read, answer), (_, _, wanted) in pairs)
    sums: dict[tuple[int, str], Tensor] = {}
    for name, read, missing in reads:
        for i, columns in ((i, group.consumers[name]) for i, group in enumerate(groups) if name in group.consumers):
            weight = drawn[name][:, columns].flatten(2)
            step = max(1, 2**22 // (len(weight) * len(columns)))
            for x, y in zip(read[:, columns].flatten(2).split(step), missing[:, rows[name]].split(step), strict=True):
                z = contributions(x, weight).flatten(0, 1)
                sums[i, name] = sums.get((i, name), 0) + torch.cat([z.T @ z, (y.flatten() @ z)[None]])
    found = []
    for i, group in enumerate(groups):
        whole = torch.zeros(group.channels + 1, group.channels, dtype=torch.float64)
        for name in group.consumers:
            part = sums.pop((i, name))
            energy = part[:-1].sum().clamp_min(1e-12 * part[:-1].trace()).clamp_min(1e-300)
            whole = whole.to(part.device) + part / energy
        whole = whole / max(1, len(group.consumers))
        if not torch.isfinite(whole).all():
            raise ValueError(
                f"what the layers after {group.producers[0]!r} read must be finite: look for NaN in the split"
            )
        gram, missed = whole[:-1], whole[-1]
        found.append((gram, gram.sum(1) + missed))
    return found
