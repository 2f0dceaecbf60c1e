r"""Score filters by weights, activations, labels or gradients, and remove a few at a time with fine-tuning in between.

Pruning is an optimization: leave out maps so that the cost :math:`\mathcal C` on the data changes least
(molchanov2017pruning, equation 2). The *oracle* measures what one map changes, :math:`\lvert \mathcal C(z = 0) -
\mathcal C(z) \rvert`, which takes a pass over the data for each map. The criteria estimate it for all maps in one pass.
For a map z with M places (equations 4 to 8):

.. math:: \text{weight } \tfrac1I \sum_i w_i^2, \quad \text{mean } \operatorname{E} \lvert z \rvert, \quad
    \text{deviation } \sqrt{\operatorname{E} z^2 - (\operatorname{E} z)^2}, \quad
    \text{information } H(x) + H(y) - H(x, y),

.. math:: \text{taylor } \frac1N \sum_{n=1}^N \bigg\lvert \frac1M \sum_{m=1}^M
    \frac{\partial \mathcal C_n}{\partial z_{n,m}} z_{n,m} \bigg\rvert,

where x is the mean of the map over its places, in equally filled bins, and y the label. Maps are taken as the next
layers read them, after batch norm, ReLU and pooling; for a rectified map E|z| is the paper's mean. If a linear layer
reads tokens, (n, tokens, features), each feature is a map. Filters that an addition ties make one channel with one
score, to which the weights of all of them contribute. A layer that only computes a gate for the channel, as in
squeeze-and-excitation, does not contribute and gets no score.
"""

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import index
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import measure, running, structure, training
from lib.arguments import check_one_of
from lib.datasets import Split
from lib.pruning.shared.counts import count
from lib.pruning.shared.groups import filters, groups_of
from lib.pruning.shared.reading import check_read, scaled
from lib.structure import Group
from lib.training import FitOptions

CRITERIA = ("weight", "mean", "deviation", "information", "taylor", "random")
Cost = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes) and labels (n,) -> (n,)
Score = Callable[[nn.Module, Split], dict[str, Tensor]]  # as the ``scores`` of any criterion


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample.

    logits: (n, classes).
    labels: (n,) class numbers.

    Returns (n,).

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor([1.3863])
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def scores(
    model: nn.Module,
    split: Split,
    *,
    criterion: str = "taylor",
    bins: int = 10,
    seed: int = 0,
    cost: Cost = cross_entropy,
    batch_size: int = 250,
) -> dict[str, Tensor]:
    """Score each filter by its weights, by its map, or by the gradient of the cost.

    model: any network that can be traced; it is left as it was, without gradients.
    split: samples with labels; "weight" and "random" only trace the network with the first image.
    criterion: "taylor" (default), "weight", "mean", "deviation", "information", or "random", the control.
    bins: number of bins for "information", 2 or more. Default 10.
    seed: seed of "random". Default 0.
    cost: for "taylor": function of logits (n, classes) and labels (n,) that returns the cost of each sample, (n,).
        Default cross-entropy.
    batch_size: samples in each pass, 1 or more. Default 250.

    Returns layer name -> (filters,), larger = keep.
    Raises ValueError for an unknown criterion, numbers out of range, an empty split, weights or images that are not
    finite, and a network that cannot be traced; by name, for a layer that does not run or that gets no gradient.
    Source: molchanov2017pruning, equations 4 to 8.

    >>> from lib import models
    >>> split = Split(torch.rand(4, 1, 28, 28), torch.arange(4))
    >>> {name: score.shape for name, score in scores(models.lenet5(), split, criterion="taylor").items()}
    {'conv1': torch.Size([20]), 'conv2': torch.Size([50]), 'fc1': torch.Size([500])}
    """
    check_one_of("criterion", criterion, CRITERIA)
    bins, batch_size = count("bins", bins, least=2), count("batch_size", batch_size)
    groups = groups_of(model, split)
    if criterion == "random":
        generator = torch.Generator().manual_seed(index(seed))
        values = [torch.rand(group.channels, generator=generator).to(split.images.device) for group in groups]
    elif criterion == "weight":
        values = [_mean_squares(model, group) for group in groups]
    elif criterion == "taylor":
        values = taylor_scores(model, split, groups, cost, batch_size)
    else:
        read = {
            "mean": lambda size, mean, square: size.mean(0),
            "deviation": lambda size, mean, square: (square.mean(0) - mean.mean(0) ** 2).clamp_min(0).sqrt(),
            "information": lambda size, mean, square: information(mean, split.labels, bins=bins),
        }
        values = [read[criterion](*moments) for moments in _moments(model, split, groups, batch_size)]
    for group, value in zip(groups, values, strict=True):
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{criterion} of layer {group.producers[0]!r} is not finite: its weights or the data hold NaN"
            )
    return {name: value for group, value in zip(groups, values, strict=True) for name in group.producers}


