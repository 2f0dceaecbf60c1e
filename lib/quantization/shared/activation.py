"""Activations that are rounded to a grid, whose range is observed on data."""

import torch
from torch import Tensor, nn

from lib.quantization.shared.fixed_types import FixedTypes
from lib.quantization.shared.grids import Grid, checked_bits, grid


class Activation(FixedTypes):
    """A module that rounds its input to a grid for the observed range; until a range is observed, nothing is rounded.

    While ``observing``, the range grows to cover each batch, or, if ``decay`` is a number, follows a moving average,
    range = decay · range + (1 - decay) · batch. ``percentile`` leaves out extreme values: 99.9 leaves out a thousandth
    of the values on either side. While ``quantizing`` is False, nothing is rounded. The range is the state: ``lower``
    and ``upper``, float32 scalars in buffers named after the bits, so a state saved with other bits does not load.

    bits: of the grid, 1 to 32.

    >>> activation = Activation(bits=2)
    >>> activation.observe(torch.tensor([-1.0, 2.0]))
    >>> activation(torch.tensor([0.4, 0.6, 9.0])).tolist()
    [0.0, 1.0, 2.0]
    """

    decay: float | None

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits, self.percentile, self.decay = checked_bits(bits, 1, 32), 100.0, None
        self.observing, self.quantizing = False, True
        self.register_buffer(f"bits{self.bits}_lower", torch.tensor(torch.inf))
        self.register_buffer(f"bits{self.bits}_upper", torch.tensor(-torch.inf))

    @property
    def lower(self) -> Tensor:
        return self.get_buffer(f"bits{self.bits}_lower")

    @property
    def upper(self) -> Tensor:
        return self.get_buffer(f"bits{self.bits}_upper")

    def extra_repr(self) -> str:
        return f"bits={self.bits}"

    def grid(self) -> Grid:
        """Return the grid of the range; raise ValueError if nothing has been observed."""
        if self.lower > self.upper:
            raise ValueError("no image has gone through this network: calibrate it with at least one")
        return grid(self.lower, self.upper, bits=self.bits)

    def observe(self, r: Tensor) -> None:
        """Update the range with the values of a batch."""
        n, flat = r.numel(), r.detach().flatten().float()
        left = min(int(n * (1 - self.percentile / 100)), (n - 1) // 2)  # values left out at either end
        least, most = [flat.kthvalue(k).values for k in (left + 1, n - left)] if left else flat.aminmax()
        least, most = (end.to(self.lower.device) for end in (least, most))
        if self.lower > self.upper:
            self.lower.copy_(least)
            self.upper.copy_(most)
        elif self.decay is None:
            self.lower.clamp_(max=least)
            self.upper.clamp_(min=most)
        else:
            self.lower.lerp_(least, 1 - self.decay)
            self.upper.lerp_(most, 1 - self.decay)

    def forward(self, r: Tensor) -> Tensor:
        if self.observing:
            self.observe(r)
        return self.grid().fake(r) if self.quantizing and not self.lower > self.upper else r


def activations(network: nn.Module) -> list[Activation]:
    """List a network's activations that are on a grid, in order.

    network: what :func:`simulate` returned.

    Raises ValueError if it has none.
    """
    modules = [module for module in network.modules() if isinstance(module, Activation)]
    if not modules:
        raise ValueError(f"{type(network).__name__} has no activation on a grid: accepted is what simulate returns")
    return modules


def check_precise(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a parameter's type has too few digits to hold the values of a grid.

    name: of the parameter.
    tensor: the parameter.

    >>> check_precise("fc.weight", torch.zeros(1, dtype=torch.float64))
    """
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} is {tensor.dtype}: accepted are float32 and float64, so call .float() first")
