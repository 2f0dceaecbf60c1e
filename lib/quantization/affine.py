r"""Affine quantization: small integers q represent the real numbers r = S (q - Z), so products can be integer too.

.. math:: q = \mathrm{clip}\big(\mathrm{round}(r / S) + Z,\; q_{min},\; q_{max}\big), \qquad r \approx S\,(q - Z)

(jacob2018quantization, section 2.1). For values in [a, b], a <= 0 <= b, and B bits,
:math:`S = (b - a) / (2^B - 1)` and :math:`Z = \mathrm{round}(q_{min} - a / S)`: the range is nudged so that zero is on
the grid. Symmetric grids have Z = 0 and :math:`S = \max(-a, b) / (2^{B-1} - 1)`, without the lowest integer.
Activations have one S and Z for a tensor; weights one, or one for each output channel (krishnamoorthi2018whitepaper).
Rounding is to nearest, ties to even. The integers are signed: -128..127 for 8 bits.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lib import running
from lib.quantization.shared import graph
from lib.weights import CompressedWeight, Encoding, compress, compressed_form, layers

TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class Grid:
    """The real numbers S (q - Z) for the integers q from low to high.

    scale: S, float32, above 0; a scalar, or of a shape that broadcasts against what is quantized.
    zero: Z, int64, of the same shape.
    low: the least integer.
    high: the greatest integer.

    >>> signed = grid(-1.0, 1.0, bits=2, symmetric=True)  # -1, 0 and 1
    >>> signed.quantize(torch.tensor([-3.0, 0.2, 0.6])).tolist()
    [-1, 0, 1]
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    def quantize(self, r: Tensor) -> Tensor:
        """Round the real numbers r to the grid; return the integers, int64."""
        return self._codes(r).long()

    # method
    def dequantize(self, q: Tensor) -> Tensor:
        """Return the real numbers, float32, that the integers q represent."""
        exact = torch.float64 if self.high - self.low >= 2**16 else torch.float32  # float32 holds 24 bits
        return (q.to(exact) - self.zero).mul_(self.scale).float()

    # end of method

    def fake(self, r: Tensor) -> Tensor:
        """Round r to the grid and keep r's type; the gradient is 1 inside the range and 0 outside."""
        return StraightThrough.apply(r, self)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest number of the grid."""
        lower, upper = (self.dequantize(torch.full_like(self.zero, end)) for end in (self.low, self.high))
        return lower, upper

    # method
    def _codes(self, r: Tensor) -> Tensor:
        r = r.double() if self.high - self.low >= 2**16 else r
        return (r / self.scale).round_().add_(self.zero).clamp_(self.low, self.high)

    # end of method


class StraightThrough(torch.autograd.Function):
    """Rounds to a grid; its gradient is 1 inside the range and 0 outside."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, grid: Grid) -> Tensor:
        if ctx.needs_input_grad[0]:
            lower, upper = grid.bounds()
            slack = 2**-20 * (upper - lower)  # S is rounded, and the value that set the range must not fall out of it
            ctx.save_for_backward((r >= lower - slack) & (r <= upper + slack))
        return grid.dequantize(grid._codes(r)).to(r.dtype)

    # method
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None

    # end of method


