"""Run a network as a linear one, with magnitudes as weights: how much can a unit change the units after it?

Biases are dropped, activations pass everything on, and a maximum over a window or a difference becomes a sum. Each
factor of a product passes on what it gets, times the mean magnitude of the other factor. A gate, which is computed from
what it scales, is frozen at its mean magnitude.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from lib import running
from lib.pruning.shared.products import PRODUCTS, SCALES, Product

# names of torch's functions and tensor methods, without leading and trailing underscores
ACTIVATIONS = {
    *("relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "logsigmoid", "log_sigmoid", "threshold"),
    *("tanhshrink", "hardshrink", "softshrink", "clamp", "clamp_min", "clamp_max", "clip", "abs", "neg"),
}
WEIGHTED = {"linear", *(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3))}
SCALED = {"div", "divide", "true_divide", "matmul", "mm", "bmm", "mv", "einsum"}
ADDED = {"add", "sub", "rsub", "subtract"}
# Shares that add up to one. With large magnitudes one share is all, and the answer looks linear: always refused.
SHARING = {
    *("softmax", "log_softmax", "softmin", "gumbel_softmax", "scaled_dot_product_attention"),
    *("multi_head_attention_forward", "native_multi_head_attention", "transformer_encoder_layer_fwd"),
}
JOINED = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}


@dataclass(frozen=True)
class Run:
    """One run of the linear network; its gradients do not depend on the start.

    start: (1, ...) from 0 to 1, where gradients end.
    outputs: name and output of each layer, in the order in which they ran.
    response: what the last of the layers read.
    """

    start: Tensor
    outputs: list[tuple[str, Tensor]]
    response: Tensor


def linear_run(
    model: nn.Module, example: Tensor, layers: Sequence[str], products: Sequence[Product | None], *, gated: bool
) -> Run:
    """Run a network as a linear one, float64 and in evaluation mode.

    model: any network; it is left as it was.
    example: an input, (1, channels, height, width) or whatever else the model takes.
    layers: names of the layers whose outputs are wanted, in the order in which they run; the last one reads the
        response.
    products: as :func:`lib.pruning.shared.products.products` lists them for this network.
    gated: whether the layers that compute a gate pass something on, too.

    Returns the :class:`Run`, through which gradients can be taken.
    Raises ValueError for a model that does not take such an input, for values that overflow, and, naming it, for the
    first layer that is still not linear, such as attention.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    >>> run = linear_run(model, torch.zeros(1, 2), ["0", "2"], [], gated=False)
    >>> torch.autograd.grad(run.response.sum(), run.start)
    (tensor([[4., 6.]], dtype=torch.float64),)
    """
    linear = copy.deepcopy(model).double().eval().requires_grad_(False)
    mode = _Magnitudes(products, gated=gated)
    outputs: list[tuple[str, Tensor]] = []
    response: list[Tensor] = []

    def keeper(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs.append((name, output))
            if name == layers[-1]:
                response[:], mode.open = inputs[:1], False
            return output.clone()  # so that what is kept cannot be changed in place

        return hook

    def forward(start: Tensor) -> Tensor:
        outputs.clear()
        mode.calls, mode.open, mode.shared = 0, True, False
        with torch.enable_grad(), mode:
            running.logits(linear, start.clone())
        return response[0]

    for name in layers:
        linear.get_submodule(name).register_forward_hook(keeper(name))
    one, other = torch.rand((2, *example.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    starts = [start.to(example.device).requires_grad_() for start in (one, one + other, other)]
    first, both = forward(starts[0]).detach(), forward(starts[1]).detach()
    last = forward(starts[2])
    if mode.shared or not _adds_up(first, last.detach(), both) or mode.calls != len(mode.products):
        raise ValueError(_why_not(linear, mode, forward, starts))
    return Run(starts[2], list(outputs), last)


def _adds_up(one: Tensor, other: Tensor, both: Tensor) -> bool:
    """Whether a linear map of magnitudes could give these values: for one input, for another, and for their sum."""
    if both.shape != one.shape or not both.numel():
        return both.shape == one.shape
    return bool(((both - one - other).abs() <= 1e-6 * both).all() and (both >= 0).all())


def _why_not(linear: nn.Module, mode: "_Magnitudes", forward: Callable[[Tensor], Tensor], starts: list[Tensor]) -> str:
    """The error message, with the first layer that is not linear: its inputs add up, but its answers do not."""
    calls: list[tuple[str, bool, list[Tensor], list[Tensor]]] = []
    names = {module: name for name, module in linear.named_modules()}
    entered: dict[nn.Module, bool] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        read, written = ([x.detach().clone() for x in tree_leaves(y) if _depends(x)] for y in (inputs, output))
        calls.append((names[module], mode.shared and not entered[module], read, written))

    hooks = [module.register_forward_pre_hook(lambda m, _: entered.update({m: mode.shared})) for module in names]
    hooks += [module.register_forward_hook(note) for module in names]
    seen = []
    for start in starts:
        calls.clear()
        forward(start)
        seen.append(list(calls))
    for hook in hooks:
        hook.remove()
    kind = type(linear).__name__
    for (name, shared, *first), (_, _, *both), (_, _, *last) in zip(*seen, strict=True):
        if not all(torch.isfinite(x).all() for x in both[1]):
            return f"the importance scores of {kind} overflow: scale its weights down"
        read, written = (all(map(_adds_up, *values)) for values in zip(first, last, both, strict=True))
        if shared or (read and not written):
            layer = f"layer {name!r}, of type {type(linear.get_submodule(name)).__name__}" if name else kind
            return (
                f"importance cannot be propagated through {layer}: accepted are weighted layers, elementwise"
                " activations, batch norm with running statistics, layer, group and root-mean-square norm, averages,"
                " maxima over windows of one size, sums and products"
            )
    return f"importance cannot be propagated through {kind}: it computes something else when gradients are needed"


def _depends(value: object) -> bool:
    """Whether a value depends on the input, which alone needs a gradient."""
    return isinstance(value, Tensor) and value.requires_grad


class _Magnitudes(TorchFunctionMode):
    """Inside the block, functions of values that depend on the input compute with magnitudes."""

    def __init__(self, products: Iterable[Product | None], *, gated: bool) -> None:
        super().__init__()
        self.products, self.gated, self.calls = list(products), gated, 0
        self.open, self.shared = True, False  # before the last layer has read; whether shares were computed till then

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raw, kwargs = getattr(function, "__name__", ""), kwargs or {}
        name, product = raw.strip("_"), None
        if raw in PRODUCTS or raw in SCALES:
            product = self.products[self.calls] if self.calls < len(self.products) else None
            self.calls += 1
        dependent = [value for value in tree_leaves((args, kwargs)) if _depends(value)]
        if not dependent:
            return function(*args, **kwargs)
        self.shared |= self.open and name in SHARING
        if name in ACTIVATIONS:
            return dependent[0] if raw.endswith("_") else dependent[0].clone()
        if name in WEIGHTED:
            return _weighted(function, *args, **kwargs)
        if name == "batch_norm":
            return _normalized(function, *args, **kwargs)
        if raw in SCALES and product is not None:
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            return _rescaled(dependent[0], product.sizes[1], weight, by_channel=raw == "group_norm")
        if raw in PRODUCTS and product is not None:
            value = self._product(product, *dependent)
            return dependent[0].copy_(value) if raw.endswith("_") else value
        if (raw in PRODUCTS or name in SCALED) and len(dependent) == 1:
            args, kwargs = tree_map(_magnitude, (args, kwargs))
        elif name in ADDED:
            return _added(raw, *args, **kwargs)
        elif name in JOINED:
            args = (tree_map(_zero, args[0]), *args[1:]) if args else args
        elif name in POOLS:
            return POOLS[name](function, *args, **kwargs)
        return function(*args, **kwargs)

    def _product(self, product: Product, one: Tensor, other: Tensor) -> Tensor:
        parts = [one * product.sizes[1], product.sizes[0] * other]
        return parts[0] + parts[1] if self.gated or product.gate is None else parts[1 - product.gate]


def _magnitude(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return abs(value) if number or (isinstance(value, Tensor) and not _depends(value)) else value


def _zero(value: Any) -> Any:
    return value if _depends(value) or not isinstance(value, Tensor) else torch.zeros_like(value)


def _weighted(function: Any, input: Tensor, weight: Tensor, bias: Any = None, *more: Any, **named: Any) -> Tensor:
    return function(input, weight if _depends(weight) else weight.abs(), None, *more, **named)


def _normalized(
    function: Any,
    input: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or mean is None:  # by the statistics of the batch
        return function(input, mean, variance, weight, bias, training, momentum, eps)
    weight = None if weight is None else weight.abs()
    return function(input, torch.zeros_like(mean), variance, weight, None, training, momentum, eps)


def _rescaled(input: Tensor, scale: Tensor, weight: Tensor | None, *, by_channel: bool) -> Tensor:
    if weight is None:
        return input * scale
    return input * scale * (weight.abs().reshape(-1, *[1] * (input.dim() - 2)) if by_channel else weight.abs())


def _added(raw: str, one: Any, other: Any, *, alpha: float = 1) -> Tensor:
    if not isinstance(one, Tensor):
        one = torch.zeros_like(other)
    one, other = _zero(one), _zero(other) if isinstance(other, Tensor) else 0
    in_place = raw.endswith("_") and not raw.startswith("__")
    return (one.add_ if in_place else one.add)(other, alpha=abs(alpha))


def _pooled(dimensions: int) -> Callable[..., Tensor]:
    """A function that sums over the windows of max pooling; if these have gaps it stays a maximum."""

    def pool(
        function: Any,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        if return_indices or set(tree_leaves(dilation)) != {1}:
            return function(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        step = stride or kernel_size
        if dimensions == 3:
            return functional.avg_pool3d(input, kernel_size, step, padding, ceil_mode, True, 1)
        if dimensions == 2:
            return functional.avg_pool2d(input, kernel_size, step, padding, ceil_mode, True, 1)
        size, step, pad = (tree_leaves(value)[0] for value in (kernel_size, step, padding))
        return functional.avg_pool2d(input.unsqueeze(-2), (1, size), (1, step), (0, pad), ceil_mode, True, 1).squeeze(
            -2
        )

    return pool


def _adaptively_pooled(dimensions: int) -> Callable[..., Tensor]:
    """The same for windows that follow from the size of the output, if all windows have the same size."""
    average: Any = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)

    def pool(function: Any, input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
        wanted = output_size if isinstance(output_size, tuple | list) else [output_size] * dimensions
        sizes = [(size, n or size) for size, n in zip(input.shape[-dimensions:], wanted, strict=True)]
        if return_indices or any(size % n for size, n in sizes):
            return function(input, output_size, return_indices)
        return average[dimensions - 1](input, [n for _, n in sizes]) * math.prod(size // n for size, n in sizes)

    return pool


POOLS = {f"max_pool{n}d": _pooled(n) for n in (1, 2, 3)} | {
    f"adaptive_max_pool{n}d": _adaptively_pooled(n) for n in (1, 2, 3)
}
