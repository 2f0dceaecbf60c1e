"""Batch norm in a network of integers: part of the layer before it, or a layer of its own."""

import torch
from torch import Tensor, fx, nn

from lib.quantization.shared.operations import LAYERS, PerFeature, Rows

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def fold(network: fx.GraphModule) -> None:
    """Fold each batch norm into the layer before it, or make it a layer of its own if that is impossible. In place.

    The layer's weight becomes γ w / √(var + ε), its bias β + γ (b - mean) / √(var + ε). If another operation comes
    before the batch norm, or something else reads that layer too, a 1 x 1 convolution with one group for each channel
    scales and shifts the channels instead. Frozen parameters stay frozen.

    network: a traced network.

    Raises ValueError for a batch norm without running statistics.

    >>> network = fx.symbolic_trace(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval())
    >>> fold(network)
    >>> sorted((name, module.groups) for name, module in network.named_children())
    [('1', 1), ('_0_norm', 3)]
    """
    for node in list(network.graph.nodes):
        norm = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, NORMS):
            continue
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                f"batch norm {node.target!r} cannot be folded: it has no running statistics, and would take those of"
                " the images at hand"
            )
        before = node.all_input_nodes[0]
        layer = network.get_submodule(str(before.target)) if before.op == "call_module" else None
        once = len(before.users) == len(network.graph.find_nodes(op="call_module", target=before.target)) == 1
        if isinstance(layer, LAYERS) and once:
            _into(layer, norm)
            if isinstance(layer, nn.Linear):
                _let_rows_through(network, before, str(node.target))
            node.replace_all_uses_with(before)
            network.graph.erase_node(node)
        else:
            network.add_submodule(f"{node.name}_norm", _layer(norm))
            node.target = f"{node.name}_norm"
    network.delete_all_unused_submodules()


def _gain(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """The factor γ / √(var + ε) of each channel, and the mean that is subtracted from its inputs."""
    assert norm.running_mean is not None and norm.running_var is not None  # see fold
    return (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight), norm.running_mean


@torch.no_grad()
def _into(layer: LAYERS, norm: nn.modules.batchnorm._BatchNorm) -> None:
    gain, mean = _gain(norm)
    bias = -mean if layer.bias is None else layer.bias - mean
    trained = any(b is not None and b.requires_grad for b in (layer.bias, norm.bias))
    factors = gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight = nn.Parameter(layer.weight * factors, layer.weight.requires_grad)
    layer.bias = nn.Parameter(gain * bias + (0 if norm.bias is None else norm.bias), trained)


@torch.no_grad()
def _layer(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    gain, mean = _gain(norm)
    n, place = norm.num_features, {"device": gain.device, "dtype": gain.dtype}
    layer: LAYERS  # made without drawing random weights
    if isinstance(norm, nn.BatchNorm1d):
        layer = nn.utils.skip_init(PerFeature, n, **place)
    else:
        kind = nn.Conv2d if isinstance(norm, nn.BatchNorm2d) else nn.Conv3d
        layer = nn.utils.skip_init(kind, n, n, 1, groups=n, **place)
    bias = -gain * mean if norm.bias is None else norm.bias - gain * mean
    layer.weight = nn.Parameter(gain.reshape(layer.weight.shape), norm.weight is not None and norm.weight.requires_grad)
    layer.bias = nn.Parameter(bias, norm.bias is not None and norm.bias.requires_grad)
    return layer.eval()


def _let_rows_through(network: fx.GraphModule, linear: fx.Node, name: str) -> None:
    """Put a guard before a linear layer: given (n, tokens, features), its batch norm would take tokens for features."""
    network.add_submodule(f"{linear.name}_rows", Rows(name))
    with network.graph.inserting_before(linear):
        rows = network.graph.call_module(f"{linear.name}_rows", linear.args[:1])
    linear.args = (rows, *linear.args[1:])