def grid(lower: Tensor | float, upper: Tensor | float, *, bits: int = 8, symmetric: bool = False) -> Grid:
    """Choose the grid of 2^bits integers for a range of values.

    lower: least value, a number or a tensor with one entry for each grid; taken as 0 where it is above.
    upper: greatest value, of the same shape; taken as 0 where it is below.
    bits: 1 to 32, or 2 to 32 where symmetric.
    symmetric: whether Z is 0 and the lowest integer is left out.

    Returns the grid; a range of no width gets S = 1.
    Raises ValueError for other bits, and for ranges that are not finite or whose lower end is above the upper.

    >>> four = grid(-1.0, 2.0, bits=2)  # the numbers -1, 0, 1 and 2
    >>> four.scale.item(), four.zero.item(), four.low, four.high
    (1.0, -1, -2, 1)
    """
    check_bits(bits, 2 if symmetric else 1, 32)
    lower, upper = torch.as_tensor(lower).double(), torch.as_tensor(upper).double()
    if not bool((torch.isfinite(lower) & torch.isfinite(upper) & (lower <= upper)).all()):
        raise ValueError(f"the range {lower.tolist()} to {upper.tolist()} is none: two finite, ordered ends are needed")
    # method
    lower, upper = lower.clamp(max=0), upper.clamp(min=0)
    high = 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    width = torch.maximum(-lower, upper) / high if symmetric else (upper - lower) / (high - low)
    scale = width.clamp(max=torch.finfo(torch.float32).max).float()
    scale = torch.where(scale > 0, scale, 1.0)
    zero = torch.zeros_like(lower) if symmetric else (low - lower / scale).round().clamp(low, high)
    return Grid(scale, zero.long(), low, high)
    # end of method


