"""Give new weights to layers that read removed channels, all masks at once or one layer after the other."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from lib import structure, weights
from lib.datasets import Split
from lib.pruning.shared import patches, reconstruction
from lib.structure import Group, Masks

Solve = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Score = Callable[[Tensor, Tensor, int], Tensor]


def reconstruct(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    split: Split,
    solve: Solve,
    *,
    images: int = 1000,
    places: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Give the layers that read removed channels new weights, in a masked copy of the model.

    The layers get their weights one after the other, in the order in which they run. What a layer reads comes from the
    copy as refitted so far, and what it should answer comes from the model. So an error of an earlier layer is
    corrected and not passed on. Shrink the copy with the same masks afterwards.

    If no map of all images together has more than 2^27 values, the copy runs once, and pauses at each layer for its new
    weights. Otherwise the images run in batches, once for each layer, up to that layer.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True = keep.
    split: samples to fit to; labels are not read.
    solve: function of patches (n, inputs, k), answers (n, outputs), weight (outputs, inputs, k) and channel (inputs,)
        that returns the new weight. It only sees what is kept; ``channel`` is the number of the channel that each input
        belongs to.
    images: number of images to draw, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    seed: seed of the draws. Default 0.

    Returns the copy, of the size of the model.
    Raises ValueError for an empty split, numbers out of range, masks that :func:`lib.structure.mask` refuses, a layer
    that :func:`lib.pruning.shared.patches.sampled` refuses, and one that runs more than once in a forward pass.
    """
    patches.check(split, images, places)
    example = split.images[:1]
    masked = structure.mask(model, masks, example)
    groups = structure.groups(model, example)
    readers = {name for group in groups for name in group.consumers}
    _refit(model, masked, masks, groups, readers, split, solve, images=images, places=places, seed=seed)
    return masked


def layer_by_layer(
    model: nn.Module,
    split: Split,
    score: Score,
    solve: Solve,
    *,
    fraction: float,
    tied: bool = False,
    images: int = 200,
    fit_images: int = 1000,
    places: int = 10,
    outputs: int = 64,
    seed: int = 0,
) -> tuple[nn.Module, Masks]:
    """Choose the channels of one layer, give the next layers new weights, and go on with the resulting network.

    model: any network that can be traced; it is left as it was.
    split: samples to choose with and to fit to; labels are not read.
    score: function of G, :math:`Z^\\top Y` (see :func:`lib.pruning.shared.reconstruction.measured`) and the number of
        channels to keep, that returns scores (channels,), larger = keep. G is that of the network as cut so far; Y is
        what the model answers.
    solve: as in :func:`reconstruct`.
    fraction: share of the filters to remove from every layer, in [0, 1); the number is rounded down.
    tied: whether layers that an addition ties lose filters as well. Default False: the sums of residual blocks stay.
    images: number of images to draw for the choice, 1 or more. Default 200.
    fit_images: number of images to draw for the fit, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them if there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns the masked copy, still of the model's size, and the masks; shrink the copy with them.
    Raises ValueError as :func:`reconstruct` does, for a fraction out of range, and for a model that has no layer to
    prune.
    """
    reconstruction.check(split, min(images, fit_images), places, outputs)
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    example = split.images[:1]
    groups = structure.groups(model, example)
    chosen = [group for group in groups if tied or len(group.producers) == 1]
    if not chosen:
        raise ValueError(f"{type(model).__name__} has no layer that may lose filters")
    readers = {name for group in chosen for name in group.consumers}
    runs = list(dict.fromkeys(name for name, _, _ in patches.sampled(model, readers, split, images=1, places=1)))
    chosen.sort(key=lambda group: min((runs.index(name) for name in group.consumers), default=len(runs)))
    network, masks = copy.deepcopy(model), Masks()
    options = {"images": images, "places": places, "outputs": outputs, "seed": seed}
    for group in chosen:
        ((gram, goal),) = reconstruction.measured(network, model, [group], split, **options)
        scores = score(gram, goal, group.channels - int(fraction * group.channels + 1e-9))
        masks.update(structure.keep(dict.fromkeys(group.producers, scores), fraction=fraction, groups=[group]))
        network = structure.mask(network, masks, example)
        readers = set(group.consumers)
        _refit(model, network, masks, groups, readers, split, solve, images=fit_images, places=places, seed=seed)
    return network, masks


def _refit(
    model: nn.Module,
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    groups: Sequence[Group],
    readers: Collection[str],
    split: Split,
    solve: Solve,
    *,
    images: int,
    places: int,
    seed: int,
) -> None:
    """Give new weights to those readers in the masked copy that read removed channels."""
    kept = {name: mask.cpu() for group in groups for name, mask in _joint(group, masks)}
    inputs: dict[str, Tensor] = {}
    channel: dict[str, Tensor] = {}
    for number, group in enumerate(groups):
        for name, columns in group.consumers.items():
            width = patches.kernels(weights.layer_named(model, name)).shape[1]
            inputs.setdefault(name, torch.ones(width, dtype=torch.bool))
            channel.setdefault(name, -1 - torch.arange(width))
            channel[name][columns] = (number * width + torch.arange(group.channels))[:, None]
            if group.producers[0] in kept:
                inputs[name][columns] = kept[group.producers[0]][:, None]
    short = [name for name, some in inputs.items() if name in readers and not some.all()]
    if not short:
        return
    drawn = patches.batches(model, split, images=images, seed=seed, entries=2**27, most=images)
    if len(drawn) > 1:
        drawn = patches.batches(model, split, images=images, seed=seed)
    answers: dict[str, list[Tensor]] = {}
    for calls in patches.calls(model, short, drawn, places=places, seed=seed):
        for name, _, answer in calls:
            answers.setdefault(name, []).append(answer)
    for name, parts in answers.items():
        if len(parts) > len(drawn):
            raise ValueError(f"layer {name!r} runs more than once in a forward pass: it cannot be fitted to one answer")
    originals = patches.accepted(model, answers)

    def fit(name: str, read: Tensor) -> None:
        layer = weights.layer_named(masked, name)
        wanted = patches.without_bias(originals[name], torch.cat(answers[name]))
        wanted = wanted.to(torch.promote_types(layer.weight.dtype, torch.float32)).double()
        if not (torch.isfinite(read).all() and torch.isfinite(wanted).all()):
            raise ValueError(f"what layer {name!r} reads and answers must be finite: look for NaN in the split")
        weight = patches.kernels(layer)
        rows = kept.get(name, torch.ones(len(weight), dtype=torch.bool))
        held = layer.weight.detach().double().reshape(*layer.weight.shape[:2], -1)
        blocks = getattr(layer, "groups", 1)
        chunks = zip(torch.arange(len(rows)).chunk(blocks), torch.arange(len(inputs[name])).chunk(blocks), strict=True)
        for b, (out, into) in enumerate(chunks):
            out, into = out[rows[out]], into[inputs[name][into]]
            owner = channel[name][into].to(read.device)
            new = solve(read[:, into].double(), wanted[:, out], weight[out[:, None], into], owner)
            held[out[:, None], into - b * held.shape[1]] = new
        layer.weight.data.copy_(held.reshape(layer.weight.shape))

    patches.in_turn(masked, answers, drawn, fit, places=places, seed=seed)


def _joint(group: Group, masks: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The mask of a group for each of its producers, whichever of them the masks name."""
    mask = next((masks[name] for name in group.producers if name in masks), None)
    return [] if mask is None else [(name, mask) for name in group.producers]
