r"""Affine quantization: small integers q stand for the real numbers r = S (q - Z), so that products can be integer too.

.. math:: q = \mathrm{clip}\big(\mathrm{round}(r / S) + Z,\; q_{min},\; q_{max}\big), \qquad r \approx S\,(q - Z)

(jacob2018quantization, section 2.1). For values in [a, b], a <= 0 <= b, and B bits,
:math:`S = (b - a) / (2^B - 1)` and :math:`Z = \mathrm{round}(q_{min} - a / S)`: the range is nudged so that zero is on
the grid. Symmetric grids have Z = 0 and :math:`S = \max(-a, b) / (2^{B-1} - 1)`, without the lowest integer.
Activations have one S and Z for a tensor; weights one, or one for each output channel (krishnamoorthi2018whitepaper).
Rounding is to nearest, ties to even. The integers are signed: -128..127 for 8 bits.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lib import running
from lib.quantization.shared import graph
from lib.weights import CompressedWeight, Encoding, compress, layers

TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Grid:
    """The real numbers S (q - Z) for the integers q from low to high. S float32 and Z int64, of one broadcast shape."""

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    def quantize(self, r: Tensor) -> Tensor:
        """The integers, int64, that stand for the real numbers r."""
        return self._codes(r).long()

    def dequantize(self, q: Tensor) -> Tensor:
        """The real numbers, float32, that the integers q stand for."""
        exact = torch.float64 if self.high - self.low >= 2**16 else torch.float32  # float32 holds 24 bits
        return (q.to(exact) - self.zero).mul_(self.scale).float()

    def fake(self, r: Tensor) -> Tensor:
        """dequantize(quantize(r)) in r's type, bit for bit, with gradient 1 inside the range and 0 outside."""
        return StraightThrough.apply(r, self)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest number of the grid."""
        return tuple(self.dequantize(torch.full_like(self.zero, end)) for end in (self.low, self.high))

    def _codes(self, r: Tensor) -> Tensor:
        r = r.double() if self.high - self.low >= 2**16 else r
        return (r / self.scale).round_().add_(self.zero).clamp_(self.low, self.high)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, r: Tensor, grid: Grid) -> Tensor:
        if ctx.needs_input_grad[0]:
            lower, upper = grid.bounds()
            slack = 2**-20 * (upper - lower)  # S is rounded, and the value that set the range must not fall out of it
            ctx.save_for_backward((r >= lower - slack) & (r <= upper + slack))
        return grid.dequantize(grid._codes(r)).to(r.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def grid(lower: Tensor, upper: Tensor, *, bits: int = 8, symmetric: bool = False) -> Grid:
    """The grid of 2^bits integers for values between lower and upper, widened where zero is not between them.

    One grid for each entry of the two tensors. A range of no width gets S = 1. Raises ValueError for bits outside 1..32
    (2..32 where symmetric), and for ranges that are not finite or whose lower end is above the upper.
    """
    check_bits(bits, 2 if symmetric else 1, 32)
    lower, upper = torch.as_tensor(lower).double(), torch.as_tensor(upper).double()
    if not bool((torch.isfinite(lower) & torch.isfinite(upper) & (lower <= upper)).all()):
        raise ValueError(f"the range {lower.tolist()} to {upper.tolist()} is none: two finite, ordered ends are needed")
    lower, upper = lower.clamp(max=0), upper.clamp(min=0)
    high = 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    width = torch.maximum(-lower, upper) / high if symmetric else (upper - lower) / (high - low)
    scale = width.clamp(max=torch.finfo(torch.float32).max).float()
    scale = torch.where(scale > 0, scale, 1.0)
    zero = torch.zeros_like(lower) if symmetric else (low - lower / scale).round().clamp(low, high)
    return Grid(scale, zero.long(), low, high)


def check_bits(bits: int, least: int, most: int) -> None:
    """ValueError where bits is no whole number from least to most."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= most:
        raise ValueError(f"bits must be in {least}..{most}, not {bits}")


