"""Turn scores of filters into masks, and masks into a network that is physically smaller.

Filter j of a layer can be removed only together with everything that depends on its channel: the channel's batch norm
and depthwise filter, the kernels of the next layers that read it, and channel j of every layer whose output is added to
its own. Such a set is a :class:`Group`. ``torch-pruning`` traces the groups and cuts; this file keeps all the indices.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import measure, running

CONVOLUTION = nn.Conv1d | nn.Conv2d | nn.Conv3d
PER_CHANNEL = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    channels: how many channels there are.
    producers: names of the layers whose filter j computes channel j; more than one where an addition ties them.
    carriers: name of a layer that holds something for each channel (batch norm, depthwise convolution) -> (channels, 1)
        numbers of the channels in that layer. After a concatenation these differ from 0, 1, 2, ...
    consumers: name of a layer that reads the channels -> (channels, k) numbers of the inputs that belong to channel j.
        k is 1 for a convolution; a linear layer after a flatten has one input for each place of the map.
    """

    channels: int
    producers: tuple[str, ...]
    carriers: dict[str, Tensor]
    consumers: dict[str, Tensor]

    def maps(self, model: nn.Module, name: str, values: Tensor, *, written: bool = False) -> Tensor:
        """Pick the maps of this group from what a layer reads or writes.

        The channels of a convolution and of a batch norm are axis 1; those of a linear layer are the last axis, so
        (n, tokens, features) has as many channels as features.

        model: the network of the group.
        name: of one of the layers of the group.
        values: what a consumer reads or, if ``written``, what a producer or carrier writes: (n, channels, height,
            width), (n, features), (n, tokens, features) or the like.
        written: whether ``values`` were written by the layer, default False.

        Returns (n, channels, places): the values of each map of the group.
        Raises ValueError for a layer that does not read or write the channels of this group, and for what a convolution
        reads or writes without a batch.

        >>> from lib import models
        >>> model = models.lenet5()
        >>> last = groups(model, torch.zeros(1, 1, 28, 28))[1]
        >>> last.maps(model, "fc1", torch.zeros(2, 800)).shape  # the 50 maps of conv2, 4 x 4 places each
        torch.Size([2, 50, 16])
        """
        every = torch.arange(self.channels)[:, None]
        known = self.carriers | dict.fromkeys(self.producers, every) if written else self.consumers
        if name not in known:
            verb = "write" if written else "read"
            raise ValueError(f"layer {name!r} does not {verb} the channels of this group: {', '.join(known)} do")
        columns, layer = known[name], model.get_submodule(name)
        if isinstance(layer, CONVOLUTION) and values.dim() != len(layer.kernel_size) + 2:
            raise ValueError(f"values of shape {tuple(values.shape)} are no batch of maps of convolution {name!r}")
        if values.dim() == 2:  # (n, features): one column for each place of a map that was flattened
            return values[:, columns.flatten()].reshape(len(values), *columns.shape)
        if isinstance(layer, nn.Linear):  # (n, ..., features)
            return values.movedim(-1, 1).flatten(2)[:, columns].flatten(2)
        return values[:, columns[:, 0]].flatten(2)


_known: WeakKeyDictionary[nn.Module, tuple[tuple, list[Group]]] = WeakKeyDictionary()  # network -> shapes, groups


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


def groups(model: nn.Module, example_input: Tensor) -> list[Group]:
    """Trace a network, and list the groups of channels that may be removed.

    model: any network that can be traced; its weights must be dense. It is left as it was.
    example_input: one or more inputs, (n, channels, height, width); the first is run through the network.

    Returns the groups in the order in which the model holds their first layers. What computes the output of the model
    is in no group, nor are attention, recurrent and transposed layers.
    Raises ValueError for a model that cannot be traced or that has compressed weights.

    >>> from lib import models
    >>> for group in groups(models.resnet8(), torch.zeros(1, 3, 32, 32))[:2]:
    ...     print(group.channels, group.producers)
    16 ('conv', 'stage1_1.conv2')
    16 ('stage1_1.conv1',)
    """
    key = (str(model), [(name, p.shape) for name, p in model.named_parameters()], example_input.shape[1:])
    if _known.get(model, (None,))[0] != key:  # criteria ask again and again for those of one network
        _known[model] = (key, [group for group, _ in _traced(model, example_input)[1]])
    return list(_known[model][1])


