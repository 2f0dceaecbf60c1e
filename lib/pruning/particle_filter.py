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
from operator import index

import torch
from torch import Tensor, nn

from lib import running, structure, training
from lib.datasets import Split
from lib.pruning.shared.counts import count
from lib.pruning.shared.reading import check_read, scaled

Evaluate = Callable[[Tensor], float]  # mask (channels,) bool -> misclassification rate in [0, 1]


@dataclass(frozen=True)
class History:
    """What a search saw.

    best: the best mask, (channels,) bool, True where a channel is kept.
    best_error: its misclassification rate, in [0, 1].
    masks: the last masks, (particles, channels) bool.
    errors: rates of the first masks and of those after each iteration, (iterations + 1, particles), float64.
    evaluations: how many different masks were measured.
    """

    best: Tensor
    best_error: float
    masks: Tensor
    errors: Tensor
    evaluations: int


def likelihoods(errors: Tensor, temperature: float) -> Tensor:
    """Weigh the particles by how well they do: the weights w_n of the equation above, which sum to 1.

    errors: misclassification rates of the particles, (particles,), in [0, 1].
    temperature: T, above 0; the lower, the more the best particles weigh.

    Returns (particles,), float64.
    Raises ValueError for a value that is not accepted and for no particle.

        >>> [round(w, 3) for w in likelihoods(torch.tensor([0.5, 0.0]), 0.5).tolist()]  # 0.5² and 1² over their sum
        [0.2, 0.8]
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    if not len(errors) or not ((errors >= 0) & (errors <= 1)).all():
        raise ValueError("misclassification rates must be numbers in [0, 1], and at least one is needed")
    # method
    return ((1 - errors.double()).clamp_min(1e-12).log() / temperature).softmax(0)
    # end of method


def systematic(weights: Tensor, offset: float) -> Tensor:
    """Choose which of the N particles to copy, by N equidistant steps through their weights.

    Particle n gets N w_n copies rounded down or up, and N w_n on average over the offset.

    weights: (N,), with the sum 1.
    offset: where the steps begin, in [0, 1).

    Returns the numbers of the particles, (N,), rising.

        >>> systematic(torch.tensor([0.1, 0.6, 0.3]), 0.5).tolist()
        [1, 1, 2]
    """
    # method
    n = len(weights)
    steps = (torch.arange(n, dtype=torch.float64) + offset) / n
    return torch.searchsorted(weights.double().cumsum(0), steps, right=True).clamp_max(n - 1)
    # end of method


def moved(mask: Tensor, moves: int, generator: torch.Generator) -> Tensor:
    """Perturb a mask: take some channels out and put as many others in.

    mask: (channels,) bool.
    moves: how many channels to exchange; fewer if the mask does not have as many.
    generator: draws them.

    Returns another mask of the same number of channels.

        >>> int(moved(torch.tensor([True, True, False, False]), 1, torch.Generator()).sum())
        2
    """
    # method
    kept, others = mask.nonzero().flatten(), (~mask).nonzero().flatten()
    moves = min(moves, len(kept), len(others))
    result = mask.clone()
    result[kept[torch.randperm(len(kept), generator=generator)[:moves]]] = False
    result[others[torch.randperm(len(others), generator=generator)[:moves]]] = True
    return result
    # end of method


def crossed(one: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Cross two masks: keep what both parents keep, and fill up with channels that one of them keeps.

    one: (channels,) bool; the result keeps as many channels.
    other: the other parent, which keeps as many channels.
    generator: draws the channels that fill up.

        >>> crossed(torch.tensor([True, True, False]), torch.tensor([False, True, True]), torch.Generator())[1].item()
        True
    """
    result, differing = one & other, (one ^ other).nonzero().flatten()
    missing = int(one.sum()) - int(result.sum())
    result[differing[torch.randperm(len(differing), generator=generator)[:missing]]] = True
    return result


def search(
    evaluate: Evaluate,
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
    """Search for the mask with the lowest misclassification rate among those that keep ``keep`` of ``channels``.

        >>> rate = torch.tensor([0.3, 0.0, 0.2, 0.1])  # what keeping each channel costs
        >>> search(lambda mask: rate[mask].sum().item(), channels=4, keep=2, seed=0).best.tolist()
        [False, True, False, True]

    evaluate: mask (channels,) bool -> misclassification rate in [0, 1]; each mask is measured once.
    channels: how many there are.
    keep: how many of them are kept, from 1 to channels - 1.
    seed: of all draws; the global random state is left alone.
    particles: masks carried at a time, 1 or more.
    iterations: of resampling and moving, 0 or more; 0 is a random search.
    temperature: T, above 0; the lower, the more often the best masks are copied.
    moves: channels exchanged in each copy, 1 or more.
    evolutionary: whether to cross each copy with another one.

    Returns the :class:`History`.
    Raises ValueError for a value that is not accepted and for a rate outside [0, 1].
    Source: anwar2017structured.
    """
    channels, keep = count("channels", channels, least=2), count("keep", keep)
    if keep >= channels:
        raise ValueError(f"keep must be between 1 and {channels - 1} of {channels} channels, not {keep}")
    particles, moves = count("particles", particles), count("moves", moves)
    iterations = count("iterations", iterations, least=0)
    generator = torch.Generator().manual_seed(index(seed))
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


def evaluator(model: nn.Module, layer: str, split: Split) -> tuple[Evaluate, int]:
    """Make the function that :func:`search` calls to measure masks of the filters of one layer.

    The map of a masked filter is zero for all layers that read it. After every call the model is as it was.

    model: a trained classifier.
    layer: name of a layer whose filters can go.
    split: samples to measure the misclassification rate on.

    Returns the function, mask (filters,) bool -> rate in [0, 1], and the number of filters.
    Raises ValueError for an empty split, for a layer whose filters cannot go, and for one that does not run.

        >>> from lib import models
        >>> evaluate, filters = evaluator(models.lenet5(), "conv1", Split(torch.rand(4, 1, 28, 28), torch.arange(4)))
        >>> filters
        20
    """
    split.check_not_empty("to evaluate masks on")
    groups = {name: group for group in structure.groups(model, split.images[:1]) for name in group.producers}
    if not isinstance(layer, str) or layer not in groups:
        raise ValueError(f"layer must be one whose filters can go ({', '.join(groups) or 'none here'}), not {layer!r}")
    group = groups[layer]
    check_read(model, [group], split.images)

    def evaluate(mask: Tensor) -> float:
        if mask.dtype != torch.bool or mask.shape != (group.channels,):
            raise ValueError(f"the mask must be {group.channels} truth values, not {mask.dtype} of {tuple(mask.shape)}")
        with scaled(model, [group], [mask[None]]), running.evaluating(model):
            return training.error_pct(model, split) / 100

    return evaluate, group.channels
