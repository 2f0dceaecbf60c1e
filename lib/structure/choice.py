"""Turn scores of filters into masks: which filters are kept, layer by layer or in the whole network."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lib.structure.group import Group


class Masks(dict[str, Tensor]):
    """Layer name -> bool mask over the filters of that layer, True where the filter is kept."""

    @property
    def removed(self) -> dict[str, int]:
        """Count the filters that each layer loses: layer name -> number.

        >>> Masks({"conv1": torch.tensor([True, False, False])}).removed
        {'conv1': 2}
        """
        return {name: int((~mask).sum()) for name, mask in self.items()}

    def __repr__(self) -> str:
        lost = (f"{name} {n} of {len(self[name])}" for name, n in self.removed.items())
        return f"Masks(removed: {', '.join(lost)})"


def keep(
    scores: Mapping[str, Tensor],
    *,
    fraction: float,
    scope: str = "layer",
    groups: Iterable[Group] = (),
    multiple_of: int = 1,
    least: int = 0,
) -> Masks:
    """Choose the filters to keep: the share ``fraction`` with the lowest scores is removed.

    scores: layer name -> (filters,) finite scores, larger = keep.
    fraction: share of the filters to remove, in [0, 1); the number is rounded down.
    scope: "layer" (default) removes this share of every layer; "global" removes this share of all channels of the
        network, from whichever layers score lowest.
    groups: the groups of the network. Layers that an addition ties then share one mask. In the layer scope it is chosen
        by the sum of their scores, each divided by its layer's mean magnitude. In the global scope it is chosen by the
        mean of their scores as they are, and a channel counts once however many layers compute it. Default: none, every
        layer by itself. A network with ties needs its groups, or :func:`lib.structure.shrink` refuses the masks.
    multiple_of: round the number of filters that a layer keeps to a multiple of this, but never to zero. Convolution
        kernels work on blocks of 8 or 16 channels, so an odd number costs as much as the next multiple. Default 1. If a
        grouped convolution computes or reads the channels in parts (:attr:`Group.parts`), each part keeps the same
        number, so the total is also a multiple of the number of parts.
    least: in the global scope every layer keeps at least this many filters. With 0 (default) a layer that would lose
        its last filter is refused.

    Between equal scores, the filter with the smaller number is kept.
    Returns the masks, layer name -> (filters,) bool, in the order of the scores.
    Raises ValueError for arguments out of range, for no scores at all, for scores that are not finite or not one per
    channel of their group, and for a layer that would lose its last filter.

    >>> keep({"conv": torch.tensor([0.3, 0.1, 0.2, 0.4])}, fraction=0.5)["conv"]
    tensor([ True, False, False,  True])
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope must be one of layer, global, not {scope!r}")
    if multiple_of < 1 or least < 0:
        raise ValueError(f"multiple_of must be 1 or more and least 0 or more, not {multiple_of} and {least}")
    if not scores:
        raise ValueError("there are no scores: give those of at least one layer")
    for name, score in scores.items():
        if not isinstance(score, Tensor) or score.dim() != 1 or not len(score) or not torch.isfinite(score).all():
            raise ValueError(
                f"the scores of layer {name!r} must be one finite number for each filter, not {_description(score)}"
            )
    scores = {name: score if score.is_floating_point() else score.double() for name, score in scores.items()}
    # method
    sets = _tied(scores, groups)
    together = _sum_of_shares if scope == "layer" else _mean
    joint = [together([scores[name] for name in names]) for names, _ in sets]
    # end of method
    if scope == "layer":
        counts = [len(score) - int(fraction * len(score) + 1e-9) for score in joint]
    else:
        counts = _globally(joint, fraction, least)
    # method
    by_layer: dict[str, Tensor] = {}
    for (names, parts), score, n in zip(sets, joint, counts, strict=True):
        n = _rounded(n, math.lcm(multiple_of, parts), len(score))
        by_layer |= dict.fromkeys(names, _highest(score, n, parts))
    # end of method
    for name, mask in by_layer.items():
        if not mask.any():
            raise ValueError(f"layer {name!r} would lose its last filter: lower the fraction, or set least=1")
    return Masks({name: by_layer[name] for name in scores})


def _description(score: object) -> str:
    if not isinstance(score, Tensor):
        return f"a {type(score).__name__}"
    return f"a tensor of shape {tuple(score.shape)}" if score.dim() != 1 or not len(score) else "NaN or infinity"


def _tied(scores: Mapping[str, Tensor], groups: Iterable[Group]) -> list[tuple[list[str], int]]:
    """The sets of layers that share one mask, each with its number of equal parts."""
    sets: list[tuple[list[str], int]] = []
    seen: set[str] = set()
    for group in groups:
        names = [name for name in group.producers if name in scores]
        for name in names:
            if len(scores[name]) != group.channels:
                raise ValueError(f"layer {name!r} has {len(scores[name])} scores: {group.channels} are needed")
        if names:
            sets.append((names, group.parts))
            seen.update(names)
    return sets + [([name], 1) for name in scores if name not in seen]


def _sum_of_shares(scores: Sequence[Tensor]) -> Tensor:
    if len(scores) == 1:
        return scores[0]
    scales = [score.abs().mean() for score in scores]
    return sum(score / scale for score, scale in zip(scores, scales, strict=True) if scale > 0) + torch.zeros_like(
        scores[0]
    )


def _mean(scores: Sequence[Tensor]) -> Tensor:
    return scores[0] if len(scores) == 1 else torch.stack(list(scores)).mean(0)


def _highest(score: Tensor, n: int, parts: int = 1) -> Tensor:
    """A mask of the n highest scores, with the same number in each part."""
    mask = torch.zeros(parts, len(score) // parts, dtype=torch.bool, device=score.device)
    order = score.reshape(mask.shape).argsort(dim=1, descending=True, stable=True)
    return mask.scatter(1, order[:, : n // parts], True).flatten()


def _rounded(n: int, multiple: int, most: int) -> int:
    """n rounded to a multiple, halves down; 0 stays 0, anything else stays between one multiple and ``most``."""
    return min(most, max(1, -(-(2 * n - multiple) // (2 * multiple))) * multiple) if n else 0


def _globally(joint: list[Tensor], fraction: float, least: int) -> list[int]:
    """How many filters of each set are among the highest of all sets together."""
    together = torch.cat(joint)
    safe = torch.cat([_highest(score, min(least, len(score))) for score in joint])
    n = len(together) - int(fraction * len(together) + 1e-9)
    highest = _highest(torch.where(safe, torch.inf, together), max(n, int(safe.sum())))
    return [int(part.sum()) for part in highest.split([len(score) for score in joint])]
