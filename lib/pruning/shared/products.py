"""Where a network multiplies two tensors that both depend on its input, and which of them is a gate for the other.

Squeeze-and-excitation computes a factor for each channel from the maps themselves, and scales the maps with it. The
layers that compute such a *gate* do not make the channels. A normalization is a product with a gate as well: one over
the deviation.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lib import running

PRODUCTS = ("mul", "mul_", "multiply", "multiply_")


@dataclass(frozen=True)
class Product:
    """A product of two factors that both depend on the input of the network.

    gate: number of the factor that is computed from the other one, 0 or 1; None where neither is.
    layers: names of the nearest layers that made the gate, without those that made what it scales.
    sizes: mean magnitude of each factor over the samples, float64, (1, ...).
    """

    gate: int | None
    layers: frozenset[str]
    sizes: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Origin:
    """What a tensor is computed from.

    number: of the call that made it.
    ancestors: the numbers of all calls that it depends on, its own among them, as bits of an int.
    layers: names of the layers nearest to it.
    """

    number: int
    ancestors: int
    layers: frozenset[str]


@torch.no_grad()
def products(model: nn.Module, images: Tensor, names: Iterable[str], *, batch_size: int = 100) -> list[Product | None]:
    """Run samples through a network, and list its multiplications and its norms over channels, in order.

    model: any network; it is left as it was.
    images: samples, (n, channels, height, width) or whatever else the model takes.
    names: of the layers that may make a gate.
    batch_size: samples in each pass, 1 or more. Default 100.

    Returns an entry for each multiplication, None if a factor does not depend on the input; and one for each layer,
    group or root-mean-square norm, whose gate, one over the deviation, is factor 1.
    Raises ValueError if the model does not take such images.

    >>> class Gated(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 3)
    ...
    ...     def forward(self, x):
    ...         x = 2 * self.first(x)
    ...         return x * self.second(x).sigmoid()
    >>> twice, gated = products(Gated(), torch.rand(4, 2), ["first", "second"])
    >>> twice, gated.gate, sorted(gated.layers), tuple(gated.sizes[1].shape)
    (None, 1, ['second'], (1, 3))
    """
    total: list[Product | None] = []
    hooks = [model.get_submodule(name).register_forward_hook(_made_by(name)) for name in names]
    try:
        with running.evaluating(model):
            for batch in images.split(batch_size):
                trace = _Trace(len(batch) / len(images))
                with trace:
                    running.logits(model, trace.begun(batch))
                total = [_sum(*pair) for pair in zip(total, trace.entries, strict=True)] if total else trace.entries
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _sum(one: Product | None, other: Product | None) -> Product | None:
    if one is None or other is None:
        return None
    first, second = (a + b for a, b in zip(one.sizes, other.sizes, strict=True))
    return replace(one, sizes=(first, second))


def _made_by(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if (origin := _origin(output)) is not None:
            output.origin = replace(origin, layers=frozenset([name]))

    return hook


def _origin(value: object) -> Origin | None:
    return getattr(value, "origin", None) if isinstance(value, Tensor) else None


class _Trace(TorchFunctionMode):
    """Records the origin of every tensor computed inside, and all products. ``share``: weight of the batch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.calls = share, 0
        self.entries: list[Product | None] = []

    def begun(self, images: Tensor) -> Tensor:
        images = images.view_as(images)  # the caller's tensor gets no origin
        images.origin = Origin(0, 1, frozenset())  # type: ignore[attr-defined]
        return images

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if name in PRODUCTS:
            self.entries.append(self._product(*leaves[:2]))
        elif name in SCALES:
            self.entries.append(self._norm(name, *args, **kwargs))
        origins = [origin for origin in map(_origin, leaves) if origin is not None]
        result = function(*args, **kwargs)
        if origins:
            self.calls += 1
            ancestors = 1 << self.calls
            for origin in origins:
                ancestors |= origin.ancestors
            made = Origin(self.calls, ancestors, frozenset().union(*(origin.layers for origin in origins)))
            for value in tree_leaves(result):
                same = any(value is leaf for leaf in leaves) and not name.endswith("_")
                if isinstance(value, Tensor) and not same:
                    value.origin = made  # type: ignore[attr-defined]
        return result

    def _product(self, *factors: Any) -> Product | None:
        origins = [_origin(factor) for factor in factors]
        one, other = origins
        if one is None or other is None:
            return None
        gates = [bool(b.ancestors >> a.number & 1) for a, b in ((other, one), (one, other))]
        gate = gates.index(True) if sum(gates) == 1 else None
        layers = frozenset() if gate is None else (one, other)[gate].layers - (one, other)[1 - gate].layers
        return Product(gate, layers, self._sizes(*factors))

    def _norm(self, name: str, values: Tensor, *args: Any, **kwargs: Any) -> Product | None:
        if _origin(values) is None:
            return None
        return Product(1, frozenset(), self._sizes(values, SCALES[name](values.double(), *args, **kwargs)))

    def _sizes(self, *factors: Tensor) -> tuple[Tensor, Tensor]:
        one, other = (self.share * (x.double().abs().mean(0, keepdim=True) if x.dim() else x) for x in factors)
        return one, other


def _layer_scale(x: Tensor, shape: tuple[int, ...], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    return (x.var(tuple(range(-len(shape), 0)), correction=0, keepdim=True) + eps).rsqrt()


def _group_scale(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    scale = (x.reshape(len(x), groups, -1).var(2, correction=0) + eps).rsqrt()
    return scale.repeat_interleave(x.shape[1] // groups, dim=1).reshape(*x.shape[:2], *[1] * (x.dim() - 2))


def _root_scale(x: Tensor, shape: tuple[int, ...], weight: Any = None, eps: float | None = None) -> Tensor:
    square = x.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
    return (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()


SCALES: dict[str, Callable[..., Tensor]] = {  # function of torch -> one over the deviation that it divides by
    "layer_norm": _layer_scale,
    "group_norm": _group_scale,
    "rms_norm": _root_scale,
}
