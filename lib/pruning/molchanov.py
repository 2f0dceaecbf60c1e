r"""Criteria from weights, activations, labels and gradients, and the loop of pruning and fine-tuning.

Pruning is an optimisation: leave out maps so that the cost :math:`\mathcal C` on the data changes least
(molchanov2017pruning, equation 2). The *oracle* knows what one map changes,
:math:`\lvert \mathcal C(z = 0) - \mathcal C(z) \rvert`, and takes a pass over the data for each map. The criteria
estimate it for all maps in one pass. For a map z with M places (equations 4 to 8):

.. math:: \text{weight } \tfrac1I \sum_i w_i^2, \quad \text{mean } \operatorname{E} \lvert z \rvert, \quad
    \text{deviation } \sqrt{\operatorname{E} z^2 - (\operatorname{E} z)^2}, \quad
    \text{information } H(x) + H(y) - H(x, y),

.. math:: \text{taylor } \frac1N \sum_{n=1}^N \bigg\lvert \frac1M \sum_{m=1}^M
    \frac{\partial \mathcal C_n}{\partial z_{n,m}} z_{n,m} \bigg\rvert,

where x is the map's mean over its places, in equally filled bins, and y the label. Maps are taken as the next layers
read them, behind batch norm, ReLU and pooling; of a rectified map E|z| is the paper's mean. Filters that an addition
ties make one channel with one score.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import measure, running, structure, training
from lib.datasets import Split
from lib.pruning.shared.groups import groups_of
from lib.structure import Group

CRITERIA = ("weight", "mean", "deviation", "information", "taylor", "random")
Cost = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes) and labels (n,) -> (n,)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cost of each sample, (n,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def scores(
    model: nn.Module,
    data: Split,
    *,
    criterion: str = "taylor",
    bins: int = 10,
    seed: int = 0,
    cost: Cost = cross_entropy,
    batch_size: int = 250,
) -> dict[str, Tensor]:
    """Layer name -> (filters,) by one of ``CRITERIA``, larger = keep. "random", drawn by ``seed``, is the control.

    bins: for "information". cost: of each sample, for "taylor"; no gradient is left behind. Raises ValueError on an
    empty split, an unknown criterion, NaN or infinity, and a network that cannot be traced.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"no criterion is called {criterion!r}: accepted are {', '.join(CRITERIA)}")
    if bins < 2 or batch_size < 1:
        raise ValueError(f"bins must be 2 or more and batch_size 1 or more, not {bins} and {batch_size}")
    found = groups_of(model, data)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        values = [torch.rand(group.channels, generator=generator) for group in found]
    elif criterion == "weight":
        weights = [[model.get_submodule(name).weight.detach() for name in group.producers] for group in found]
        values = [sum(w.flatten(1).square().mean(1) for w in tied) for tied in weights]
    elif criterion == "taylor":
        values = taylor_scores(model, data, found, cost, batch_size)
    else:
        read = {
            "mean": lambda size, mean, square: size.mean(0),
            "deviation": lambda size, mean, square: (square.mean(0) - mean.mean(0) ** 2).clamp_min(0).sqrt(),
            "information": lambda size, mean, square: information(mean, data.labels, bins=bins),
        }
        values = [read[criterion](*moments) for moments in _moments(model, data, found, batch_size)]
    for group, value in zip(found, values, strict=True):
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{criterion} of layer {group.producers[0]!r} is not finite: its weights or the data hold NaN"
            )
    return {name: value for group, value in zip(found, values, strict=True) for name in group.producers}


def oracle(
    model: nn.Module,
    data: Split,
    *,
    layers: Iterable[str] | None = None,
    signed: bool = False,
    cost: Cost = cross_entropy,
) -> dict[str, Tensor]:
    """Layer name -> (filters,) how much the mean cost changes when the channel is gone, one pass over the data each.

    layers: score these only. signed: the increase itself, not its absolute value. Errors as those of :func:`scores`.
    """
    found, result = _chosen(groups_of(model, data), layers), {}
    with torch.no_grad(), running.evaluating(model):
        whole = cost(running.logits(model, data.images), data.labels).double().mean()
        for group in found:
            change = torch.empty(group.channels, dtype=torch.float64)
            for channel in range(group.channels):
                gate = torch.ones(1, group.channels, dtype=data.images.dtype)
                gate[:, channel] = 0
                with _gated(model, [group], [gate]):
                    change[channel] = cost(running.logits(model, data.images), data.labels).double().mean() - whole
            result |= dict.fromkeys(group.producers, change if signed else change.abs())
    return result


