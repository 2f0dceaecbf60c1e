r"""Neuron importance score propagation: how much does each neuron change the final responses?

The final responses, what the classifier reads, are ranked first, by infinite feature selection over the data. With the
spread :math:`\sigma_i` of feature i and the rank correlation :math:`\rho_{ij}`,

.. math:: A_{ij} = \alpha \max(\sigma_i, \sigma_j) + (1-\alpha)(1 - |\rho_{ij}|), \qquad
   s = \Big(\sum_{l \ge 1} (rA)^l\Big) 1 = \big((I - rA)^{-1} - I\big) 1, \qquad r = 0.9 / \text{spectral radius of } A

(roffo2015infinite). Then the scores go back through the network (yu2018nisp),

.. math:: s_k = |W^{(k+1)}|^\top s_{k+1}.

A convolution uses its transposed form with the magnitudes of the kernels; batch norm multiplies by :math:`|\gamma /
\sigma|`, and so does layer norm, with the mean of :math:`1 / \sigma` over the samples; pooling gives a score to its
whole window, an activation passes it on, and an addition or concatenation passes it to all its parts. This is the
gradient of a linear network: the model with the magnitudes of its weights, without biases and activations. So autograd
propagates the scores, through whatever graph the model has.

The paper does not treat products. Here a gate, as in squeeze-and-excitation, is frozen at its mean over the samples,
and scales the scores of the channels that it gates. The layers inside the gate are scored by what passes through it,
times the mean magnitude of what it scales.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from operator import index

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.stats import rankdata
from torch import Tensor, nn

from lib import running, structure
from lib.datasets import Split
from lib.pruning.shared.counts import count
from lib.pruning.shared.groups import groups_of
from lib.pruning.shared.linear import Run, linear_run
from lib.pruning.shared.products import products
from lib.structure import Group
from lib.structure.group import channel_axis

WEIGHTED = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def ranking(responses: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Rank features by infinite feature selection: those that vary a lot and are unlike the others matter most.

    responses: (samples, features), two samples or more, finite.
    alpha: weight of the spread (relative to the widest) against that of the correlation, in [0, 1]; 1 looks at the
        spread alone, 0 at the correlation alone. Default 0.5.

    Returns (features,) importance, float64, 0 or more; a feature that never changes gets 0.
    Raises ValueError for alpha outside [0, 1] and responses of another kind.
    Source: roffo2015infinite.

    >>> importance = ranking(torch.tensor([[0.0, 0.0, 5.0], [4.0, 1.0, 5.0], [0.0, 1.0, 5.0]]))
    >>> importance.argsort(descending=True)  # the widest first, the constant last
    tensor([0, 1, 2])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    if responses.dim() != 2 or len(responses) < 2 or not torch.isfinite(responses).all():
        raise ValueError(
            f"responses of shape {tuple(responses.shape)} cannot be ranked: two samples or more, all finite, are needed"
        )
    device, responses = responses.device, responses.detach().cpu()
    spread = responses.double().std(0).numpy()
    live = spread > 1e-12 * max(spread.max(), 1e-300)
    importance = np.zeros(len(spread))
    if live.any():
        values, n = responses[:, torch.from_numpy(live)].double().numpy(), int(live.sum())
        # method
        correlation = np.corrcoef(rankdata(values, axis=0), rowvar=False).reshape(n, n)
        sigma = spread[live] / spread[live].max()
        graph = alpha * np.maximum.outer(sigma, sigma) + (1 - alpha) * (1 - np.abs(correlation))
        # nothing is negative, so the largest eigenvalue is the spectral radius
        radius = eigh(graph, eigvals_only=True, subset_by_index=[n - 1, n - 1])[0]
        importance[live] = np.linalg.solve(np.eye(n) - 0.9 / max(radius, 1e-300) * graph, np.ones(n)) - 1
        # end of method
    return torch.from_numpy(importance).to(device)


@torch.enable_grad()
def propagate(
    model: nn.Module, importance: Tensor, example_input: Tensor, *, removed: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Propagate importance from the final responses back to every layer.

    model: any network; it is left as it was.
    importance: (features,) of the features, or of whole maps, that the last layer reads; finite, 0 or more.
    example_input: inputs to trace the network with, (n, channels, height, width). Gates and layer norms are frozen at
        their means over these.
    removed: layer name -> (filters,) bool, filters that pass nothing on. Default: none.

    Returns layer name -> (filters,) float64: the importance of what a layer puts out, summed over the places of a map.
    Layers that the final responses do not depend on are not in it.
    Raises ValueError for importance of another kind, for scores that overflow, for a layer in ``removed`` that does not
    run, and, by name, for a layer through which importance cannot be propagated: attention, a recurrent layer.
    Source: yu2018nisp.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    >>> propagate(model, torch.tensor([1.0, 10.0]), torch.zeros(1, 2))  # what the last layer reads
    {'0': tensor([ 1., 10.], dtype=torch.float64)}
    """
    if example_input.is_floating_point():
        example_input = example_input.to(next(model.parameters(), example_input).dtype)
    order = in_order(model, example_input)
    for name in removed or {}:
        if name not in order:
            raise ValueError(f"layer {name!r} does not run: accepted in removed are {', '.join(order)}")
    scores: dict[str, Tensor] = {}
    for run, responses in _runs(model, importance, example_input, order):
        found: dict[str, Tensor] = {}
        for name, output in run.outputs:
            if removed and name in removed:
                output.register_hook(partial(_without, model.get_submodule(name), removed[name]))
        # method
        total = (responses * importance.to(responses)).sum()
        slopes = torch.autograd.grad(total, [output for _, output in run.outputs], allow_unused=True)
        for (name, _), slope in zip(run.outputs, slopes, strict=True):
            if slope is not None:
                found[name] = found.get(name, 0) + _by_filter(model, name, slope)
        # end of method
        scores = found | scores
    return scores


