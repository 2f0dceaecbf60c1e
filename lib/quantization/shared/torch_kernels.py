"""The network that :func:`lib.quantization.affine.simulate` imitates, on torch's own 8-bit integer kernels.

They use the processor's instructions for such products, which makes them fast. The same network in integers alone, by
TensorFlow Lite's rules, is in :mod:`lib.quantization.shared.integer_network`.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from lib.quantization.affine import Grid, form_on_grid
from lib.quantization.shared import graph, integer_network


def kernels_available() -> bool:
    """Say whether this torch multiplies 8-bit integers exactly on this processor."""
    return exact_engine(torch.backends.quantized.engine) is not None


@cache
def exact_engine(preferred: str) -> str | None:
    """Find an engine of torch for 8-bit kernels whose sums are exact on this processor.

    Without 8-bit dot products (VNNI) most engines add two products in 16 bits, where large sums are cut off: the
    answers would be wrong, and nothing would say so.

    preferred: the engine to try first.

    Returns its name, or None where no engine is exact.
    """
    supported = torch.backends.quantized.supported_engines
    engines = [preferred, *(name for name in ("fbgemm", "onednn", "x86", "qnnpack") if name in supported)]
    return next((name for name in engines if name != "none" and adds_exactly(name)), None)


# (outputs, inputs) of a linear layer, and weight's shape and groups of convolutions: each has kernels of its own.
PROBES = [((6, 64), 1), ((24, 16, 3, 3), 1), ((24, 3, 3, 3), 1), ((24, 64, 1, 1), 1), ((24, 1, 3, 3), 24)]


def adds_exactly(engine: str) -> bool:
    """Say whether an engine adds the largest products, 255 times 127 or -127, like whole numbers.

    engine: its name in torch; one that is not supported adds nothing exactly.
    """
    try:
        with _engine(engine), _quiet():
            return all(_exact(shape, groups) for shape, groups in PROBES)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def _exact(shape: tuple[int, ...], groups: int) -> bool:
    """One layer of which a third of the outputs have all weights 127, a third -127, and a third both in turn."""
    size = math.prod(shape[1:])
    signs = torch.stack([torch.ones(size), -torch.ones(size), 1 - 2.0 * (torch.arange(size) % 2)])
    codes = 127 * signs.repeat(shape[0] // 3, 1)
    # With sums in units of 255 size, the outputs are 128 + 127, 128 - 127 and about 128.
    expected = 128 + (codes.sum(1) / size).round()
    weight, scale, zero = _packed_weight(codes.reshape(shape), torch.ones(shape[0])), 255.0 * size, 128
    x = torch.full((4, shape[1] * groups, *shape[2:]), 255.0)
    x = torch.quantize_per_tensor(x, 1.0, 0, torch.quint8)
    if len(shape) == 2:
        outputs = torch.ops.quantized.linear(x, torch.ops.quantized.linear_prepack(weight, None), scale, zero)
    else:
        packed = torch.ops.quantized.conv2d_prepack(weight, None, [1, 1], [0, 0], [1, 1], groups)
        outputs = torch.ops.quantized.conv2d.new(x, packed, scale, zero)
    return bool((outputs.int_repr().reshape(4, -1) == expected).all())


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Inside, weights are packed for that engine's kernels, and they stay so."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def processor() -> dict[str, str]:
    """Describe this processor's instructions for 8-bit products, as far as it tells, and what uses them here."""
    description = Path("/proc/cpuinfo")
    flags = set(description.read_text("utf-8", "replace").split()) if description.exists() else set()
    dots = ", ".join(sorted(flags & {"avx512_vnni", "avx_vnni", "asimddp"})) or ("no" if flags else "not known")
    engine = exact_engine(torch.backends.quantized.engine) or "none that is exact: int32 without kernels"
    vectors = torch.backends.cpu.get_cpu_capability()
    return {"vector instructions": vectors, "8-bit dot products": dots, "kernels for 8 bits": engine}


