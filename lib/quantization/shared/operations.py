"""The operations that have an integer form, as modules, and the torch functions that do the same."""

import operator
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
CLAMPS = nn.ReLU | nn.Hardtanh  # nn.ReLU6 is an nn.Hardtanh
# Functions of one number. An integer network looks them up in a table.
FUNCTIONS = nn.SiLU | nn.Hardswish | nn.Sigmoid | nn.Hardsigmoid | nn.Tanh | nn.GELU | nn.Mish | nn.Softplus
FUNCTIONS |= nn.ELU | nn.SELU | nn.CELU | nn.LeakyReLU | nn.Softsign | nn.LogSigmoid
WINDOWS = nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d
ADAPTIVE = nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d
# These only pick or rearrange values, and so leave them on their grid.
POOLS = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d
ADAPTIVE_POOLS = nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d
DROPOUTS = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout | nn.FeatureAlphaDropout
ARRANGEMENTS = nn.Flatten | nn.Unflatten | nn.ChannelShuffle | nn.PixelShuffle | nn.PixelUnshuffle

Made = tuple[nn.Module, tuple[fx.Node, ...]]


class PerFeature(nn.Conv1d):
    """A factor and a bias for each feature of (n, features) or (n, features, places).

    channels: number of features.
    """

    def __init__(self, channels: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(channels, channels, 1, groups=channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., None])[..., 0] if x.dim() == 2 else super().forward(x)