class AffineWeight(CompressedWeight):
    """A dense weight that is rounded to its grid at every use; the grid follows its least and greatest value.

    axis: the dimension that has a grid for each of its entries; None for one grid. Training moves the dense weight.
    """

    def __init__(self, bits: int = 8, *, axis: int | None = 0, symmetric: bool = True):
        super().__init__()
        check_bits(bits, 2 if symmetric else 1, 16)
        self.bits, self.axis, self.symmetric = bits, axis, symmetric

    def extra_repr(self) -> str:
        return f"bits={self.bits}, axis={self.axis}, symmetric={self.symmetric}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.detach().clone()

    def grid(self, weight: Tensor) -> Grid:
        """The grid of this weight, of shape (1, ..., channels, ..., 1)."""
        others = [d for d in range(weight.dim()) if d != self.axis]
        lower, upper = (end(weight.detach(), dim=others, keepdim=True) for end in (torch.amin, torch.amax))
        return grid(lower, upper, bits=self.bits, symmetric=self.symmetric)

    def forward(self, weight: Tensor) -> Tensor:
        return self.grid(weight).fake(weight)

    def encode(self, weight: Tensor) -> Encoding:
        found = self.grid(weight)
        tables = {"scale": found.scale.flatten(), "zero": (found.zero - found.low).flatten().float()}
        if self.symmetric:
            tables["zero"] = tables["zero"][:1]
        if self.axis:  # 0 goes without saying
            tables["axis"] = torch.tensor([float(self.axis)])
        return Encoding({"code": (found.quantize(weight) - found.low).flatten()}, tables)

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        axis = int(encoding.tables["axis"].item()) if "axis" in encoding.tables else 0
        wide = [-1 if d == axis else 1 for d in range(len(shape))]
        scale, zero = (encoding.tables[name].reshape(wide) for name in ("scale", "zero"))
        return scale * (encoding.symbols["code"].reshape(shape).float() - zero)


def quantize(model: nn.Module, *, bits: int = 8, per_channel: bool = True, symmetric: bool = True) -> nn.Module:
    """Store each weight as integers of so many bits, with one scale a layer, or one an output channel. In place.

    Activations stay as they are. Raises ValueError for bits outside 1..16 (2..16 where symmetric).
    """

    def form(name: str, layer: nn.Module) -> AffineWeight:
        axis = (1 if isinstance(layer, TRANSPOSED) else 0) if per_channel else None
        return AffineWeight(bits, axis=axis, symmetric=symmetric)

    return compress(model, form)