def _mean_squares(model: nn.Module, group: Group) -> Tensor:
    first, *others = [filters(model, name).square().mean(1) for name in group.producers]
    return sum(others, first)


def oracle(
    model: nn.Module,
    split: Split,
    *,
    layers: Iterable[str] | None = None,
    signed: bool = False,
    cost: Cost = cross_entropy,
    batch_size: int = 250,
) -> dict[str, Tensor]:
    """Measure how much the mean cost changes when a channel is removed: one pass over the data for each channel.

    model: any network that can be traced; it is left as it was.
    split: samples with labels.
    layers: names of the layers to score, and with them those that an addition ties to them. Default: all.
    signed: return the increase of the cost instead of its absolute value. Default False.
    cost: function of logits (n, classes) and labels (n,) that returns the cost of each sample, (n,). Default
        cross-entropy.
    batch_size: samples in each pass, 1 or more. Default 250.

    Returns layer name -> (filters,) float64, larger = keep.
    Raises ValueError for an empty split, a layer whose filters cannot go, a batch_size out of range, and a network that
    cannot be traced; by name, for a layer that does not run.
    Source: molchanov2017pruning, section 2.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 0.0]]))  # unit 1 is not read
    >>> change = oracle(model, Split(torch.rand(3, 2), torch.zeros(3)), cost=lambda logits, labels: logits[:, 0])
    >>> (change["0"] > 0).tolist()
    [True, False]
    """
    batch_size = count("batch_size", batch_size)
    groups = _of_layers(groups_of(model, split), layers)
    check_read(model, groups, split.images)
    result: dict[str, Tensor] = {}

    def mean_cost() -> Tensor:
        batches = zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
        return torch.cat([_costs(cost, model, *batch).double() for batch in batches]).mean()

    with torch.no_grad(), running.evaluating(model):
        whole = mean_cost()
        for group in groups:
            change = torch.empty(group.channels, dtype=torch.float64, device=split.images.device)
            for channel in range(group.channels):
                factor = torch.ones(1, group.channels, dtype=split.images.dtype)
                factor[:, channel] = 0
                with scaled(model, [group], [factor]):
                    change[channel] = mean_cost() - whole
            result |= dict.fromkeys(group.producers, change if signed else change.abs())
    return result