def convert_to_kernels(simulated: fx.GraphModule) -> fx.GraphModule:
    """Convert a simulated network to torch's 8-bit kernels; images and logits are float.

    Activations are uint8, weights int8. The kernels are those of an engine whose sums are exact here, see
    :func:`exact_engine`. They multiply by M in float, so one value in many may differ by one step from the integer
    network's.

    simulated: what :func:`lib.quantization.affine.simulate` returned with 8 bits, calibrated; it is left as it was.

    Returns the new network.
    Raises ValueError where no engine is exact, for layers other than linear ones and 2-d convolutions with a border of
    zeros, and for activations or weights of other than 8 bits.
    """
    engine = exact_engine(torch.backends.quantized.engine)
    if engine is None:
        raise ValueError("this torch has no quantized kernels that add exactly on this processor: use convert")
    parts: dict[str, Callable[..., nn.Module | None]] = {
        "quantize": KernelQuantize,
        "layer": KernelLayer,
        "clamp": _own,
        "sum": KernelSum,
        "mean": KernelMean,
        "dequantize": KernelDequantize,
    }
    with _engine(engine):
        return integer_network.lowered(simulated, parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the one warning that quantized tensors are deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*", category=UserWarning)
        yield


def _packed_weight(codes: Tensor, scale: Tensor) -> Tensor:
    zeros = torch.zeros(len(codes), dtype=torch.int64)
    return torch.quantize_per_channel(
        codes * scale.reshape(-1, *[1] * (codes.dim() - 1)), scale.double(), zeros, 0, torch.qint8
    )


def _uint8(grid: Grid) -> tuple[float, int]:
    if grid.high - grid.low != 255:
        raise ValueError(f"the kernels take activations of 8 bits, not of {(grid.high - grid.low).bit_length()}")
    return grid.scale.item(), int(grid.zero.item()) - grid.low


class KernelQuantize(nn.Module):
    """Turns float into uint8.

    grid: of the numbers.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.scale, self.zero = _uint8(grid)

    def forward(self, r: Tensor) -> Tensor:
        return torch.quantize_per_tensor(r, self.scale, self.zero, torch.quint8)


class KernelDequantize(nn.Module):
    """Turns uint8 into float.

    grid: of the numbers; the tensors carry their own.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()

    def forward(self, q: Tensor) -> Tensor:
        return q.dequantize()


class KernelLayer(nn.Module):
    """A linear layer or a 2-d convolution.

    name: of the layer, for errors.
    layer: of a simulated network.
    before: grid of its input.
    after: grid of its output.
    """

    def __init__(self, name: str, layer: graph.LAYERS, before: Grid, after: Grid) -> None:
        super().__init__()
        form, weight = form_on_grid(layer, name)
        grid = form.grid(weight)
        plain = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        )
        if not plain or form.bits > 8 or not form.symmetric:
            raise ValueError(
                f"layer {name!r}: the kernels take linear layers and 2-d convolutions with a border of zeros,"
                " and symmetric weights of at most 8 bits"
            )
        _uint8(before)
        self.scale, self.zero = _uint8(after)
        with _quiet():
            packed = _packed_weight(grid.quantize(weight).float(), grid.scale.flatten().expand(len(weight)))
            bias = None if layer.bias is None else layer.bias.detach()
            if isinstance(layer, nn.Linear):
                self.packed = torch.ops.quantized.linear_prepack(packed, bias)
                self.run = torch.ops.quantized.linear.default
            elif isinstance(layer, nn.Conv2d):
                place = (layer.stride, layer.padding, layer.dilation, layer.groups)
                self.packed = torch.ops.quantized.conv2d_prepack(packed, bias, *place)
                self.run = torch.ops.quantized.conv2d.new  # the overload without stride and padding

    def forward(self, q: Tensor) -> Tensor:
        return self.run(q, self.packed, self.scale, self.zero)


class KernelSum(nn.Module):
    """a + b.

    a: grid of one side.
    b: grid of the other.
    after: grid of the sum.
    """

    def __init__(self, a: Grid, b: Grid, after: Grid) -> None:
        super().__init__()
        self.scale, self.zero = _uint8(after)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.quantized.add(a, b, self.scale, self.zero)


class KernelMean(nn.Module):
    """Average pooling. The kernel keeps the grid of its input, so the mean is rounded to its own grid afterwards.

    layer: an ``nn.AvgPool2d`` or ``nn.AdaptiveAvgPool2d``.
    before: grid of its input.
    after: grid of its output.
    """

    def __init__(self, layer: nn.Module, before: Grid, after: Grid) -> None:
        super().__init__()
        self.layer, (self.scale, self.zero) = layer, _uint8(after)

    def forward(self, q: Tensor) -> Tensor:
        return torch.quantize_per_tensor(self.layer(q.dequantize()), self.scale, self.zero, torch.quint8)


def _own(layer: nn.Module, grid: Grid, fused: bool) -> nn.Module | None:
    """torch's ReLU and ReLU6 take quantized tensors; right after a layer, the range of its uint8 does their work."""
    return None if fused and grid.zero == grid.low else layer