class Rows(nn.Module):
    """Lets only (n, features) through: a guard before a linear layer that has a batch norm folded in.

    name: of the batch norm, for the error.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"batch norm {self.name!r} after a linear layer takes (n, features), not {tuple(x.shape)}")
        return x


class Spread(nn.Module):
    """Puts zeros between the numbers of a map, and around it.

    steps: along each side, the distance from one number to the next.
    borders: for each side, how many zeros come before and after; a negative number crops instead.

    >>> Spread((2,), ((1, 0),))(torch.tensor([[3, 4, 5]])).tolist()
    [[0, 3, 0, 4, 0, 5]]
    """

    def __init__(self, steps: tuple[int, ...], borders: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.steps, self.borders = steps, borders

    def forward(self, x: Tensor, zero: int = 0) -> Tensor:
        """Take (n, channels, ...), and the number that stands for zero."""
        sides, rank = x.shape[-len(self.steps) :], len(self.steps)
        x = x.reshape(*x.shape[:-rank], *(size for side in sides for size in (side, 1)))
        gaps = [gap for step in reversed(self.steps) for gap in (0, step - 1, 0, 0)]  # the last side comes first
        x = functional.pad(x, gaps, value=zero)
        x = x.reshape(*x.shape[: -2 * rank], *(side * step for side, step in zip(sides, self.steps, strict=True)))
        ends = zip(reversed(self.borders), reversed(self.steps), strict=True)
        around = [end for (before, after), step in ends for end in (before, after - (step - 1))]
        return functional.pad(x, around, value=zero)


class Sum(nn.Module):
    """a + alpha b, as at the end of a residual block.

    alpha: a number; -1 gives the difference.
    """

    def __init__(self, alpha: float = 1) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b if self.alpha == 1 else torch.add(a, b, alpha=self.alpha)


class Product(nn.Module):
    """Multiplies each value of a by one of b, as the gates of a squeeze-and-excitation block do."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Concatenation(nn.Module):
    """Joins tensors along one dimension.

    dim: the dimension.
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, self.dim)


class Mean(nn.Module):
    """The mean over some dimensions.

    dims: their numbers.
    keepdim: whether they stay, with one entry each.
    """

    def __init__(self, dims: tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.dims, self.keepdim = dims, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims, self.keepdim)


class WithNumber(nn.Module):
    """Adds, subtracts, multiplies or divides x and a number.

    call: a function of two numbers from the module ``operator``.
    number: the number that is not x.
    first: whether the number comes first.
    """

    def __init__(self, call: Callable[..., Tensor], number: float, first: bool = False) -> None:
        super().__init__()
        self.call, self.number, self.first = call, number, first

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.number, x) if self.first else self.call(x, self.number)


MEANS = WINDOWS | ADAPTIVE | Mean
TABLES = FUNCTIONS | WithNumber  # functions from one number to one number
MAKING = LAYERS | Sum | Product | Concatenation | MEANS | TABLES  # gives values that need a grid of their own
ARRANGING = POOLS | ADAPTIVE_POOLS | DROPOUTS | ARRANGEMENTS | nn.Identity | Rows | Spread


def bounds(clamp: nn.Module) -> tuple[float, float]:
    """Return the smallest and the largest number that a ReLU, ReLU6 or Hardtanh lets through.

    >>> bounds(nn.ReLU6()), bounds(nn.ReLU())
    ((0.0, 6.0), (0.0, inf))
    """
    return (clamp.min_val, clamp.max_val) if isinstance(clamp, nn.Hardtanh) else (0.0, float("inf"))


def spelled(*names: str) -> Iterator[object]:
    """Yield every torch function with one of these names, and the names of the methods, in place or not.

    >>> list(spelled("relu_"))[:2] == ["relu_", torch.relu_]
    True
    """
    for name in names:
        for form in (name, f"{name}_"):
            yield form
            yield from (getattr(place, form) for place in (torch, functional) if hasattr(place, form))


def _calling(kind: type[nn.Module]) -> Callable[..., Made]:
    """For functions that take a tensor, then the arguments of a module, and maybe ``inplace``."""

    def make(input: fx.Node, *options: float, inplace: bool = False, **named: float) -> Made:
        return kind(*options, **named), (input,)

    return make


def _clamp(input: fx.Node, min: float | None = None, max: float | None = None) -> Made:
    if min == 0 and max is None:
        return nn.ReLU(), (input,)
    least, most = (end if end is not None else sign * float("inf") for end, sign in ((min, -1), (max, 1)))
    return nn.Hardtanh(least, most), (input,)


def _pool(kind: type[nn.Module]) -> Callable[..., Made]:
    def make(
        input: fx.Node,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        dilation: int = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Made:
        return kind(kernel_size, stride, padding, dilation, return_indices, ceil_mode), (input,)

    return make


def _mean(input: fx.Node, dim: int | tuple[int, ...], keepdim: bool = False) -> Made:
    return Mean((dim,) if isinstance(dim, int) else tuple(dim), keepdim), (input,)


def _concatenate(tensors: tuple[fx.Node, ...], dim: int = 0) -> Made:
    if not isinstance(tensors, list | tuple):
        raise TypeError("a list that is known before the network runs is needed")
    return Concatenation(dim), tuple(tensors)


def _arithmetic(call: Callable[..., Tensor]) -> Callable[..., Made]:
    """For two tensors, or a tensor and a number."""

    def make(input: fx.Node | float, other: fx.Node | float, *, alpha: float = 1) -> Made:
        if isinstance(input, fx.Node) and isinstance(other, fx.Node):
            if call in (operator.add, operator.sub):
                return Sum(alpha if call is operator.add else -alpha), (input, other)
            if call is operator.mul:
                return Product(), (input, other)
        elif isinstance(input, fx.Node) and isinstance(other, int | float):
            return WithNumber(call, alpha * other), (input,)
        elif isinstance(other, fx.Node) and isinstance(input, int | float):
            return WithNumber(call, input, first=True), (other,)
        raise TypeError("sums, differences and products of two tensors, or of a tensor and a number, are accepted")

    return make


def _negative(input: fx.Node) -> Made:
    return WithNumber(operator.mul, -1), (input,)


# Name of a function -> module with the same arguments.
MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "leaky_relu": nn.LeakyReLU,
    "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid,
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "avg_pool3d": nn.AvgPool3d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "adaptive_max_pool3d": nn.AdaptiveMaxPool3d,
}
# Function or name of a method -> what makes the module that does the same, from the arguments of the function.
CALLS: dict[object, Callable[..., Made]] = {
    **{call: _calling(kind) for name, kind in MODULES.items() for call in spelled(name)},
    **dict.fromkeys(spelled("max_pool1d"), _pool(nn.MaxPool1d)),
    **dict.fromkeys(spelled("max_pool2d"), _pool(nn.MaxPool2d)),
    **dict.fromkeys(spelled("max_pool3d"), _pool(nn.MaxPool3d)),
    **dict.fromkeys(spelled("clamp", "clip"), _clamp),
    **dict.fromkeys(spelled("mean"), _mean),
    **dict.fromkeys(spelled("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys((operator.add, operator.iadd, *spelled("add")), _arithmetic(operator.add)),
    **dict.fromkeys((operator.sub, operator.isub, *spelled("sub", "subtract")), _arithmetic(operator.sub)),
    **dict.fromkeys((operator.mul, operator.imul, *spelled("mul", "multiply")), _arithmetic(operator.mul)),
    **dict.fromkeys((operator.truediv, operator.itruediv, *spelled("div", "divide")), _arithmetic(operator.truediv)),
    **dict.fromkeys((operator.neg, *spelled("neg", "negative")), _negative),
}
_ARRANGING = (
    *("flatten", "unflatten", "reshape", "permute", "transpose", "swapaxes", "swapdims", "movedim", "unsqueeze"),
    *("squeeze", "chunk", "split", "narrow", "select", "unbind", "channel_shuffle", "pixel_shuffle", "ravel"),
)
# Functions, and names of methods, that rearrange values.
ARRANGING_CALLS = {operator.getitem, "contiguous", *(c for c in spelled(*_ARRANGING) if not str(c).endswith("_"))}
