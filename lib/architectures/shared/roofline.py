r"""The roofline: how fast a convolution can be at best, by its multiply-adds and by the bytes that it must move.

On a core with a peak of P multiply-adds and B bytes a second, a layer of W multiply-adds that moves Q bytes takes

.. math:: t \ge \max\Big(\frac{W}{P}, \frac{Q}{B}\Big) ,

and which of the two is larger says what limits it. A depthwise convolution has few multiply-adds for each byte, so
memory limits it, and it is slower than its multiply-adds promise.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from lib import measure
from lib.arguments import check_sizes


@dataclass(frozen=True)
class Peaks:
    """What one core can do at most.

    multiply_adds: billions a second, of float32.
    memory: billions of bytes a second, read and written.

    Raises ValueError for numbers that are not finite and above 0.

    >>> Peaks(multiply_adds=60, memory=12).ridge  # layers of fewer multiply-adds for each byte are limited by memory
    5.0
    """

    multiply_adds: float
    memory: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, not {value!r}")

    @property
    def ridge(self) -> float:
        """Multiply-adds for each byte at which both limits are equal."""
        return self.multiply_adds / self.memory


@dataclass(frozen=True)
class Demands:
    """What a layer takes for one call.

    multiply_adds: of all images of the call.
    bytes: of its input, weight, bias and output, each moved once.
    """

    multiply_adds: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Multiply-adds for each byte."""
        return self.multiply_adds / self.bytes


def peaks(*, runs: int = 21, side: int = 1024, megabytes: float = 256) -> Peaks:
    """Measure what one core of this machine can do, with torch on one thread.

    runs: timings of which the median counts, 20 or more; default 21.
    side: of the float32 matrices (side, side) whose product gives the multiply-adds a second; default 1024.
    megabytes: of the array that is copied, above 0; default 256, which is more than the caches hold. With fewer, this
        measures the speed of a cache, which applies to layers whose data stay in it.

    A copied byte counts twice, once read and once written. It takes about three seconds.
    Raises ValueError for numbers other than these.

    >>> measured = peaks(side=64, megabytes=1)
    >>> measured.multiply_adds > 0 and measured.memory > 0
    True
    """
    check_sizes({"side": side})
    if not 0 < megabytes < float("inf"):
        raise ValueError(f"megabytes must be a finite number above 0, not {megabytes!r}")
    a, b = torch.ones(2, side, side)
    product = torch.empty(side, side)
    # one after the other: in turns, each copy would empty the caches before the product
    times = measure.latency_ms({"product": lambda: torch.mm(a, b, out=product)}, runs=runs)
    source = torch.ones(max(1, int(megabytes * 2**18)))
    target = torch.ones_like(source)
    times |= measure.latency_ms({"copy": lambda: target.copy_(source)}, runs=runs)
    # milliseconds to billions a second: 1e3 / 1e9
    return Peaks(
        multiply_adds=side**3 / times["product"].median / 1e6,
        memory=2 * 4 * source.numel() / times["copy"].median / 1e6,
    )


def demands(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, shape: tuple[int, ...], *, batch: int = 1) -> Demands:
    """Count the multiply-adds of a convolution, and the fewest bytes that it can move.

    layer: a convolution of float32, dense, grouped or depthwise; it is not changed and does not run.
    shape: of one input, without the batch: (channels, height, width).
    batch: images of one call, 1 or more; default 1.

    Raises ValueError for another layer or type, and for an input that the layer does not take.

    >>> dense, depthwise = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1, groups=64)
    >>> [round(demands(layer, (64, 56, 56)).intensity, 1) for layer in (dense, depthwise)]
    [65.9, 1.1]
    """
    check_sizes({"batch": batch, **{f"shape[{i}]": size for i, size in enumerate(shape)}})
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.weight.dtype != torch.float32:
        what = f"{type(layer).__name__} of {layer.weight.dtype}" if hasattr(layer, "weight") else type(layer).__name__
        raise ValueError(f"{what}: the roofline only takes convolutions (Conv1d, Conv2d or Conv3d) of float32")
    if len(shape) != layer.weight.dim() - 1:  # torch would take the batch for the channels
        raise ValueError(f"{layer} takes images of {layer.weight.dim() - 1} dimensions without the batch, not {shape}")
    try:
        with torch.no_grad():
            images = torch.empty(batch, *shape, device="meta")
            output = copy.deepcopy(layer).to("meta")(images)  # shapes alone: nothing is computed
    except RuntimeError as error:
        raise ValueError(f"{layer} does not take images of shape {shape}: {error}") from error
    # method
    work = output.numel() * layer.weight[0].numel()
    moved = images.numel() + layer.weight.numel() + output.numel()
    # end of method
    return Demands(work, 4 * (moved + (0 if layer.bias is None else layer.bias.numel())))


def bound_ms(demands: Demands, peaks: Peaks) -> float:
    """Return the milliseconds that a call takes at least.

    demands: of the layer.
    peaks: of the core. If they are those of the main memory, a layer whose data are already in a cache can be faster.

    >>> bound_ms(Demands(multiply_adds=6_000_000, bytes=60_000), Peaks(multiply_adds=60, memory=12))
    0.1
    """
    # max(W / P, Q / B)
    return max(demands.multiply_adds / peaks.multiply_adds, demands.bytes / peaks.memory) / 1e6


def limit(demands: Demands, peaks: Peaks) -> Literal["multiply-adds", "memory"]:
    """Say which of the two limits a layer.

    demands: of the layer.
    peaks: of the core.

    >>> limit(Demands(multiply_adds=6_000_000, bytes=6_000_000), Peaks(multiply_adds=60, memory=12))
    'memory'
    """
    return "memory" if demands.intensity < peaks.ridge else "multiply-adds"