class Activation(nn.Module):
    """What flows through is rounded to a grid for the range that was observed. lower and upper: float32 scalars.

    observing: widen the range to that of each batch, or, where ``decay`` is a number, move it by a moving average,
    range = decay * range + (1 - decay) * batch. percentile: leave out so many of the extreme values on either side.
    """

    def __init__(self, bits: int = 8):
        super().__init__()
        check_bits(bits, 1, 32)
        self.bits, self.percentile, self.decay = bits, 100.0, None
        self.observing = self.quantizing = False
        self.register_buffer("lower", torch.tensor(torch.inf))
        self.register_buffer("upper", torch.tensor(-torch.inf))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"

    def grid(self) -> Grid:
        """The grid of the range; ValueError where nothing has been observed."""
        if self.lower > self.upper:
            raise ValueError("no image has gone through this network: calibrate it with at least one")
        return grid(self.lower, self.upper, bits=self.bits)

    def observe(self, r: Tensor) -> None:
        n, flat = r.numel(), r.detach().flatten().float()
        left = min(int(n * (1 - self.percentile / 100)), (n - 1) // 2)  # values left out at either end
        ends = [flat.kthvalue(k).values for k in (left + 1, n - left)] if left else flat.aminmax()
        if self.lower > self.upper:
            self.lower.copy_(ends[0]), self.upper.copy_(ends[1])
        elif self.decay is None:
            self.lower.clamp_(max=ends[0]), self.upper.clamp_(min=ends[1])
        else:
            self.lower.lerp_(ends[0], 1 - self.decay), self.upper.lerp_(ends[1], 1 - self.decay)

    def forward(self, r: Tensor) -> Tensor:
        if self.observing:
            self.observe(r)
        return self.grid().fake(r) if self.quantizing else r


def simulate(
    model: nn.Module,
    *,
    bits: int = 8,
    edge_bits: int = 8,
    per_channel: bool = True,
    symmetric: bool = True,
) -> fx.GraphModule:
    """A copy of the network that computes in float with the values an integer network would have; calibrate it next.

    Batch norm is folded into the layer before it. Weights have ``bits`` bits, and so has what flows between the layers;
    the network's input and output have ``edge_bits``. A layer and the ReLU that alone reads it have one grid.
    Raises ValueError for a network that cannot be traced or holds what the integer network cannot compute.
    """
    check_bits(bits, 2 if symmetric else 1, 16)
    network = graph.traced(model)
    graph.insert(network, lambda edge: Activation(edge_bits if edge else bits))
    return quantize(network, bits=bits, per_channel=per_channel, symmetric=symmetric)


def activations(network: nn.Module) -> list[Activation]:
    """Its activations, in order; ValueError where there are none."""
    found = [module for module in network.modules() if isinstance(module, Activation)]
    if not found:
        raise ValueError(f"{type(network).__name__} has no activation on a grid: accepted is what simulate returns")
    return found


@torch.no_grad()
def calibrate(
    network: nn.Module,
    images: Tensor,
    *,
    percentile: float = 100.0,
    decay: float | None = None,
    batch_size: int = 100,
) -> nn.Module:
    """Choose the range of each activation from images (n, channels, height, width); then quantize with it. In place.

    percentile: 100 takes the extremes, 99.9 leaves out a thousandth of the values on either side. decay: None takes the
    widest range of all batches, a number between 0 and 1 their moving average. Raises ValueError for no images.
    """
    if len(images) == 0:
        raise ValueError("there are no images to calibrate with: at least one is needed")
    if not 50 < percentile <= 100 or not (decay is None or 0 <= decay < 1):
        raise ValueError(f"percentile must be in (50, 100] and decay in [0, 1), not {percentile} and {decay}")
    if not torch.isfinite(images).all():
        raise ValueError("the images to calibrate with hold NaN or infinity: finite ones are needed")
    found, before = activations(network), copy.deepcopy(network.state_dict())
    for each in found:
        each.percentile, each.decay = percentile, decay
        each.observing, each.quantizing = True, False
        each.lower.fill_(torch.inf), each.upper.fill_(-torch.inf)
    try:
        with running.evaluating(network):
            for batch in images.split(batch_size):
                running.logits(network, batch)
    except ValueError:
        network.load_state_dict(before)
        raise
    finally:
        for each in found:
            each.observing, each.quantizing = False, True
    return network


@torch.no_grad()
def correct_biases(network: nn.Module, model: nn.Module, images: Tensor) -> nn.Module:
    """Take off each bias by how much rounding moves the mean of its layer, from the first layer to the last. In place.

    network: what :func:`simulate` made of ``model``, calibrated; images (n, channels, height, width). A layer without a
    bias stays as it is. Raises ValueError for no images.
    """
    if len(images) == 0:
        raise ValueError("there are no images to correct biases with: at least one is needed")
    names = [name for name, layer in layers(network) if layer.bias is not None]
    original = graph.traced(model)
    with running.captured(original, names) as exact, running.evaluating(network):
        running.logits(original, images)
        for name in names:
            with running.captured(network, [name]) as rounded:
                running.logits(network, images)
            gap = exact.outputs[name] - rounded.outputs[name]
            layer = network.get_submodule(name)
            outputs = gap.dim() - 1 if isinstance(layer, nn.Linear) else 1
            layer.bias += gap.mean([d for d in range(gap.dim()) if d != outputs])
    return network
