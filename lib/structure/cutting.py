"""Apply masks to a network: zero the removed filters or cut them out, and check the result before returning it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib import measure
from lib.structure import copies, proof
from lib.structure.choice import keep
from lib.structure.copies import Cut, check_parts
from lib.structure.grouping import blamed, groups, suggested


def mask(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> nn.Module:
    """Set removed filters, and everything that belongs to them, to zero in a copy of the model; nothing gets smaller.

    The copy computes the same function as the network that :func:`shrink` returns for the same arguments. This is
    checked before it is returned.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True where the filter is kept, as :func:`keep` returns them. Layers that are
        not named keep all their filters, unless an addition ties them to one that is named.
    example_input: inputs to trace the network with, (n, channels, height, width) or whatever else it takes.

    Returns the copy.
    Raises ValueError, naming the layer, for what :func:`shrink` refuses.

    >>> from lib import models
    >>> masked = mask(models.lenet5(), {"conv1": torch.arange(20) < 5}, torch.zeros(1, 1, 28, 28))
    >>> int(masked.conv1.weight.count_nonzero()), tuple(masked.conv1.weight.shape)
    (125, (20, 1, 5, 5))
    """
    cuts = _cuts(model, masks, example_input)
    masked = copies.masked(model, cuts)
    _prove(model, copies.smaller(model, cuts), cuts, example_input, masked)
    return masked


def shrink(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> nn.Module:
    """Cut removed filters, and everything that belongs to them, out of a copy of the model: it gets smaller.

    Before it is returned, the copy is compared with the whole network whose removed channels are hidden from every
    layer that reads them, in evaluation mode and in training mode (:mod:`lib.structure.proof`).

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True where the filter is kept, as :func:`keep` returns them. Layers that are
        not named keep all their filters, unless an addition ties them to one that is named.
    example_input: inputs to trace the network with, (n, channels, height, width) or whatever else it takes; one or up
        to eight of them are used.

    Returns the smaller copy, without gradients. Modes, types and devices are those of the model, and a parameter is
    frozen where the model's is.
    Raises ValueError, naming the layer, for a layer that would lose its last filter, a mask of the wrong length, tied
    layers with different masks, a layer that is in no group of :func:`groups`, grouped convolutions whose groups would
    keep different numbers of channels, a smaller network that computes something else, and a model that :func:`groups`
    refuses.

    >>> from lib import models
    >>> small = shrink(models.lenet5(), {"conv1": torch.arange(20) < 5}, torch.zeros(1, 1, 28, 28))
    >>> tuple(small.conv1.weight.shape), tuple(small.conv2.weight.shape)
    ((5, 1, 5, 5), (50, 5, 5, 5))
    """
    cuts = _cuts(model, masks, example_input)
    small = copies.smaller(model, cuts)
    _prove(model, small, cuts, example_input)
    return small


def fraction_for(model: nn.Module, example_input: Tensor, *, multiply_adds: float, multiple_of: int = 1) -> float:
    """Find the share of filters to remove from every layer that leaves a given share of the multiply-adds.

    model: any network that can be traced; it is left as it was.
    example_input: inputs to trace the network with, (n, channels, height, width) or whatever else it takes.
    multiply_adds: share of the multiply-adds that may be left, in (0, 1].
    multiple_of: the multiple to which :func:`keep` will round the number of filters that a layer keeps. Default 1.

    Returns the smallest such share of filters, the ``fraction`` of :func:`keep`; found by bisection, to about 0.001.
    Raises ValueError for multiply_adds outside (0, 1], if no layer has filters that can go, and if even the fewest
    filters per layer leave more.

    >>> from lib import models
    >>> images = torch.zeros(1, 1, 28, 28)
    >>> round(fraction_for(models.lenet5(), images, multiply_adds=0.5), 2)
    0.34
    """
    if not 0 < multiply_adds <= 1:
        raise ValueError(f"multiply_adds must be in (0, 1], not {multiply_adds}")
    together = groups(model, example_input)
    if not together:
        raise ValueError(f"no layer of {type(model).__name__} has filters that can go")
    zeros = {name: torch.zeros(group.channels) for group in together for name in group.producers}
    work = measure.multiply_adds_by_layer(model, tuple(example_input.shape[1:]), dtype=example_input.dtype)

    def share(fraction: float) -> float:
        masks = keep(zeros, fraction=fraction, groups=together, multiple_of=multiple_of)
        written, read = dict.fromkeys(work, 1.0), dict.fromkeys(work, 1.0)  # shares of outputs and of inputs that stay
        for group in together:
            gone = int((~masks[group.producers[0]]).sum())
            for name in group.producers:
                written[name] = 1 - gone / group.channels
            for name, numbers in (group.carriers | group.consumers).items():
                if name in work:
                    layer: Any = model.get_submodule(name)
                    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
                    read[name] -= gone * numbers.shape[1] / inputs
        return sum(n * written[name] * read[name] for name, n in work.items()) / sum(work.values())

    low, high = 0.0, 1 - 1e-6
    if share(low) <= multiply_adds:
        return low
    if share(high) > multiply_adds:
        raise ValueError(
            f"even the fewest filters per layer leave more than {multiply_adds} of the multiply-adds:"
            " raise multiply_adds"
        )
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle) <= multiply_adds else (middle, high)
    return high


def _cuts(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> list[Cut]:
    """Check the masks, and return the groups that lose channels, each with these channels."""
    trace = suggested(model, example_input)
    home = {name: group for group in trace.groups for name in group.producers}
    for name, kept in masks.items():
        if name not in home:
            why = f" ({trace.spared[name]})" if name in trace.spared else ""
            raise ValueError(
                f"layer {name!r} has no filters that can go{why}: accepted are {', '.join(home) or 'none'}"
            )
        if not isinstance(kept, Tensor):
            raise ValueError(
                f"the mask of layer {name!r} must be a tensor of truth values, not a {type(kept).__name__}"
            )
        if kept.dtype != torch.bool or tuple(kept.shape) != (home[name].channels,):
            raise ValueError(
                f"the mask of layer {name!r} must be {home[name].channels} truth values,"
                f" not {kept.dtype} of shape {tuple(kept.shape)}"
            )
        if not kept.any():
            raise ValueError(f"layer {name!r} would lose its last filter: at least one must stay")
    cuts = []
    for group in trace.groups:
        named = [name for name in group.producers if name in masks]
        for name in named[1:]:
            if not torch.equal(masks[named[0]], masks[name]):
                raise ValueError(
                    f"layers {named[0]!r} and {name!r} are tied by an addition and have different masks:"
                    " give keep() the groups"
                )
        if named and not masks[named[0]].all():
            cuts.append((group, ~masks[named[0]].cpu()))
    check_parts(model, cuts)
    return cuts


def _prove(
    model: nn.Module, small: nn.Module, cuts: list[Cut], example_input: Tensor, masked: nn.Module | None = None
) -> None:
    """Raise ValueError, naming a layer, if the smaller or the masked network computes something else."""
    if not cuts or not (reason := proof.difference(model, small, cuts, example_input, masked=masked)):
        return
    wrong = blamed(model, cuts, example_input) or {0: reason}
    i, why = next(iter(wrong.items()))
    raise ValueError(f"layer {cuts[i][0].producers[0]!r} has no filters that can go: {why}")