def _runs(model: nn.Module, importance: Tensor, images: Tensor, order: list[str]) -> Iterator[tuple[Run, Tensor]]:
    """Yield the linear network and its responses (..., features): once with frozen gates, and once through them."""
    if importance.dim() != 1 or not torch.isfinite(importance).all() or (importance < 0).any():
        raise ValueError(f"the importance must be one finite number, 0 or more, for each feature, not {importance}")
    frozen = products(model, images[:1], order)
    if any(frozen):
        frozen = products(model, images, order)
    last = model.get_submodule(order[-1])
    for gated in (False, True):
        run = linear_run(model, images[:1], order, frozen, gated=gated)
        features = run.response.movedim(channel_axis(last, run.response), -1)
        if len(importance) != features.shape[-1]:
            raise ValueError(f"the importance must be of {features.shape[-1]} features, not {len(importance)}")
        yield run, features
        if not any(product and product.layers for product in frozen):
            return


def _by_filter(model: nn.Module, name: str, slope: Tensor) -> Tensor:
    """The sum over all places of the slopes of one layer's output."""
    if not torch.isfinite(slope).all():
        raise ValueError(f"the importance scores of {type(model).__name__} overflow: scale its weights down")
    if (slope < 0).any():
        raise ValueError(f"importance cannot be propagated to layer {name!r}: what reads it takes differences")
    axis = channel_axis(model.get_submodule(name), slope)
    return slope.flatten(0, -2).sum(0) if axis == slope.dim() - 1 else slope.transpose(0, 1).flatten(1).sum(1)


def _without(layer: nn.Module, gone: Tensor, slope: Tensor) -> Tensor:
    """Slopes of a layer's output, zero for filters that are gone."""
    axis = channel_axis(layer, slope)
    return (slope.movedim(axis, -1) * (~gone).to(slope)).movedim(-1, axis)


@torch.no_grad()
def in_order(model: nn.Module, example_input: Tensor) -> list[str]:
    """List the convolution and linear layers of a model in the order in which they run.

    model: any network; it runs in evaluation mode.
    example_input: inputs, (n, channels, height, width); the first is run through the network.

    Returns their names.
    Raises ValueError where no such layer runs, and where the model does not take such an input.

    >>> in_order(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
    ['0', '2']
    """
    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    with running.captured(model, names) as flow, running.evaluating(model):
        running.logits(model, example_input[:1])
    if not flow.outputs:
        raise ValueError(f"{type(model).__name__} runs no convolution and no linear layer: there is nothing to score")
    return list(flow.outputs)


