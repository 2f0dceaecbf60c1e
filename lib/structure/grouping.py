"""Find the groups of channels that may be removed: those that a trace suggests and that pass a test."""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lib.structure import proof
from lib.structure.copies import Cut, check_parts, smaller
from lib.structure.group import Group
from lib.structure.tracing import Trace, check, traced

_traces: WeakKeyDictionary[nn.Module, tuple[tuple, Trace]] = WeakKeyDictionary()  # network -> shapes, trace
_groups: WeakKeyDictionary[nn.Module, tuple[tuple, Trace]] = WeakKeyDictionary()  # the same, tested


def groups(model: nn.Module, example_input: Tensor) -> list[Group]:
    """Trace a network, and list the groups of channels that may be removed.

    model: any network that can be traced; its weights must be dense. It is left as it was.
    example_input: one or more inputs, (n, channels, height, width) or whatever else the model takes; the first is run
        through the network.

    Each group has been tested: without half of its channels, the network runs in evaluation and in training mode, and
    gives the same answers as when nothing reads them. Left out are channels that

    - are part of an output of the network, or are added to one of its inputs, to a buffer or to a parameter of no
      layer;
    - are computed or read by attention, recurrent, transposed or embedding layers, or by norms over channels;
    - are averaged, compared or normalized over (softmax, ...), or moved, padded, split or sliced on their way;
    - belong to layers that share a weight, compute it from other parameters, or are not called by their owner.

    Returns the groups in the order in which the model holds their first layers; :func:`lib.structure.shrink` says why
    a layer is in none.
    Raises ValueError for a model that cannot be traced or copied, for weights that are compressed or do not exist yet
    (lazy layers, the meta device), for ``nn.DataParallel`` on several devices, for an empty example, and inside
    ``torch.inference_mode``.

    >>> from lib import models
    >>> for group in groups(models.resnet8(), torch.zeros(1, 3, 32, 32))[:2]:
    ...     print(group.channels, group.producers)
    16 ('conv', 'stage1_1.conv2')
    16 ('stage1_1.conv1',)
    """
    return list(_known(_groups, _tested, model, example_input).groups)


def suggested(model: nn.Module, example_input: Tensor) -> Trace:
    """Trace a network as :func:`groups` does, and return all suggested groups without testing them.

    model: it is left as it was.
    example_input: as for :func:`groups`.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 1))
    >>> len(suggested(model, torch.zeros(1, 2)).groups), len(groups(model, torch.zeros(1, 2)))
    (1, 0)
    """
    return _known(_traces, traced, model, example_input)


def blamed(model: nn.Module, cuts: Sequence[Cut], example: Tensor) -> dict[int, str]:
    """Find the groups that cannot lose channels, by bisection: few tests if few groups are wrong.

    model: the network of the groups; it is left as it was.
    cuts: groups, each with its removed channels.
    example: inputs of the network.

    Returns index in ``cuts`` of each group that fails by itself -> the reason.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> cuts = [(group, torch.arange(group.channels) < 2) for group in suggested(model, torch.zeros(1, 3)).groups]
    >>> blamed(model, cuts, torch.zeros(1, 3))
    {0: "other things that layer '2' reads depend on them"}
    """
    reason = _reason(model, cuts, example)
    if not reason:
        return {}
    if len(cuts) == 1:
        return {0: reason}
    half = len(cuts) // 2
    second = blamed(model, cuts[half:], example)
    return blamed(model, cuts[:half], example) | {half + i: why for i, why in second.items()}


def _reason(model: nn.Module, cuts: Sequence[Cut], example: Tensor) -> str:
    try:
        check_parts(model, cuts)
    except ValueError as error:
        return str(error)
    return proof.difference(model, smaller(model, cuts), cuts, example)


def _known(
    memory: WeakKeyDictionary[nn.Module, tuple[tuple, Trace]],
    find: Callable[[nn.Module, Tensor], Trace],
    model: nn.Module,
    example_input: Tensor,
) -> Trace:
    """The result of the last call, unless the network has changed since: criteria ask again and again."""
    check(model, example_input)
    shapes = [(name, p.shape) for name, p in model.named_parameters()]
    key = (str(model), shapes, [_plain(module) for module in model.modules()], example_input.shape[1:])
    if memory.get(model, (None,))[0] != key:
        memory[model] = (key, find(model, example_input))
    return memory[model][1]


def _plain(module: nn.Module) -> list[tuple[str, object]]:
    """Hooks and plain attributes of a module, which also decide what it computes. Other objects count by identity."""
    described: list[tuple[str, object]] = []
    for name, value in vars(module).items():
        if name in ("training", "_parameters", "_buffers", "_modules"):
            continue
        if name.endswith("_hooks"):
            described.append((name, list(value or ())))  # their ids, which are never reused
        elif isinstance(value, Tensor):
            described.append((name, (value.shape, value.dtype)))
        elif value is None or isinstance(value, bool | int | float | str | list | tuple | set | dict):
            described.append((name, repr(value)))
        else:
            described.append((name, id(value)))
    return described


def _tested(model: nn.Module, example_input: Tensor) -> Trace:
    """The trace without the groups that fail the test."""
    trace, generator = suggested(model, example_input), torch.Generator().manual_seed(0)
    cuts = []
    for group in trace.groups:
        order = torch.rand(group.parts, group.channels // group.parts, generator=generator).argsort(1)
        cuts.append((group, (order < order.shape[1] // 2).flatten()))
    cuts = [(group, removed) for group, removed in cuts if removed.any()]  # a single channel cannot go
    wrong = blamed(model, cuts, example_input) if cuts else {}
    spared = {name: why for i, why in wrong.items() for name in cuts[i][0].producers}
    return Trace([g for g in trace.groups if g.producers[0] not in spared], trace.spared | spared)
