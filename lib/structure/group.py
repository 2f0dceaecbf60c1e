"""A group: channels that can only be removed together, and the layers that compute, carry and read them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONVOLUTION = nn.Conv1d | nn.Conv2d | nn.Conv3d
PER_CHANNEL = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
INSTANCE_NORM = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    channels: how many channels there are.
    producers: names of the layers whose filter j computes channel j; more than one where an addition or a product ties
        them.
    carriers: name of a layer that holds something for each channel (batch norm, instance norm, PReLU, depthwise
        convolution), with or without weights -> (channels, k) numbers of the channels in that layer. After a
        concatenation these differ from 0, 1, 2, ... k is 1, except for a layer after a flatten.
    consumers: name of a layer that reads the channels -> (channels, k) numbers of the inputs that belong to channel j.
        k is 1 for a convolution; a linear layer after a flatten has one input for each place of the map.
    parts: number of equal parts of consecutive channels that must each lose the same number of channels, because a
        grouped convolution computes or reads them part by part. Default 1.
    """

    channels: int
    producers: tuple[str, ...]
    carriers: dict[str, Tensor]
    consumers: dict[str, Tensor]
    parts: int = 1

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
        Raises ValueError for a layer that does not read or write the channels of this group, and for values of a
        convolution without a batch axis.

        >>> from lib import models, structure
        >>> model = models.lenet5()
        >>> last = structure.groups(model, torch.zeros(1, 1, 28, 28))[1]
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


def depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one filter for each channel.

    >>> depthwise(nn.Conv2d(4, 4, 3, groups=4)), depthwise(nn.Conv2d(4, 8, 3, groups=4))
    (True, False)
    """
    return isinstance(layer, CONVOLUTION) and 1 < layer.groups == layer.out_channels == layer.in_channels


def channel_axis(layer: nn.Module, values: Tensor) -> int:
    """Return the axis of the channels in what a layer reads or writes.

    layer: a linear layer (its last axis), or a convolution (the axis before the places, with or without a batch).
    values: its input or its output.

    >>> channel_axis(nn.Linear(4, 3), torch.zeros(2, 7, 4)), channel_axis(nn.Conv2d(4, 3, 1), torch.zeros(2, 4, 5, 5))
    (2, 1)
    """
    return values.dim() - 1 - (len(layer.kernel_size) if isinstance(layer, CONVOLUTION) else 0)