def keep(
    scores: Mapping[str, Tensor],
    *,
    fraction: float,
    scope: str = "layer",
    groups: Iterable[Group] = (),
    multiple_of: int = 1,
    least: int = 0,
) -> Masks:
    """Choose the filters to keep: remove the share ``fraction`` of the filters, those with the lowest scores.

    scores: layer name -> (filters,) finite scores, larger = keep.
    fraction: share of the filters to remove, in [0, 1); the number is rounded down.
    scope: "layer" (default) removes this share of every layer; "global" removes this share of all filters together, the
        lowest of the whole network.
    groups: the groups of the network. Layers that an addition ties then get one mask, by the sum of their scores, each
        divided by its layer's mean. Default: none, every layer by itself.
    multiple_of: round the number of filters that a layer keeps to a multiple of this, but never to none. Convolution
        kernels work on blocks of 8 or 16 channels, so an odd number costs as much as the next multiple. Default 1.
    least: in the global scope every layer keeps at least this many filters. With 0 (default) a layer that would lose
        its last filter is refused.

    Of equal scores the filter with the smaller number is kept.
    Returns the masks, layer name -> (filters,) bool, in the order of the scores.
    Raises ValueError for arguments outside these limits, for no scores, for scores that are not finite, and for a layer
    that would lose its last filter.

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
        if score.dim() != 1 or not len(score) or not torch.isfinite(score).all():
            raise ValueError(
                f"the scores of layer {name!r} must be one finite number for each filter, not {_description(score)}"
            )
    # method
    sets = _tied(scores, groups)
    joint = [_joint([scores[name] for name in names]) for names in sets]
    # end of method
    if scope == "layer":
        counts = [len(score) - int(fraction * len(score) + 1e-9) for score in joint]
    else:
        counts = _globally(joint, fraction, least)
    # method
    masks = [_highest(score, _rounded(n, multiple_of, len(score))) for score, n in zip(joint, counts, strict=True)]
    by_layer = {name: mask for names, mask in zip(sets, masks, strict=True) for name in names}
    # end of method
    for name, mask in by_layer.items():
        if not mask.any():
            raise ValueError(f"layer {name!r} would lose its last filter: lower the fraction, or set least=1")
    return Masks({name: by_layer[name] for name in scores})


def _description(score: Tensor) -> str:
    return f"a tensor of shape {tuple(score.shape)}" if score.dim() != 1 or not len(score) else "NaN or infinity"


def _tied(scores: Mapping[str, Tensor], groups: Iterable[Group]) -> list[list[str]]:
    sets: list[list[str]] = []
    seen: set[str] = set()
    for group in groups:
        names = [name for name in group.producers if name in scores]
        if names:
            sets.append(names)
            seen.update(names)
    return sets + [[name] for name in scores if name not in seen]


def _joint(scores: Sequence[Tensor]) -> Tensor:
    if len(scores) == 1:
        return scores[0]
    scales = [score.abs().mean() for score in scores]
    return sum(score / scale for score, scale in zip(scores, scales, strict=True) if scale > 0) + torch.zeros_like(
        scores[0]
    )


def _highest(score: Tensor, n: int) -> Tensor:
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:n]] = True
    return mask


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


def mask(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> nn.Module:
    """Set removed filters, and everything that belongs to them, to zero in a copy of the model; nothing gets smaller.

    The copy computes the same function as the network that :func:`shrink` returns for the same arguments.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True where the filter is kept, as :func:`keep` returns them. Layers that are
        not named keep all their filters, unless an addition ties them to one that is named.
    example_input: inputs with which the network is traced, (n, channels, height, width).

    Returns the copy.
    Raises ValueError, by name, for what :func:`shrink` refuses.

    >>> from lib import models
    >>> masked = mask(models.lenet5(), {"conv1": torch.arange(20) < 5}, torch.zeros(1, 1, 28, 28))
    >>> int(masked.conv1.weight.count_nonzero()), tuple(masked.conv1.weight.shape)
    (125, (20, 1, 5, 5))
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for group, removed in _chosen(model, masks, groups(model, example_input)):
            rows = dict.fromkeys(group.producers, removed)
            rows |= {name: numbers[removed].flatten() for name, numbers in group.carriers.items()}
            for name, row in rows.items():
                layer = model.get_submodule(name)
                for values in (getattr(layer, kind) for kind in ("weight", "bias")):
                    if values is not None:
                        values[row] = 0
            for name, columns in group.consumers.items():
                reader: Any = model.get_submodule(name)
                if getattr(reader, "groups", 1) == 1:  # a grouped one reads zeros already
                    reader.weight[:, columns[removed].flatten()] = 0
    return model