def scores(
    model: nn.Module, split: Split, *, fraction: float = 0.0, alpha: float = 0.5, images: int = 1000, seed: int = 0
) -> dict[str, Tensor]:
    """Score each filter by its importance for the final responses.

    model: any network that can be traced; it is left as it was.
    split: samples for the final responses, two or more; labels are not read.
    fraction: share of each layer that is going to be removed, in [0, 1). If it is above 0, the layers are scored from
        the last to the first, and filters that will go pass nothing on. With 0 (default) all filters pass their scores
        on.
    alpha: weight of the spread against the correlation in the ranking of the responses, in [0, 1]. Default 0.5.
    images: number of samples to draw for the responses, and for the means of gates and layer norms; 2 or more. Default
        1000.
    seed: seed of the draw. Default 0.

    Returns layer name -> (filters,), mean 1 in each layer, larger = keep. A layer that only computes a gate for
    channels of other layers gets no score: its filters go with those channels.
    Raises ValueError for numbers out of range, fewer than two samples, responses that never change, scores that
    overflow, and a network that cannot be traced; by name, for a layer through which importance cannot be propagated
    (attention, a recurrent layer), and for one on which the final responses do not depend.
    Source: yu2018nisp; roffo2015infinite.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> {name: round(score.mean().item(), 3) for name, score in scores(model, split).items()}
    {'0': 1.0}
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    split.check_not_empty("to score filters")
    images = min(count("images", images), len(split))
    if images < 2:
        raise ValueError(f"the final responses to {images} images cannot be ranked: two or more are needed")
    groups = groups_of(model, split)
    importance = ranking(responses(model, split, images=images, seed=seed), alpha=alpha)
    if not importance.any():
        raise ValueError("the final responses are the same for all images or all features: there is nothing to rank")
    order, sample = in_order(model, split.images), _drawn(split, images, seed)
    for name in (name for group in groups for name in group.producers):
        if name not in order:
            raise ValueError(f"layer {name!r} did not run: its filters have no importance")
    groups = sorted(groups, key=lambda group: -max(map(order.index, group.producers)))
    if fraction:
        passed = _propagated_and_cut(model, importance, sample, order, groups, fraction)
    else:
        passed = propagate(model, importance, sample)
    for name in (name for group in groups for name in group.producers):
        if name not in passed:
            raise ValueError(f"the final responses do not depend on layer {name!r}: its filters have no importance")
    return {name: _relative(passed[name]) for group in groups for name in group.producers}


def _relative(importance: Tensor) -> Tensor:
    return (importance / importance.mean().clamp_min(1e-300)).float()


@torch.enable_grad()
def _propagated_and_cut(
    model: nn.Module, importance: Tensor, images: Tensor, order: list[str], groups: list[Group], fraction: float
) -> dict[str, Tensor]:
    """Do what :func:`propagate` does, while the groups lose their lowest filters in turn, from the last to the first.

    A pass back through the network cuts a group of one layer as soon as it reaches it. Tied layers are cut together
    once all of them have been reached, so each such group takes a pass of its own.
    """
    result: dict[str, Tensor] = {}
    removed: dict[str, Tensor] = {}

    def cut(group: Group, slopes: dict[str, Tensor]) -> None:
        result.update({name: slopes[name] for name in group.producers})
        ranks = {name: _relative(slopes[name]) for name in group.producers}
        kept = structure.keep(ranks, fraction=fraction, groups=[group])
        removed.update({name: ~mask for name, mask in kept.items()})

    def visit(name: str, slopes: dict[str, Tensor], alone: dict[str, Group], slope: Tensor) -> Tensor:
        slopes[name] = slopes.get(name, 0) + _by_filter(model, name, slope)
        if name in alone:
            cut(alone[name], slopes)
        return _without(model.get_submodule(name), removed[name], slope) if name in removed else slope

    for run, responses in _runs(model, importance, images, order):
        total = (responses * importance.to(responses)).sum()
        calls = Counter(name for name, _ in run.outputs)
        waiting = [group for group in groups if group.producers[0] not in result]
        while waiting:
            tied = [sum(calls[name] for name in group.producers) > 1 for group in waiting]
            n = tied.index(True) if any(tied) else len(tied)  # the first n are of one layer that runs once
            alone, slopes = {group.producers[0]: group for group in waiting[:n]}, dict[str, Tensor]()
            hooks = [x.register_hook(partial(visit, name, slopes, alone)) for name, x in run.outputs if x.requires_grad]
            torch.autograd.grad(total, run.start, retain_graph=True)
            for hook in hooks:
                hook.remove()
            for group in waiting[n : n + 1]:
                if all(name in slopes for name in group.producers):
                    cut(group, slopes)
            waiting = waiting[n + 1 :]
    return result


def _drawn(split: Split, images: int, seed: int) -> Tensor:
    return split.images[torch.randperm(len(split), generator=torch.Generator().manual_seed(index(seed)))[:images]]


@torch.no_grad()
def responses(model: nn.Module, split: Split, *, images: int, seed: int) -> Tensor:
    """Run samples through a network, and return what its last layer reads.

    model: any network; it is left as it was.
    split: samples; labels are not read.
    images: number of samples to draw, 1 or more; all of them if there are fewer.
    seed: seed of the draw.

    Returns (images, features); of maps and of tokens, the mean over the places.
    Raises ValueError for an empty split and a number of images out of range.
    """
    split.check_not_empty("to run through the network")
    images = count("images", images)
    last, parts = in_order(model, split.images)[-1], []
    layer = model.get_submodule(last)
    with running.evaluating(model), running.captured(model, [last]) as flow:
        for batch in _drawn(split, images, seed).split(100):
            running.logits(model, batch)
            read = flow.inputs[last]
            read = read.movedim(channel_axis(layer, read), 1)
            parts.append(read.flatten(2).mean(2) if read.dim() > 2 else read)
    return torch.cat(parts)
