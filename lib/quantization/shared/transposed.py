"""A transposed convolution as zeros inserted between the numbers of its input, and a plain convolution."""

from typing import Any

from torch import Tensor, fx, nn

from lib.quantization.shared.operations import Spread

PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose1d: nn.Conv1d,
    nn.ConvTranspose2d: nn.Conv2d,
    nn.ConvTranspose3d: nn.Conv3d,
}


def unfold(network: fx.GraphModule) -> None:
    """Replace each transposed convolution by inserted zeros and a plain convolution. In place.

    The convolution has the same weights, mirrored, and keeps the layer's name. Zero is on every grid, so the inserted
    zeros are exact. Layers that are called with the size of their output are left alone.

    network: a traced network.

    >>> network = fx.symbolic_trace(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2)))
    >>> unfold(network)
    >>> network.get_submodule("0")
    Conv2d(4, 6, kernel_size=(2, 2), stride=(1, 1))
    """
    for name, calls in _calls(network).items():
        layer: Any = network.get_submodule(name)
        known = any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in PLAIN)
        if not known or any(len(node.args) != 1 or node.kwargs for node in calls):
            continue
        for node in calls:
            network.add_submodule(f"{node.name}_spread", _spread(layer))
            with network.graph.inserting_before(node):
                node.args = (network.graph.call_module(f"{node.name}_spread", node.args),)
        network.add_submodule(name, _convolution(layer))
    network.recompile()


def restore(network: fx.GraphModule) -> None:
    """Undo :func:`unfold`, as float kernels can skip the zeros. In place; a batch norm folded since then stays folded.

    network: a traced network.

    >>> network = fx.symbolic_trace(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2)))
    >>> unfold(network)
    >>> restore(network)
    >>> network.get_submodule("0")
    ConvTranspose2d(4, 6, kernel_size=(2, 2), stride=(2, 2))
    """
    layers: dict[str, nn.Module] = {}
    for name, calls in _calls(network).items():
        spread = network.get_submodule(name)
        if isinstance(spread, Spread):
            (node,) = calls
            (user,) = node.users
            layers[str(user.target)] = _transposed(spread, network.get_submodule(str(user.target)))
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)
    for name, layer in layers.items():
        network.add_submodule(name, layer)
    network.delete_all_unused_submodules()
    network.recompile()


def _calls(network: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Name of a module -> the nodes that call it."""
    calls: dict[str, list[fx.Node]] = {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return calls


def _spread(layer: Any) -> Spread:
    """The zeros between the numbers, and around them where the filter begins and ends."""
    sides = zip(layer.kernel_size, layer.dilation, layer.padding, layer.output_padding, strict=True)
    borders = [(d * (k - 1) - p, d * (k - 1) - p + more) for k, d, p, more in sides]
    return Spread(layer.stride, tuple(borders))


def _convolution(layer: Any) -> nn.Module:
    kind = next(plain for transposed, plain in PLAIN.items() if isinstance(layer, transposed))
    new = _with_weight(kind, layer, _turned(layer.weight, layer.groups))
    new._forward_hooks, new._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks  # refused later
    return new


def _transposed(spread: Spread, layer: Any) -> nn.Module:
    kind = next(transposed for transposed, plain in PLAIN.items() if isinstance(layer, plain))
    sides = list(zip(layer.kernel_size, layer.dilation, spread.borders, strict=True))
    padding = tuple(d * (k - 1) - before for k, d, (before, _) in sides)
    more = tuple(after - before for _, _, (before, after) in sides)
    geometry = {"stride": spread.steps, "padding": padding, "output_padding": more}
    return _with_weight(kind, layer, _turned(layer.weight, layer.groups), **geometry)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """(inputs, outputs per group, ...) becomes (outputs, inputs per group, ...), with each filter mirrored."""
    parts = weight.detach().unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return parts.flip(list(range(2, weight.dim()))).contiguous()


def _with_weight(kind: type[nn.Module], layer: Any, weight: Tensor, **geometry: tuple[int, ...]) -> nn.Module:
    """A layer of another kind with the same channels and bias as the given one, and with this weight."""
    channels, place = (layer.in_channels, layer.out_channels), {"device": weight.device, "dtype": weight.dtype}
    options = {"dilation": layer.dilation, "groups": layer.groups, "bias": layer.bias is not None}
    new: Any = nn.utils.skip_init(kind, *channels, layer.kernel_size, **options, **geometry, **place)  # draws nothing
    new.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if layer.bias is not None:
        new.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    return new.train(layer.training)
