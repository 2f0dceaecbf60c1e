"""Small networks in which channels go unusual ways, and networks whose filters are silent."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lib import structure


class Net(nn.Module):
    """A network of the given layers, parameters and buffers, whose forward pass is a function of it and the input."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def conv(inputs: int, filters: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, 3, padding=1, **options)


def head(net: Net, maps: Tensor) -> Tensor:
    """What all these networks end with: a convolution b, the mean of its maps, and a linear layer."""
    return net.fc(torch.relu(net.b(maps)).mean((2, 3)))


def between(change: Callable[[Net, Tensor], Tensor], reads: int = 8, **parts: Any) -> Net:
    """Images (n, 3, 8, 8) to 4 outputs. The 8 maps of convolution a are changed before convolution b reads them."""
    ends = {"a": conv(3, 8), "b": conv(reads, 6), "fc": nn.Linear(6, 4)}
    return Net(lambda net, x: head(net, change(net, torch.relu(net.a(x)))), **ends, **parts)


def instead(forward: Callable[[Net, Tensor], Any], reads: int = 8, **parts: Any) -> Net:
    """The same layers in a forward pass of another kind."""
    return Net(forward, a=conv(3, 8), b=conv(reads, 6), fc=nn.Linear(6, 4), **parts)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*(shape or (2, 3, 8, 8)), generator=torch.Generator().manual_seed(seed))


def silenced(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy whose removed filters have weights and biases of zero: right where zero stays zero behind them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, kept in masks.items():
            layer: Any = model.get_submodule(name)
            layer.weight[~kept] = 0
            if layer.bias is not None:
                layer.bias[~kept] = 0
    return model


def halves(groups: list[structure.Group], seed: int = 0) -> structure.Masks:
    """Half of each group, at random."""
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(g.channels, generator=generator) for g in groups for name in g.producers}
    return structure.keep(scores, fraction=0.5, groups=groups, least=1)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max().clamp_min(1e-3))