def check_bits(bits: int, least: int, most: int) -> None:
    """Raise ValueError where ``bits`` is not a whole number from ``least`` to ``most``.

    >>> check_bits(8, 1, 16)
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= most:
        raise ValueError(f"bits must be in {least}..{most}, not {bits}")


class AffineWeight(CompressedWeight):
    """A dense weight that is rounded to its grid at every use; the grid follows its least and greatest value.

    Training moves the dense weight.

    bits: 1 to 16, or 2 to 16 where symmetric.
    axis: the dimension that has a grid for each of its entries; None for one grid.
    symmetric: whether Z is 0.
    """

    def __init__(self, bits: int = 8, *, axis: int | None = 0, symmetric: bool = True) -> None:
        super().__init__()
        check_bits(bits, 2 if symmetric else 1, 16)
        self.bits, self.axis, self.symmetric = bits, axis, symmetric

    def extra_repr(self) -> str:
        return f"bits={self.bits}, axis={self.axis}, symmetric={self.symmetric}"

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.detach().clone()

    def grid(self, weight: Tensor) -> Grid:
        """Return the grid of this weight, of shape (1, ..., channels, ..., 1)."""
        others = [d for d in range(weight.dim()) if d != self.axis]
        lower, upper = (end(weight.detach(), dim=others, keepdim=True) for end in (torch.amin, torch.amax))
        return grid(lower, upper, bits=self.bits, symmetric=self.symmetric)

    def forward(self, weight: Tensor) -> Tensor:
        return self.grid(weight).fake(weight)

    def encode(self, weight: Tensor) -> Encoding:
        grid = self.grid(weight)
        tables = {"scale": grid.scale.flatten(), "zero": (grid.zero - grid.low).flatten().float()}
        if self.symmetric:
            tables["zero"] = tables["zero"][:1]
        if self.axis:  # 0 goes without saying
            tables["axis"] = torch.tensor([float(self.axis)])
        return Encoding({"code": grid.quantize(weight).sub_(grid.low).flatten()}, tables)

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        (axis,) = encoding.whole("axis", 1) if "axis" in encoding.tables else [0]
        wide = [-1 if d == axis else 1 for d in range(len(shape))]
        scale, zero = (encoding.tables[name].reshape(wide) for name in ("scale", "zero"))
        # In place, so that no table of another length can make it larger than the weight.
        return encoding.symbols["code"].reshape(shape).float().sub_(zero).mul_(scale)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return {"code": shape.numel()}, {"scale": max(shape), "zero": max(shape), "axis": 1}


def form_on_grid(layer: nn.Module, name: str) -> tuple[AffineWeight, Tensor]:
    """Look up how a layer's weight is rounded.

    layer: a layer of what :func:`quantize` or :func:`simulate` returned.
    name: what to call it in an error.

    Returns the form, which knows the grid, and the weight before it is rounded.
    Raises ValueError where the weight is not on a grid.

    >>> form, weight = form_on_grid(quantize(nn.Linear(3, 2), bits=4), "fc")
    >>> form, weight.shape
    (AffineWeight(bits=4, axis=0, symmetric=True), torch.Size([2, 3]))
    """
    form, stored = compressed_form(layer) or (None, ())
    if not isinstance(form, AffineWeight):
        raise ValueError(f"the weight of layer {name!r} is not on a grid: accepted is what simulate returns")
    return form, stored[0]


def quantize(model: nn.Module, *, bits: int = 8, per_channel: bool = True, symmetric: bool = True) -> nn.Module:
    """Store each weight as integers, with one scale for each output channel or one for the layer. In place.

    Activations stay as they are.

    model: any network.
    bits: of the integers, 1 to 16, or 2 to 16 where symmetric.
    per_channel: whether each output channel has a scale of its own.
    symmetric: whether Z is 0.

    Returns the model. Raises ValueError for other bits, or a model without a layer that has a weight
    (krishnamoorthi2018whitepaper, section 3).

    >>> layer = quantize(nn.Linear(300, 2), bits=3)
    >>> [len(row.unique()) for row in layer.weight]  # -3 to 3 times the scale of the row
    [7, 7]
    """

    def form(name: str, layer: object) -> AffineWeight:
        axis = (1 if isinstance(layer, TRANSPOSED) else 0) if per_channel else None
        return AffineWeight(bits, axis=axis, symmetric=symmetric)

    return compress(model, form)


class Activation(nn.Module):
    """What flows through is rounded to a grid for the range that was observed.

    While ``observing``, the range is widened to that of each batch, or, where ``decay`` is a number, moved by a moving
    average, range = decay · range + (1 - decay) · batch. ``percentile`` leaves out extreme values: 99.9 leaves out a
    thousandth of them on either side. While ``quantizing``, what flows through is rounded. ``lower`` and ``upper``,
    float32 scalars, are the range.

    bits: of the grid, 1 to 32.
    """

    lower: Tensor
    upper: Tensor
    decay: float | None

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        check_bits(bits, 1, 32)
        self.bits, self.percentile, self.decay = bits, 100.0, None
        self.observing = self.quantizing = False
        self.register_buffer("lower", torch.tensor(torch.inf))
        self.register_buffer("upper", torch.tensor(-torch.inf))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"

    def grid(self) -> Grid:
        """Return the grid of the range; raise ValueError where nothing has been observed."""
        if self.lower > self.upper:
            raise ValueError("no image has gone through this network: calibrate it with at least one")
        return grid(self.lower, self.upper, bits=self.bits)

    def observe(self, r: Tensor) -> None:
        """Move the range by the values of a batch."""
        n, flat = r.numel(), r.detach().flatten().float()
        left = min(int(n * (1 - self.percentile / 100)), (n - 1) // 2)  # values left out at either end
        least, most = [flat.kthvalue(k).values for k in (left + 1, n - left)] if left else flat.aminmax()
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
        return self.grid().fake(r) if self.quantizing else r


def simulate(
    model: nn.Module,
    *,
    bits: int = 8,
    edge_bits: int = 8,
    per_channel: bool = True,
    symmetric: bool = True,
) -> fx.GraphModule:
    """Copy a network into one that computes in float with the values an integer network would have. Calibrate it next.

    Batch norm is folded into the layer before it. A layer and the ReLU that alone reads it have one grid.

    model: a network of linear and convolution layers, batch norm right after them, ReLU, ReLU6, max and average
        pooling, flatten, dropout and sums of two; it is left as it was.
    bits: of the weights and of what flows between the layers, 1 to 16, or 2 to 16 where symmetric.
    edge_bits: of the network's input and output, 1 to 32.
    per_channel: whether each output channel of a layer has a scale of its own.
    symmetric: whether the weights' grids have Z = 0.

    Returns the simulated network.
    Raises ValueError for other bits, and for a network that cannot be traced or does something else
    (jacob2018quantization, section 3).

    >>> network = simulate(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), bits=4)
    >>> len(activations(network))  # of the input and of both layers
    3
    """
    check_bits(bits, 2 if symmetric else 1, 16)
    network = graph.traced(model)
    graph.insert(network, lambda edge: Activation(edge_bits if edge else bits))
    quantize(network, bits=bits, per_channel=per_channel, symmetric=symmetric)
    return network


def activations(network: nn.Module) -> list[Activation]:
    """List the activations on a grid of a network, in order.

    network: what :func:`simulate` returned.

    Raises ValueError where it has none.
    """
    modules = [module for module in network.modules() if isinstance(module, Activation)]
    if not modules:
        raise ValueError(f"{type(network).__name__} has no activation on a grid: accepted is what simulate returns")
    return modules


@torch.no_grad()
def calibrate(
    network: nn.Module,
    images: Tensor,
    *,
    percentile: float = 100.0,
    decay: float | None = None,
    batch_size: int = 100,
) -> nn.Module:
    """Choose the range of each activation from images, and round to it from now on. In place.

    network: what :func:`simulate` returned.
    images: (n, channels, height, width), or what else the network takes; one or more, finite.
    percentile: above 50, up to 100: 100 takes the extremes, 99.9 leaves out a thousandth of the values on either side.
    decay: None takes the widest range of all batches; a number in [0, 1) takes their moving average.
    batch_size: images at once, 1 or more.

    Returns the network. Raises ValueError for no images or images that are not finite or do not fit, and for arguments
    that are not accepted; the ranges stay as they were then.

    >>> network = calibrate(simulate(nn.Linear(2, 1)), torch.tensor([[0.0, 3.0], [1.0, -1.0]]))
    >>> [end.item() for end in (activations(network)[0].lower, activations(network)[0].upper)]
    [-1.0, 3.0]
    """
    if len(images) == 0:
        raise ValueError("there are no images to calibrate with: at least one is needed")
    if not 50 < percentile <= 100 or not (decay is None or 0 <= decay < 1):
        raise ValueError(f"percentile must be in (50, 100] and decay in [0, 1), not {percentile} and {decay}")
    if not torch.isfinite(images).all():
        raise ValueError("the images to calibrate with hold NaN or infinity: finite ones are needed")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    calibrated, before = activations(network), copy.deepcopy(network.state_dict())
    for activation in calibrated:
        activation.percentile, activation.decay = percentile, decay
        activation.observing, activation.quantizing = True, False
        activation.lower.fill_(torch.inf)
        activation.upper.fill_(-torch.inf)
    try:
        with running.evaluating(network):
            for batch in images.split(batch_size):
                running.logits(network, batch)
    except ValueError:
        network.load_state_dict(before)
        raise
    finally:
        for activation in calibrated:
            activation.observing, activation.quantizing = False, True
    return network


@torch.no_grad()
def correct_biases(network: nn.Module, model: nn.Module, images: Tensor) -> nn.Module:
    """Subtract from each bias the shift that rounding causes in the layer's mean output, first layer first. In place.

    network: what :func:`simulate` made of ``model``, calibrated; layers without a bias stay as they are.
    model: the network in float; it is left as it was.
    images: (n, channels, height, width), over which the means are taken; one or more.

    Returns the network. Raises ValueError for no images.

    >>> model, images = nn.Linear(5, 3), torch.rand(10, 5)
    >>> network = correct_biases(calibrate(simulate(model, bits=2), images), model, images)
    >>> network.get_submodule("0").bias.shape
    torch.Size([3])
    """
    if len(images) == 0:
        raise ValueError("there are no images to correct biases with: at least one is needed")
    biased = [(name, layer, layer.bias) for name, layer in layers(network) if layer.bias is not None]
    original = graph.traced(model)
    with running.captured(original, [name for name, *_ in biased]) as exact, running.evaluating(network):
        running.logits(original, images)
        for name, layer, bias in biased:
            with running.captured(network, [name]) as rounded:
                running.logits(network, images)
            gap = exact.outputs[name] - rounded.outputs[name]
            outputs = gap.dim() - 1 if isinstance(layer, nn.Linear) else 1
            bias.add_(gap.mean([d for d in range(gap.dim()) if d != outputs]))
    return network