def _costs(cost: Cost, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    costs = cost(running.logits(model, images), labels)
    if costs.shape != (len(images),):
        raise ValueError(f"cost must return one number for each of {len(images)} samples, not {tuple(costs.shape)}")
    return costs


def normalized(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide the scores of each layer by their Euclidean norm, so that layers can be compared.

    scores: layer name -> (filters,).

    Returns layer name -> (filters,).
    Source: molchanov2017pruning, section 2.2.

    >>> normalized({"conv": torch.tensor([3.0, 4.0])})["conv"]
    tensor([0.6000, 0.8000])
    """
    return {name: score / score.norm().clamp_min(torch.finfo(score.dtype).tiny) for name, score in scores.items()}


def information(values: Tensor, labels: Tensor, *, bins: int = 10) -> Tensor:
    """Measure the mutual information of values and labels, H(x) + H(y) - H(x, y).

    values: (n, channels) finite values, taken column by column and cut into equally filled bins. Equal values share a
        bin.
    labels: (n,) class numbers, 0 or more.
    bins: number of bins, 2 or more. Default 10.

    Returns (channels,) in nats, float64.
    Raises ValueError for bins out of range, values that are not finite, and labels of another kind.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> information(torch.tensor([[0.0], [0.0], [9.0], [9.0]]), labels, bins=2)  # all of it: log 2
    tensor([0.6931], dtype=torch.float64)
    """
    bins = count("bins", bins, least=2)
    if not torch.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity: the information of finite ones can be measured")
    if labels.shape != values.shape[:1] or labels.is_floating_point() or (labels < 0).any():
        kind = f"{labels.dtype} of shape {tuple(labels.shape)}, {labels.flatten()[:3].tolist()} ..."
        raise ValueError(f"labels must be {len(values)} class numbers, 0 or more, not {kind}")
    device, values, labels = values.device, values.detach().cpu().double(), labels.cpu()
    edges = torch.from_numpy(np.quantile(values.numpy(), np.linspace(0, 1, bins + 1)[1:-1], axis=0))
    codes = sum((values > edge).long() for edge in edges)  # (n, channels)
    channels, classes = values.shape[1], int(labels.max()) + 1
    cells = (torch.arange(channels) * bins + codes) * classes + labels[:, None]
    counts = torch.bincount(cells.flatten(), minlength=channels * bins * classes).reshape(channels, bins, classes)
    joint = counts.double() / len(values)
    entropies = [torch.special.entr(joint.sum(axis)).sum(1) for axis in (1, 2)]
    return (sum(entropies) - torch.special.entr(joint).sum((1, 2))).to(device)


def shrink_iteratively(
    model: nn.Module,
    split: Split,
    *,
    fraction: float,
    step: int = 2,
    updates: int = 10,
    criterion: str | Score = "taylor",
    layers: Iterable[str] | None = None,
    samples: int = 500,
    flops_weight: float = 0.0,
    seed: int = 0,
    watch: Callable[[nn.Module], None] | None = None,
    **options: Unpack[FitOptions],
) -> nn.Module:
    r"""Remove a few of the least important filters, make a few updates, and repeat: the loop of the survey's Figure 3.

    Scores are normalized by layer, and the filters of all layers compete.

    model: any network that can be traced; it is left as it was.
    split: samples to train on, and to score filters with.
    fraction: share of the filters of the layers to remove, in [0, 1).
    step: number of filters to remove at a time, 1 or more. Default 2.
    updates: number of updates after each removal, 1 or more. Default 10.
    criterion: "taylor" (default), "weight", "mean", "deviation", "information" or "random", or a function of a model
        and a split that returns scores, layer name -> (filters,).
    layers: names of the layers to prune, and with them those that an addition ties to them. Default: all.
    samples: number of samples to draw for the scores at each turn, 1 or more. Default 500.
    flops_weight: the :math:`\lambda` of :math:`\Theta - \lambda \Theta^{flops}`; :math:`\Theta^{flops}` is the number
        of multiply-adds, in millions, that go with a filter. Default 0.
    seed: seed of all draws. Default 0.
    watch: function that is called with the network after each removal, and after the updates that follow it.
    options: how to train: learning_rate, momentum, weight_decay, batch_size (default here 64), shift, optimizer and
        loss of :class:`lib.training.FitOptions`.

    Returns the smaller network, a copy.
    Raises TypeError for other options, and ValueError for an unknown criterion or one that gives a layer no scores,
    numbers out of range, an empty split, a layer whose filters cannot go, and a fraction that would take the last
    filter of a layer.
    Source: molchanov2017pruning, section 2.
    """
    training.check_options(options)
    batch_size = options["batch_size"] = count("batch_size", options.get("batch_size", 64))
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(f"criterion must be a function or one of {', '.join(CRITERIA)}, not {criterion!r}")
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    if not math.isfinite(flops_weight):
        raise ValueError(f"flops_weight must be finite, not {flops_weight}")
    step, updates, samples = count("step", step), count("updates", updates), count("samples", samples)
    example, seed = split.images[:1], index(seed)
    generator = torch.Generator().manual_seed(seed)
    layers = None if layers is None else _names(layers)
    groups = _of_layers(groups_of(model, split), layers)
    left = int(fraction * sum(group.channels for group in groups) + 1e-9)
    if left > sum(group.channels - 1 for group in groups):
        raise ValueError(f"removing {fraction} of the filters would leave a layer without any: lower the fraction")
    if not left:
        return copy.deepcopy(model)
    while left > 0:
        sample = _drawn(split, samples, generator)
        if isinstance(criterion, str):
            raw = scores(model, sample, criterion=criterion, seed=seed + left)
        else:
            raw = criterion(model, sample)
        for group in groups:
            if group.producers[0] not in raw:
                raise ValueError(f"the criterion gives layer {group.producers[0]!r} no scores: leave it out of layers")
        ranks = normalized({group.producers[0]: raw[group.producers[0]] for group in groups})
        if flops_weight:
            price = prices(model, example)
            ranks = {name: rank - flops_weight * price[name] for name, rank in ranks.items()}
        remaining = sum(map(len, ranks.values()))
        masks = structure.keep(ranks, fraction=min(step, left) / remaining, scope="global", groups=groups, least=1)
        if not any(masks.removed.values()):
            raise ValueError(
                f"no layer can lose as few as {min(step, left)} filters: raise step, or lower the fraction"
            )
        model, left = structure.shrink(model, masks, example), left - sum(masks.removed.values())
        if watch is not None:
            watch(model)
        training.fit(model, _drawn(split, updates * batch_size, generator), epochs=1, seed=seed, **options)
        if watch is not None:
            watch(model)
        groups = _of_layers(groups_of(model, split), layers)
    return model


def _names(layers: Iterable[str]) -> list[str]:
    names = [layers] if isinstance(layers, str) else list(layers)
    if isinstance(layers, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"layers must be a list of at least one name, not {layers!r}")
    return names


def _of_layers(groups: list[Group], layers: Iterable[str] | None) -> list[Group]:
    """The groups that contain one of the layers; all groups for None."""
    if layers is None:
        return groups
    wanted, accepted = set(_names(layers)), [name for group in groups for name in group.producers]
    if unknown := wanted - set(accepted):
        raise ValueError(f"layer {min(unknown)!r} has no filters that can go: accepted are {', '.join(accepted)}")
    return [group for group in groups if wanted & set(group.producers)]


def _drawn(split: Split, n: int, generator: torch.Generator) -> Split:
    """n samples in shuffled order; where the split ends, it is shuffled again."""
    order = torch.cat([torch.randperm(len(split), generator=generator) for _ in range(-(-n // len(split)))])[:n]
    return Split(split.images[order], split.labels[order])


def prices(model: nn.Module, example_input: Tensor) -> dict[str, float]:
    """Count the multiply-adds that go with one filter of each layer, those of the next layers included.

    model: any network that can be traced; it is left as it was.
    example_input: one or more inputs, (n, channels, height, width).

    Returns layer name -> millions of multiply-adds; 0 for the only filter of a layer, which cannot go.
    Raises ValueError for a network that cannot be traced.

    >>> from lib import models
    >>> prices(models.lenet5(), torch.zeros(1, 1, 28, 28))["conv1"]  # 25 x 24 x 24 and 50 x 25 x 8 x 8
    0.0944
    """
    work = measure.multiply_adds_by_layer(model, tuple(example_input.shape[1:]))
    result: dict[str, float] = {}
    for group in structure.groups(model, example_input):
        left = dict(work)
        for name in (name for name in group.producers if name in left):
            left[name] -= left[name] // group.channels
        for name, numbers in (group.carriers | group.consumers).items():
            if name in left:
                layer: Any = model.get_submodule(name)
                inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
                left[name] -= left[name] * numbers.shape[1] // inputs
        price = (sum(work.values()) - sum(left.values())) / 1e6 if group.channels > 1 else 0.0
        result |= dict.fromkeys(group.producers, price)
    return result


@torch.no_grad()
def _moments(model: nn.Module, split: Split, groups: list[Group], batch_size: int) -> list[Tensor]:
    """For each group (3, n, channels): the means over places of |z|, z and z^2, of each sample, in float64."""
    check_read(model, groups, split.images)
    parts: list[list[Tensor]] = [[] for _ in groups]
    read: dict[tuple[int, str], list[Tensor]] = {}

    def note(i: int, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        z = groups[i].maps(model, name, inputs[0]).double()
        read.setdefault((i, name), []).append(torch.stack([z.abs().mean(2), z.mean(2), z.square().mean(2)]))

    places = [(i, name) for i, group in enumerate(groups) for name in group.consumers]
    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(note, i, name)) for i, name in places]
    try:
        with running.evaluating(model):
            for images in split.images.split(batch_size):
                read.clear()
                running.logits(model, images)
                for i, group in enumerate(groups):
                    kinds = [kind for name in group.consumers for kind in read[i, name]]
                    parts[i].append(torch.stack(kinds).mean(0))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(part, dim=1) for part in parts]


def taylor_scores(model: nn.Module, split: Split, groups: list[Group], cost: Cost, batch_size: int) -> list[Tensor]:
    """Compute the Taylor criterion with a gate on each map: the derivative with respect to the gate, at 1.

    That derivative is the sum of (dC/dz) z over the places of the map.

    model: the network; it is left as it was, without gradients.
    split: samples with labels.
    groups: the groups of channels to score.
    cost: function of logits (n, classes) and labels (n,) that returns the cost of each sample, (n,).
    batch_size: samples in each pass, 1 or more.

    Returns (channels,) for each group.
    Raises ValueError for a batch_size out of range; by name, for a layer that does not run or that gets no gradient.
    Source: molchanov2017pruning, equation 8.
    """
    batch_size = count("batch_size", batch_size)
    check_read(model, groups, split.images)
    dtype = torch.promote_types(split.images.dtype, torch.float32)
    totals = [split.images.new_zeros(group.channels, dtype=dtype) for group in groups]
    with torch.enable_grad(), running.evaluating(model):
        # method
        for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
            gates = [images.new_ones(len(images), group.channels).requires_grad_() for group in groups]
            with scaled(model, groups, gates) as places:
                total = _costs(cost, model, images, labels).sum()
            for i, slope in enumerate(_slopes(total, groups, gates)):
                totals[i] += slope.abs().sum(0) / places[i]
        # end of method
    return [total / len(split) for total in totals]


def _slopes(total: Tensor, groups: list[Group], gates: list[Tensor]) -> tuple[Tensor, ...]:
    slopes = torch.autograd.grad(total, gates, allow_unused=True)
    for group, slope in zip(groups, slopes, strict=True):
        if slope is None:
            raise ValueError(f"layer {group.producers[0]!r} gets no gradient: the cost does not depend on it")
    return slopes
