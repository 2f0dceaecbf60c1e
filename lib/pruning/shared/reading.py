"""Check what layers read of the channels of a group, and scale it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib import running
from lib.structure import Group
from lib.structure.group import channel_axis


@torch.no_grad()
def check_read(model: nn.Module, groups: Sequence[Group], example: Tensor) -> None:
    """Run one sample, and raise ValueError unless what the layers read of each group can be measured.

    model: any network; it is left as it was.
    groups: groups of its channels.
    example: one or more inputs, (n, ...); the first is run through the network.

    Raises ValueError, naming the layer, for one that does not run, for one that reads samples along an axis other than
    the first, and for channels that no layer reads.

    >>> from lib import models, structure
    >>> image = torch.zeros(1, 1, 28, 28)
    >>> check_read(models.lenet5(), structure.groups(models.lenet5(), image), image)
    """
    names = dict.fromkeys(name for group in groups for name in group.consumers)
    with running.captured(model, names) as flow, running.evaluating(model):
        running.logits(model, example[:1])
    for group in groups:
        if not group.consumers:
            raise ValueError(f"what layer {group.producers[0]!r} puts out is read by no layer: it cannot be measured")
        for name in group.consumers:
            if name not in flow.inputs:
                raise ValueError(
                    f"layer {name!r} did not run: what it reads of layer {group.producers[0]!r} cannot be measured"
                )
            if len(group.maps(model, name, flow.inputs[name])) != 1:
                raise ValueError(
                    f"layer {name!r} reads values of shape {tuple(flow.inputs[name].shape)} for one sample:"
                    " its first axis must be that of the samples"
                )


@contextmanager
def scaled(model: nn.Module, groups: Sequence[Group], factors: Sequence[Tensor]) -> Iterator[dict[int, int]]:
    """Inside the block, multiply what layers read of channel c of group i by ``factors[i][:, c]``.

    model: any network.
    groups: groups of its channels.
    factors: for each group (n, channels), or (1, channels) for all samples alike.

    Yields group number -> places of its maps in the first layer that reads them, known after a forward pass.

    >>> from lib import models, structure
    >>> model, images = models.lenet5(), torch.rand(2, 1, 28, 28)
    >>> last = structure.groups(model, images)[-1]
    >>> with torch.no_grad(), scaled(model, [last], [torch.zeros(1, 500)]):
    ...     torch.equal(model(images), model.fc2.bias.expand(2, 10))
    True
    """
    places: dict[int, int] = {}

    def scaler(name: str, readers: list[int]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, axis = inputs[0], channel_axis(layer, inputs[0])
            factor = x.new_ones(len(factors[readers[0]]), x.shape[axis])
            for i in readers:
                columns = groups[i].consumers[name].to(x.device)
                spread = factors[i].to(x).repeat_interleave(columns.shape[1], dim=1)
                factor = factor.index_copy(1, columns.flatten(), spread)
                places.setdefault(i, columns.shape[1] * x[0].numel() // x.shape[axis])
            between = [1] * (x.dim() - 2)
            last = axis == x.dim() - 1
            shape = [len(factor), *between, -1] if last else [*factor.shape, *between]
            return (x * factor.reshape(shape), *inputs[1:])

        return hook

    names = dict.fromkeys(name for group in groups for name in group.consumers)
    hooks = []
    try:
        for name in names:
            readers = [i for i, group in enumerate(groups) if name in group.consumers]
            hooks.append(model.get_submodule(name).register_forward_pre_hook(scaler(name, readers)))
        yield places
    finally:
        for hook in hooks:
            hook.remove()
