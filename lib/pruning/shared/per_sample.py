"""The gradient of a layer's weight for each sample, and the sum of its squares."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import grad

from lib.weights import Layer

LINEAR = nn.Linear.forward  # a subclass with a forward pass of its own computes something else
CONVOLUTIONS: dict[Any, Callable[..., Tensor]] = {
    nn.Conv1d.forward: grad.conv1d_weight,
    nn.Conv2d.forward: grad.conv2d_weight,
    nn.Conv3d.forward: grad.conv3d_weight,
}
AT_ONCE = 2**22  # gradient entries held at once; for larger weights, one sample at a time is faster


def padded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Pad what a convolution reads as the layer does, whatever its ``padding`` and ``padding_mode``.

    >>> padded(nn.Conv1d(1, 1, 3, padding="same", padding_mode="circular"), torch.tensor([[[1.0, 2, 3]]]))
    tensor([[[3., 1., 2., 3., 1.]]])
    """
    own: Any = layer
    mode = "constant" if own.padding_mode == "zeros" else own.padding_mode
    return nn.functional.pad(inputs, own._reversed_padding_repeated_twice, mode=mode)


def add_squares(total: Tensor, layer: Layer, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add the squared gradient of each sample to ``total``; the places of a sample are summed before squaring.

    total: (*shape of the weight), contiguous, changed in place.
    layer: any layer that reads one tensor.
    parts: for each use of the layer, what it read and the derivative with respect to its output; samples first in both.
    """
    if not parts:
        return
    if len(parts) == 1 and type(layer).forward is LINEAR and parts[0][0].dim() == 2:
        inputs, delta = parts[0]
        total += delta.square().T @ inputs.square()  # sum over n of δ² x²
        return
    step = max(1, AT_ONCE // total.numel())
    for at in range(0, len(parts[0][0]), step):
        some = [(x[at : at + step], d[at : at + step]) for x, d in parts]
        if step == 1 and _is_product(layer):
            _add_square_of_product(total.view(len(total), -1), [_factors(layer, x, d) for x, d in some])
            continue
        gradients = [gradient_by_sample(layer, x, d) for x, d in some]
        total += sum(gradients[1:], gradients[0]).square_().sum(dim=0)


def _is_product(layer: Any) -> bool:
    """Whether the gradient of one sample is a product of two matrices."""
    forward = type(layer).forward
    return forward is LINEAR or (forward is nn.Conv2d.forward and layer.groups == 1)


def _factors(layer: Any, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative with respect to the outputs (outputs, places), and the inputs (places, inputs), of one sample."""
    if type(layer).forward is LINEAR:
        return d.reshape(-1, d.shape[-1]).T, x.reshape(-1, x.shape[-1])
    read = nn.functional.unfold(padded(layer, x), layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return d[0].flatten(1), read[0].T


def _add_square_of_product(total: Tensor, factors: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add the square of a sum of products, a few rows at a time, since those of a large layer do not fit the cache."""
    rows = max(1, 2**18 // total.shape[1])
    for at in range(0, len(total), rows):
        products = [delta[at : at + rows] @ read for delta, read in factors]
        product = sum(products[1:], products[0])
        total[at : at + rows].addcmul_(product, product)


def gradient_by_sample(layer: Layer, inputs: Tensor, deltas: Tensor) -> Tensor:
    """Compute the gradient of a layer's weight for each sample.

    layer: any layer that reads one tensor.
    inputs: what it read, samples first.
    deltas: the derivative with respect to its output, samples first.

    Returns (n, *shape of the weight).

    >>> gradient_by_sample(nn.Linear(3, 2), torch.zeros(5, 4, 3), torch.zeros(5, 4, 2)).shape
    torch.Size([5, 2, 3])
    """
    own: Any = layer
    forward, n = type(layer).forward, len(inputs)
    if forward is LINEAR:
        return deltas.reshape(n, -1, deltas.shape[-1]).mT @ inputs.reshape(n, -1, inputs.shape[-1])
    if forward in CONVOLUTIONS:
        plain = own.padding_mode == "zeros" and not isinstance(own.padding, str)
        inputs, padding = (inputs, own.padding) if plain else (padded(own, inputs), 0)

        def of_one(x: Tensor, d: Tensor) -> Tensor:
            place = own.stride, padding, own.dilation, own.groups
            return CONVOLUTIONS[forward](x[None], own.weight.shape, d[None], *place)

        return torch.func.vmap(of_one)(inputs, deltas) if n > 1 else of_one(inputs[0], deltas[0])[None]

    def one(weight: Tensor, x: Tensor) -> Tensor:  # each sample gets a weight of its own
        return torch.func.functional_call(layer, {"weight": weight}, (x[None],))[0]

    apart = layer.weight.detach().expand(n, *layer.weight.shape).clone().requires_grad_()
    return torch.autograd.grad(torch.func.vmap(one)(apart, inputs), apart, deltas)[0]
