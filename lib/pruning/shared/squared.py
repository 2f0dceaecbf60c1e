r"""One backward pass that squares each derivative on its way: the recursion of Optimal Brain Damage.

With the sums :math:`a_i = \sum_j w_{ij} x_j` and the answers :math:`x_i = f(a_i)`, second derivatives are propagated
back through a network by (lecun1989obd, in the Levenberg-Marquardt form)

.. math:: \frac{\partial^2 E}{\partial a_i^2} = f'(a_i)^2 \sum_l w_{li}^2\, \frac{\partial^2 E}{\partial a_l^2}, \qquad
    \frac{\partial^2 E}{\partial w_{ij}^2} = \frac{\partial^2 E}{\partial a_i^2}\, x_j^2 ,

as first derivatives do, with a square at each weight, slope and input. The cross terms between the neurons of a layer
are left out, so this is an approximation; for the last layer it is exact. A weight that is used at several places gets
the sum over them. Steps whose derivatives are 0 and 1 (ReLU, additions, largest of a window, reshaping) need no square,
so plain autograd does the rest.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import grad

from lib import running
from lib.pruning.shared.per_sample import CONVOLUTIONS, LINEAR, padded
from lib.weights import Layer

BY_INPUT: dict[Any, Callable[..., Tensor]] = {
    nn.Conv1d.forward: grad.conv1d_input,
    nn.Conv2d.forward: grad.conv2d_input,
    nn.Conv3d.forward: grad.conv3d_input,
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # in evaluation mode a slope for each channel
ELEMENTWISE = (  # each output depends on one input
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid),
    *(nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign),
    *(nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
AVERAGES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AvgPool2d, nn.AvgPool3d)
ONES = {  # steps of autograd, by name and without "Backward0", whose derivatives are 0 and 1
    *("AccumulateGrad", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Add", "Alias", "AsStrided", "Cat", "Clone"),
    *("ConstantPadNd", "CopySlices", "Expand", "Index", "IndexSelect", "MaxPool2DWithIndices", "MaxPool3DWithIndices"),
    *("Permute", "ReflectionPad1D", "ReflectionPad2D", "ReflectionPad3D", "Relu", "ReplicationPad1D", "Select"),
    *("ReplicationPad2D", "ReplicationPad3D", "ReshapeAlias", "Slice", "Split", "Squeeze", "Stack", "Sum", "T"),
    *("Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View"),
}


class Weighted(torch.autograd.Function):
    """A linear or convolution layer, whose derivatives go back squared."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.padding = layer, padding
        if type(layer).forward is LINEAR:
            return nn.functional.linear(x, weight, layer.bias)
        nothing = [0] * len(layer.stride)
        place = layer.stride, [padding] if isinstance(padding, int) else padding, layer.dilation, False, nothing
        return torch.convolution(x, weight, layer.bias, *place, layer.groups)

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        layer, (x, weight) = ctx.layer, ctx.saved_tensors
        to_input, to_weight, *_ = ctx.needs_input_grad
        if type(layer).forward is LINEAR:
            # method
            by_input = second @ weight.square() if to_input else None  # Σ_l w_li² d²E/da_l²
            by_weight = second.flatten(0, -2).T @ x.flatten(0, -2).square() if to_weight else None  # Σ d²E/da_i² x_j²
            # end of method
        else:
            place, forward = (layer.stride, ctx.padding, layer.dilation, layer.groups), type(layer).forward
            by_input = BY_INPUT[forward](x.shape, weight.square(), second, *place) if to_input else None
            by_weight = CONVOLUTIONS[forward](x.square(), weight.shape, second, *place) if to_weight else None
        return by_input, by_weight, None, None


class Elementwise(torch.autograd.Function):
    """A module each of whose outputs depends on one input; it multiplies what comes back by f'(a)²."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, module: nn.Module) -> Tensor:
        with torch.enable_grad():
            own = a.detach().requires_grad_()
            x: Tensor = type(module).forward(module, own.clone())  # a clone, since it may work in place
            (slope,) = torch.autograd.grad(x.sum(), own)
        ctx.save_for_backward(slope)
        return x.detach()

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        # method
        by_sum = slope.square() * second  # f'(a)² d²E/dx²
        # end of method
        return by_sum, None


class Average(torch.autograd.Function):
    """A mean over a window, whose coefficient is squared by multiplying what comes back by it once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        return type(module).forward(module, x)

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            x = second.new_zeros(ctx.shape).requires_grad_()
            answers = type(ctx.module).forward(ctx.module, x)
            back = torch.autograd.grad(answers, x, second * _coefficients(ctx.module, x.detach(), second.shape))[0]
        return back, None