def normalized(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each layer's scores divided by their Euclidean norm, so that layers can be compared (section 2.2)."""
    return {name: score / score.norm().clamp_min(torch.finfo(score.dtype).tiny) for name, score in scores.items()}


def information(values: Tensor, labels: Tensor, *, bins: int = 10) -> Tensor:
    """H(x) + H(y) - H(x, y) in nats for each column of ``values`` (n, channels), cut into bins that are filled equally.

    labels: (n,) class numbers. Equal values share a bin. Raises ValueError where a value is not finite.
    """
    if not torch.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity: the information of finite ones can be measured")
    values = values.double()
    edges = torch.from_numpy(np.quantile(values.numpy(), np.linspace(0, 1, bins + 1)[1:-1], axis=0))
    codes = sum((values > edge).long() for edge in edges)  # (n, channels)
    channels, classes = values.shape[1], int(labels.max()) + 1
    cells = (torch.arange(channels) * bins + codes) * classes + labels[:, None]
    counts = torch.bincount(cells.flatten(), minlength=channels * bins * classes).reshape(channels, bins, classes)
    joint = counts.double() / len(values)
    return sum(torch.special.entr(joint.sum(axis)).sum(1) for axis in (1, 2)) - torch.special.entr(joint).sum((1, 2))


def iterative(
    model: nn.Module,
    split: Split,
    *,
    fraction: float,
    step: int = 2,
    updates: int = 10,
    criterion: str | Callable[[nn.Module, Split], dict[str, Tensor]] = "taylor",
    layers: Iterable[str] | None = None,
    samples: int = 500,
    flops_weight: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    watch: Callable[[nn.Module], None] | None = None,
    **fit: object,
) -> nn.Module:
    r"""The loop of the survey's Figure 3: remove the ``step`` least important filters, make ``updates`` updates, again.

    Ends when ``fraction`` of the filters of the ``layers`` (None: all) is gone and returns the smaller network; the
    model stays as it is. criterion: one of ``CRITERIA``, or any function of a model and a split that gives scores; they
    come from ``samples`` training images and are normalised by layer. flops_weight: the :math:`\lambda` of
    :math:`\Theta - \lambda \Theta^{flops}`, with the millions of multiply-adds that go with a filter. watch: called
    with the network after each removal and after the updates that follow it. ``fit`` goes to :func:`lib.training.fit`.
    Raises ValueError where a layer would have to lose its last filter.
    """
    if not 0 <= fraction < 1 or step < 1 or updates < 1:
        raise ValueError(
            f"fraction must be in [0, 1), step and updates 1 or more, not {fraction}, {step} and {updates}"
        )
    example, generator = split.images[:1], torch.Generator().manual_seed(seed)
    found = _chosen(groups_of(model, split), layers)
    left = int(fraction * sum(group.channels for group in found) + 1e-9)
    if left > sum(group.channels - 1 for group in found):
        raise ValueError(f"without {fraction} of its filters the network has a layer without any: lower the fraction")
    while left > 0:
        sample = _drawn(split, samples, generator)
        named = isinstance(criterion, str)
        raw = scores(model, sample, criterion=criterion, seed=seed + left) if named else criterion(model, sample)
        ranks = normalized(raw)
        ranks = {group.producers[0]: ranks[group.producers[0]] for group in found}
        if flops_weight:
            ranks = {name: rank - flops_weight * _millions(model, name, example) for name, rank in ranks.items()}
        remaining = sum(map(len, ranks.values()))
        masks = structure.keep(ranks, fraction=min(step, left) / remaining, scope="global", least=1)
        model, left = structure.shrink(model, masks, example), left - sum(masks.removed.values())
        if watch is not None:
            watch(model)
        training.fit(
            model, _drawn(split, updates * batch_size, generator), epochs=1, seed=seed, batch_size=batch_size, **fit
        )
        if watch is not None:
            watch(model)
        found = _chosen(groups_of(model, split), layers)
    return model


def _chosen(found: list[Group], layers: Iterable[str] | None) -> list[Group]:
    """The groups with one of the layers; None: all."""
    if layers is None:
        return found
    wanted = set(layers)
    if unknown := wanted - {name for group in found for name in group.producers}:
        raise ValueError(f"layer {min(unknown)!r} has no filters that can go: others have")
    return [group for group in found if wanted & set(group.producers)]


def _drawn(split: Split, n: int, generator: torch.Generator) -> Split:
    """n samples, each from a fresh shuffle of the split."""
    order = torch.cat([torch.randperm(len(split), generator=generator) for _ in range(-(-n // len(split)))])[:n]
    return Split(split.images[order], split.labels[order])


def _millions(model: nn.Module, name: str, example: Tensor) -> float:
    """Millions of multiply-adds that go with one filter of a layer, those of the next layers included."""
    mask = torch.arange(len(model.get_submodule(name).weight)) > 0
    if not mask.any():
        return 0.0
    shape, smaller = tuple(example.shape[1:]), structure.shrink(model, {name: mask}, example)
    return (measure.multiply_adds(model, shape) - measure.multiply_adds(smaller, shape)) / 1e6


@torch.no_grad()
def _moments(model: nn.Module, data: Split, found: list[Group], batch_size: int) -> list[Tensor]:
    """For each group (3, n, channels): the means over places of |z|, z and z^2, of each sample, in float64."""
    parts: list[list[Tensor]] = [[] for _ in found]
    consumers = dict.fromkeys(name for group in found for name in group.consumers)
    with running.captured(model, consumers) as flow, running.evaluating(model):
        for images in data.images.split(batch_size):
            running.logits(model, images)
            for part, group in zip(parts, found, strict=True):
                maps = [group.maps(name, flow.inputs[name]).double() for name in group.consumers]
                kinds = [torch.stack([z.abs().mean(2), z.mean(2), z.square().mean(2)]) for z in maps]
                part.append(torch.stack(kinds).mean(0))
    return [torch.cat(part, dim=1) for part in parts]


def taylor_scores(model: nn.Module, data: Split, found: list[Group], cost: Cost, batch_size: int) -> list[Tensor]:
    """The derivative by a gate on each map at its value 1 is the sum of (dC/dz) z over the places that read it."""
    totals = [torch.zeros(group.channels, dtype=data.images.dtype) for group in found]
    with torch.enable_grad(), running.evaluating(model):
        for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
            gates = [images.new_ones(len(images), group.channels).requires_grad_() for group in found]
            with _gated(model, found, gates) as places:
                total = cost(running.logits(model, images), labels).sum()
            for i, slope in enumerate(torch.autograd.grad(total, gates)):
                totals[i] += slope.abs().sum(0) / places[i]
    return [total / len(data) for total in totals]


@contextmanager
def _gated(model: nn.Module, found: Sequence[Group], gates: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Inside, what is read of channel c of group i is multiplied by gates[i][:, c], (n or 1, channels).

    Yields group -> places of its maps, known after a forward pass: the M of the first layer that reads them.
    """
    places: dict[int, int] = {}

    def gate(name: str, readers: list[int]) -> Callable:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = inputs[0]
            factor = x.new_ones(len(gates[readers[0]]), x.shape[1])
            for i in readers:
                columns = found[i].consumers[name]
                spread = gates[i].repeat_interleave(columns.shape[1], dim=1)
                factor = factor.index_copy(1, columns.flatten(), spread)
                places.setdefault(i, columns.shape[1] * x[0, 0].numel())
            return (x * factor.reshape(*factor.shape, *[1] * (x.dim() - 2)), *inputs[1:])

        return hook

    names = dict.fromkeys(name for group in found for name in group.consumers)
    hooks = []
    try:
        for name in names:
            readers = [i for i, group in enumerate(found) if name in group.consumers]
            hooks.append(model.get_submodule(name).register_forward_pre_hook(gate(name, readers)))
        yield places
    finally:
        for hook in hooks:
            hook.remove()