def shrink(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> nn.Module:
    """Cut removed filters, and everything that belongs to them, out of a copy of the model: it gets smaller.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True where the filter is kept, as :func:`keep` returns them. Layers that are
        not named keep all their filters, unless an addition ties them to one that is named.
    example_input: inputs with which the network is traced, (n, channels, height, width).

    Returns the smaller copy, without gradients.
    Raises ValueError, by name, for a layer that would lose its last filter, a mask of a wrong length, tied layers with
    different masks, a layer whose channels are the model's output, grouped convolutions whose groups would keep
    different numbers of channels, and a model that cannot be traced.

    >>> from lib import models
    >>> small = shrink(models.lenet5(), {"conv1": torch.arange(20) < 5}, torch.zeros(1, 1, 28, 28))
    >>> tuple(small.conv1.weight.shape), tuple(small.conv2.weight.shape)
    ((5, 1, 5, 5), (50, 5, 5, 5))
    """
    model = copy.deepcopy(model)
    graph, traced = _traced(model, example_input)
    chosen = _chosen(model, masks, [group for group, _ in traced])
    roots = {group.producers: root for group, root in traced}
    for group, removed in chosen:
        root = model.get_submodule(roots[group.producers])
        cuts = _grouped(model, group, removed)
        function = graph.get_pruner_of_module(root).prune_out_channels
        graph.get_pruning_group(root, function, removed.nonzero().flatten().tolist()).prune()
        for name, weight in cuts.items():  # torch-pruning would remove the same places from all groups
            cut: Any = model.get_submodule(name)
            cut.weight = nn.Parameter(weight)
    for parameter in model.parameters():
        parameter.grad = None
    return model


def fraction_for(model: nn.Module, example_input: Tensor, *, multiply_adds: float, multiple_of: int = 1) -> float:
    """Find how many filters to remove from every layer to get down to a given share of the multiply-adds.

    model: any network that can be traced; it is left as it was.
    example_input: inputs with which the network is traced, (n, channels, height, width).
    multiply_adds: share of the multiply-adds that may be left, in (0, 1].
    multiple_of: the multiple to which :func:`keep` will round the number of filters that a layer keeps. Default 1.

    Returns the smallest such share of filters, for :func:`keep` as ``fraction``; found by bisection, to about 0.001.
    Raises ValueError for multiply_adds outside (0, 1], and where even one filter per layer leaves more.

    >>> from lib import models
    >>> images = torch.zeros(1, 1, 28, 28)
    >>> round(fraction_for(models.lenet5(), images, multiply_adds=0.5), 2)
    0.34
    """
    if not 0 < multiply_adds <= 1:
        raise ValueError(f"multiply_adds must be in (0, 1], not {multiply_adds}")
    together = groups(model, example_input)
    zeros = {name: torch.zeros(group.channels) for group in together for name in group.producers}
    work = measure.multiply_adds_by_layer(model, tuple(example_input.shape[1:]))

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


def _chosen(model: nn.Module, masks: Mapping[str, Tensor], groups: list[Group]) -> list[tuple[Group, Tensor]]:
    """The groups that lose channels, and which channels; all checks of masks are here."""
    home = {name: group for group in groups for name in group.producers}
    for name, kept in masks.items():
        if name not in home:
            raise ValueError(f"layer {name!r} has no filters that can go: accepted are {', '.join(home) or 'none'}")
        if kept.dtype != torch.bool or tuple(kept.shape) != (home[name].channels,):
            raise ValueError(
                f"the mask of layer {name!r} must be {home[name].channels} truth values,"
                f" not {kept.dtype} of shape {tuple(kept.shape)}"
            )
        if not kept.any():
            raise ValueError(f"layer {name!r} would lose its last filter: at least one must stay")
    chosen = []
    for group in groups:
        named = [name for name in group.producers if name in masks]
        for name in named[1:]:
            if not torch.equal(masks[named[0]], masks[name]):
                raise ValueError(
                    f"layers {named[0]!r} and {name!r} are tied by an addition and have different masks:"
                    " give keep() the groups"
                )
        if named and not masks[named[0]].all():
            chosen.append((group, ~masks[named[0]]))
            _grouped(model, *chosen[-1])
    return chosen


def _grouped(model: nn.Module, group: Group, removed: Tensor) -> dict[str, Tensor]:
    """The weights that grouped convolutions keep. ValueError where their groups would differ in size."""
    cut: dict[str, Tensor] = {}
    for name in (*group.producers, *group.consumers):
        layer = model.get_submodule(name)
        if not isinstance(layer, CONVOLUTION) or layer.groups == 1:
            continue
        reads = name in group.consumers
        gone = torch.zeros(layer.in_channels if reads else layer.out_channels, dtype=torch.bool)
        gone[group.consumers[name][removed].flatten() if reads else removed] = True
        parts = (~gone).reshape(layer.groups, -1)
        if len(parts.sum(1).unique()) > 1 or not parts.any():
            raise ValueError(
                f"the {layer.groups} groups of convolution {name!r} cannot be cut equally:"
                f" they would keep {parts.sum(1).tolist()} channels"
            )
        if reads:
            blocks = layer.weight.detach().chunk(layer.groups)
            cut[name] = torch.cat([block[:, kept] for block, kept in zip(blocks, parts, strict=True)])
    return cut


def _traced(model: nn.Module, example_input: Tensor) -> tuple[torch_pruning.DependencyGraph, list[tuple[Group, str]]]:
    """The dependency graph, and each group with the name of the layer at its root."""
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has compressed weights: decompress it first")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    try:
        for p in frozen:  # the graph is read off the gradient's
            p.requires_grad_(True)
        with torch.enable_grad(), running.evaluating(model):
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(model, example_input[:1], verbose=False)
    except Exception as error:  # tracing raises many kinds
        raise ValueError(f"the graph of {type(model).__name__} cannot be traced: {error}") from error
    finally:
        for p in frozen:
            p.requires_grad_(False)
    names = {module: name for name, module in model.named_modules()}
    traced: list[tuple[Group, str]] = []
    for layer, name in names.items():
        known = _depthwise(layer) or any(name in group.producers for group, _ in traced)
        if layer in graph.module2node and isinstance(layer, CONVOLUTION | nn.Linear) and not known:
            function = graph.get_pruner_of_module(layer).prune_out_channels
            group = _read(graph, graph.get_pruning_group(layer, function, range(len(layer.weight))), names)
            traced += [(group, name)] if group else []
    return graph, traced


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, CONVOLUTION) and 1 < layer.groups == layer.out_channels == layer.in_channels