def _coefficients(module: Any, x: Tensor, outputs: torch.Size) -> Tensor:
    """The coefficient of each output of a mean over windows."""
    if isinstance(module, nn.AvgPool2d | nn.AvgPool3d):
        pool = nn.functional.avg_pool2d if isinstance(module, nn.AvgPool2d) else nn.functional.avg_pool3d
        place = module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad
        ones = torch.ones_like(x)
        return pool(ones, *place, module.divisor_override) / pool(ones, *place, 1)
    coefficients = x.new_ones(())
    for size, places in zip(x.shape[-len(outputs) + 2 :], outputs[2:], strict=True):
        at = torch.arange(places, device=x.device)
        width = ((at + 1) * size + places - 1) // places - at * size // places
        coefficients = coefficients[..., None] / width
    return coefficients


def installed(model: nn.Module) -> nn.Module:
    """Make the modules of a model square their derivatives. In place; returns the model, which answers as before.

    model: in evaluation mode; it can no longer be trained afterwards.
    """

    def weighted(layer: Any, x: Tensor) -> Tensor:
        if type(layer).forward is LINEAR:
            return Weighted.apply(x, layer.weight, layer, None)
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        x, padding = (x, layer.padding) if plain else (padded(layer, x), 0)
        return Weighted.apply(x, layer.weight, layer, padding)

    for module in model.modules():
        forward = type(module).forward
        if forward is LINEAR or forward in CONVOLUTIONS:
            module.forward = partial(weighted, module)
        elif type(module) in (*ELEMENTWISE, *NORMS):
            module.forward = partial(lambda own, x: Elementwise.apply(x, own), module)
        elif type(module) in AVERAGES:
            module.forward = partial(lambda own, x: Average.apply(x, own), module)
    return model


def second_derivatives(model: nn.Module, layers: Mapping[str, Layer], images: Tensor) -> dict[str, Tensor]:
    r"""Compute the summed cross-entropy's second derivatives with respect to the layers' weights, in one pass.

    model: a classifier that :func:`installed` has prepared.
    layers: layer name -> layer of the model, linear or convolution.
    images: the samples to sum over.

    Returns layer name -> tensor of the shape of the weight, 0 or larger.
    Raises ValueError for a step that does not square its derivative, a layer that did not run, and logits that are not
    finite.

    >>> model = installed(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).eval())
    >>> {n: tuple(h.shape) for n, h in second_derivatives(model, {"0": model[0]}, torch.rand(5, 2)).items()}
    {'0': (3, 2)}
    """
    logits = running.class_logits(model, images)
    if step := _unsquared(logits):
        raise ValueError(
            f"the derivative of {step}, {_place(model, images)}, cannot go back squared: one pass takes networks of"
            " linear and convolution layers, batch norm, elementwise activations as modules, pooling and additions"
        )
    # method
    p = logits.detach().softmax(dim=1)
    weights = [layer.weight for layer in layers.values()]
    parts = torch.autograd.grad(logits, weights, p * (1 - p), allow_unused=True)
    # end of method
    squares = {name: part for name, part in zip(layers, parts, strict=True) if part is not None}
    running.check_ran(layers, squares)
    return squares


def _unsquared(answer: Tensor) -> str | None:
    """The name of a step before a tensor whose derivative is not squared, and not only 0 and 1; None without one."""
    waiting, seen = [answer.grad_fn], {answer.grad_fn, None}
    while waiting:
        node: Any = waiting.pop()
        if node is None:
            continue
        name = re.sub(r"Backward\d*$", "", type(node).__name__)
        own = isinstance(node, tuple(function._backward_cls for function in (Weighted, Elementwise, Average)))
        if not own and (name not in ONES or getattr(node, "_saved_alpha", 1) != 1):
            return name
        new = {before for before, _ in node.next_functions} - seen
        seen |= new
        waiting += new
    return None


def _place(model: nn.Module, images: Tensor) -> str:
    """Where in the model the first step is that does not square its derivative."""
    places: list[str] = []

    def before(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        places.extend(f"before layer {name!r}" for x in inputs if isinstance(x, Tensor) and _unsquared(x))

    def after(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        places.extend(f"in layer {name!r}" for x in [output] if name and isinstance(x, Tensor) and _unsquared(x))

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(before, name)))
        handles.append(module.register_forward_hook(partial(after, name)))
    try:
        model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    return [*places, f"at the end of {type(model).__name__}"][0]
