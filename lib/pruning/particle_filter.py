r"""Search for a good mask with a particle filter: many masks at once, the better ones copied, the copies perturbed.

A particle is a mask m that keeps a fixed number of channels. Its likelihood comes from the misclassification rate of
the network with this mask, measured on validation data without retraining (anwar2017structured):

.. math:: w_n = \frac{(1 - \mathrm{MCR}_n)^{1/T}}{\sum_j (1 - \mathrm{MCR}_j)^{1/T}}.

Accuracies of masks lie close together, so the temperature T < 1 spreads the weights. Each iteration *resamples* (about
:math:`N w_n` copies of particle n) and *moves* (a few channels in, as many out). This is sequential importance
resampling. The evolutionary variant also crosses each copy with another one. The best mask so far always survives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import structure, training
from lib.datasets import Split


@dataclass(frozen=True)
class History:
    """What a search saw. best: (channels,) bool; best_error: its rate; masks: (particles, channels), the last ones;
    errors: (iterations + 1, particles), the rates of the first masks and of those after each iteration;
    evaluations: how many different masks were measured."""

    best: Tensor
    best_error: float
    masks: Tensor
    errors: Tensor
    evaluations: int


def likelihoods(errors: Tensor, temperature: float) -> Tensor:
    """Weights of the particles, which sum to 1, from their misclassification rates in [0, 1]."""
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, not {temperature}")
    if not len(errors) or not ((errors >= 0) & (errors <= 1)).all():
        raise ValueError("misclassification rates must be numbers in [0, 1], and at least one is needed")
    return ((1 - errors.double()).clamp_min(1e-12).log() / temperature).softmax(0)


def systematic(weights: Tensor, offset: float) -> Tensor:
    """Numbers of the N particles that are copied, by N equidistant steps from ``offset`` in [0, 1) through the weights.

    Particle n gets N w_n copies rounded down or up, and N w_n on average over the offset.
    """
    n = len(weights)
    steps = (torch.arange(n, dtype=torch.float64) + offset) / n
    return torch.searchsorted(weights.double().cumsum(0), steps, right=True).clamp_max(n - 1)


def moved(mask: Tensor, moves: int, generator: torch.Generator) -> Tensor:
    """The mask with ``moves`` channels taken out and as many others put in (fewer where there are not as many)."""
    kept, others = mask.nonzero().flatten(), (~mask).nonzero().flatten()
    moves = min(moves, len(kept), len(others))
    result = mask.clone()
    result[kept[torch.randperm(len(kept), generator=generator)[:moves]]] = False
    result[others[torch.randperm(len(others), generator=generator)[:moves]]] = True
    return result


def crossed(one: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """A mask with what both parents keep, and as many channels of those that one of them keeps as are still missing."""
    result, differing = one & other, (one ^ other).nonzero().flatten()
    missing = int(one.sum()) - int(result.sum())
    result[differing[torch.randperm(len(differing), generator=generator)[:missing]]] = True
    return result


def search(
    evaluate: Callable[[Tensor], float],
    *,
    channels: int,
    keep: int,
    seed: int,
    particles: int = 30,
    iterations: int = 10,
    temperature: float = 0.02,
    moves: int = 1,
    evolutionary: bool = False,
) -> History:
    """Look for the mask with the lowest misclassification rate among those that keep ``keep`` of ``channels``.

    evaluate: mask (channels,) bool -> rate in [0, 1]; the same mask is measured once. iterations=0 is a random search.
    """
    if not 0 < keep < channels:
        raise ValueError(f"keep must be between 1 and {channels - 1} of {channels} channels, not {keep}")
    if particles < 1 or iterations < 0 or moves < 1:
        raise ValueError(
            f"particles and moves must be 1 or more and iterations 0 or more, not {particles}, {moves}, {iterations}"
        )
    generator = torch.Generator().manual_seed(seed)
    known: dict[bytes, float] = {}

    def rates(masks: Tensor) -> Tensor:
        for mask in masks:
            key = mask.numpy().tobytes()
            if key not in known:
                known[key] = float(evaluate(mask.clone()))
        return torch.tensor([known[mask.numpy().tobytes()] for mask in masks], dtype=torch.float64)

    masks = torch.zeros(particles, channels, dtype=torch.bool)
    for mask in masks:
        mask[torch.randperm(channels, generator=generator)[:keep]] = True
    errors = [rates(masks)]
    for _ in range(iterations):
        copies = systematic(likelihoods(errors[-1], temperature), torch.rand((), generator=generator).item())
        parents = masks[copies]
        best = masks[errors[-1].argmin()]
        if evolutionary:
            partners = parents[torch.randperm(particles, generator=generator)]
            parents = torch.stack([crossed(*pair, generator) for pair in zip(parents, partners, strict=True)])
        masks = torch.stack([best, *(moved(mask, moves, generator) for mask in parents[1:])])
        errors.append(rates(masks))
    at = errors[-1].argmin()
    return History(masks[at].clone(), errors[-1][at].item(), masks, torch.stack(errors), len(known))


def evaluator(model: nn.Module, layer: str, split: Split) -> tuple[Callable[[Tensor], float], int]:
    """For :func:`search`: mask of the filters of ``layer`` -> misclassification rate on ``split``; and their number.

    A masked filter's map is zero for all layers that read it. The model is as it was after every call.
    Raises ValueError for an empty split and for a layer whose filters cannot go.
    """
    if not len(split):
        raise ValueError("the split to evaluate masks on is empty: at least one sample is needed")
    found = {name: group for group in structure.groups(model, split.images[:1]) for name in group.producers}
    if layer not in found:
        raise ValueError(f"layer {layer!r} has no filters that can go: accepted are {', '.join(found) or 'none'}")
    group = found[layer]

    def silence(mask: Tensor, columns: Tensor) -> Callable:
        gone = columns[~mask].flatten()

        def hook(consumer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            maps = inputs[0].clone()
            maps[:, gone] = 0
            return (maps, *inputs[1:])

        return hook

    def evaluate(mask: Tensor) -> float:
        if mask.dtype != torch.bool or mask.shape != (group.channels,):
            raise ValueError(f"the mask must be {group.channels} truth values, not {mask.dtype} of {tuple(mask.shape)}")
        modes = {module: module.training for module in model.modules()}
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(silence(mask, columns))
            for name, columns in group.consumers.items()
        ]
        try:
            return training.error_pct(model, split) / 100
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode

    return evaluate, group.channels