def _read(
    graph: torch_pruning.DependencyGraph, traced: torch_pruning.Group, names: dict[nn.Module, str]
) -> Group | None:
    """A group of torch-pruning's in our terms; None where its channels are no filters of ours, or an output."""
    channels = len(traced[0].idxs)
    producers: list[str] = []
    carriers, consumers = {}, {}
    for item in traced.items:
        node, layer, writes = item.dep.target, item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        if writes and not node.outputs:
            return None
        if layer not in names:
            if isinstance(layer, nn.Parameter):
                return None  # a parameter outside any layer: what its numbers mean is not known
            continue  # an operation
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        numbers: list[list[int]] = [[] for _ in range(channels)]
        for number, channel in zip(item.idxs, item.root_idxs, strict=True):
            numbers[channel].append(number)
        if _depthwise(layer) or isinstance(layer, PER_CHANNEL):
            carriers[names[layer]] = torch.tensor(numbers)
        elif not isinstance(layer, CONVOLUTION | nn.Linear):
            return None  # attention, recurrent and transposed layers, norms over channels
        elif writes:
            if sorted(item.idxs) != list(range(channels)) or item.idxs != item.root_idxs:
                return None  # tied to a part of another layer: only all of it could go
            producers.append(names[layer])
        else:
            consumers[names[layer]] = torch.tensor(numbers)
    producers = sorted(set(producers), key=list(names.values()).index)
    return Group(channels, tuple(producers), carriers, consumers) if producers else None
