"""The integer network that :func:`lib.quantization.affine.simulate` imitates, on torch's own 8-bit kernels.

These are fast because they use the processor's instructions for 8-bit products. The integer-only network by TensorFlow
Lite's rules is in :mod:`lib.quantization.shared.integer_network`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from torch import fx
from torch.nn import functional

from lib.quantization.shared import kernel_operations as parts
from lib.quantization.shared.lowering import Parts, lowered

Place = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]  # stride, padding, dilation and groups
PLAIN = (1, 1), (0, 0), (1, 1)
# Layers that are tried: shape of the weight, and place (None for a linear layer). Each has kernels of its own.
PROBES: list[tuple[tuple[int, ...], Place | None]] = [
    ((6, 64), None),
    ((24, 16, 3, 3), (*PLAIN, 1)),
    ((24, 3, 3, 3), (*PLAIN, 1)),
    ((24, 64, 1, 1), (*PLAIN, 1)),
    ((24, 8, 3, 3), (*PLAIN, 3)),
    ((24, 1, 3, 3), (*PLAIN, 24)),
    ((120, 1, 3, 3), ((1, 1), (1, 1), (1, 1), 120)),  # some kernels clip sums only at the border
    ((120, 1, 5, 5), ((2, 2), (2, 2), (1, 1), 120)),
]


def kernels_available() -> bool:
    """Say whether this torch multiplies 8-bit integers exactly on this processor."""
    return exact_engine(torch.backends.quantized.engine) is not None


@cache
def exact_engine(preferred: str) -> str | None:
    """Find a torch engine whose 8-bit kernels add exactly on this processor, for layers of all kinds.

    Without 8-bit dot products (VNNI) most engines add two products in 16 bits, where large sums are clipped: the
    answers would be silently wrong. Even with VNNI, some still do so at the border of depthwise layers.

    preferred: the engine to try first.

    Returns its name, or None if no engine is exact.
    """
    return next((name for name in _engines(preferred) if adds_exactly(name)), None)


def adds_exactly(engine: str) -> bool:
    """Say whether an engine adds the largest products, 255 times 127 or -127, exactly.

    engine: its name in torch; False for one that is not supported.
    """
    return all(adds_layer_exactly(engine, shape, place) for shape, place in PROBES)


@cache
def adds_layer_exactly(engine: str, shape: tuple[int, ...], place: Place | None) -> bool:
    """Say whether an engine adds the largest products exactly in one kind of layer.

    engine: its name in torch.
    shape: of the layer's weight.
    place: stride, padding, dilation and groups of a convolution; None for a linear layer.
    """
    try:
        with _engine(engine), parts.quiet():
            return _exact(shape, place)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def _engines(preferred: str) -> list[str]:
    supported = torch.backends.quantized.supported_engines
    names = [preferred, *(name for name in ("fbgemm", "onednn", "x86", "qnnpack") if name in supported)]
    return [name for name in names if name != "none"]


def _exact(shape: tuple[int, ...], place: Place | None) -> bool:
    """Try a layer: a third of its outputs have all weights 127, a third -127, and a third both in turn."""
    size, outputs = math.prod(shape[1:]), shape[0]
    signs = torch.stack([torch.ones(size), -torch.ones(size), 1 - 2.0 * (torch.arange(size) % 2)])
    codes = 127 * signs[torch.arange(outputs) % 3].reshape(shape)
    weight, scale, zero = parts.weight_of(codes, torch.ones(outputs)), 255.0 * size, 128
    if place is None:
        x = torch.full((4, shape[1]), 255.0)
        expected = functional.linear(x.double(), codes.double())
        q = torch.quantize_per_tensor(x, 1.0, 0, torch.quint8)
        found = torch.ops.quantized.linear(q, torch.ops.quantized.linear_prepack(weight, None), scale, zero)
    else:
        sides = [(side - 1) * step + 2 for side, step in zip(shape[2:], place[2], strict=True)]
        x = torch.full((1, shape[1] * place[3], *sides), 255.0)
        expected = functional.conv2d(x.double(), codes.double(), None, *place)
        q = torch.quantize_per_tensor(x, 1.0, 0, torch.quint8)
        found = torch.ops.quantized.conv2d.new(q, torch.ops.quantized.conv2d_prepack(weight, None, *place), scale, zero)
    # With sums in units of 255 size, the outputs are 128 + 127, 128 - 127 and about 128, and nearer to 128 at a border.
    return bool((found.int_repr().int() - zero - expected / scale).abs().max() < 1)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Inside the block, weights are packed for that engine's kernels, and they stay packed for it."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def instructions() -> set[str]:
    """Return the words of /proc/cpuinfo, this processor's instructions among them; none if there is no such file."""
    description = Path("/proc/cpuinfo")
    return set(description.read_text("utf-8", "replace").split()) if description.exists() else set()


def processor() -> dict[str, str]:
    """Describe this processor's instructions for 8-bit products, as far as they are known, and what uses them here."""
    flags = instructions()
    dots = ", ".join(sorted(flags & {"avx512_vnni", "avx_vnni", "asimddp"})) or ("no" if flags else "not known")
    usual = torch.backends.quantized.engine
    exact = exact_engine(usual) or "none that is exact: int32 without kernels"
    engine = exact if exact == usual or not kernels_available() else f"{usual} where it is exact, else {exact}"
    vectors = torch.backends.cpu.get_cpu_capability()
    return {"vector instructions": vectors, "8-bit dot products": dots, "kernels for 8 bits": engine}


def convert_to_kernels(simulated: fx.GraphModule) -> fx.GraphModule:
    """Convert a simulated network to torch's 8-bit kernels; images and logits are float.

    Activations are uint8, weights int8. Each layer uses the first engine that adds it up exactly here. The kernels
    multiply by M in float, so an occasional value may differ by one step from the integer network's. All numbers are
    buffers that keep their types: ``state_dict`` and files hold them, and weights that have changed are packed again.

    simulated: what :func:`lib.quantization.affine.simulate` returned with 8 bits, calibrated; left unchanged.

    Returns the new network.
    Raises ValueError if no engine is exact, for layers other than linear ones and zero-padded 1-d and 2-d convolutions,
    for activations that do not have 8 bits, for weights that have more or are not symmetric, and for a network that is
    not on the CPU.
    """
    if not kernels_available():
        raise ValueError("this torch has no quantized kernels that add exactly on this processor: use convert")
    places = {parameter.device.type for parameter in simulated.parameters()}
    if places - {"cpu"}:
        raise ValueError(f"torch's 8-bit kernels compute on the CPU, and this network is on {', '.join(places)}")
    makers: Parts = {
        "quantize": parts.Quantize,
        "dequantize": parts.Dequantize,
        "layer": partial(parts.Layer, packing=packing),
        "sum": parts.weighed_sum,
        "product": parts.Product,
        "mean": parts.ByFloat,
        "concatenation": parts.Concatenation,
        "table": parts.ByFloat,
        "pool": parts.ByFloat,
        "spread": parts.ByFloat,
        "clamp": parts.Clamp,
        "fused_clamp": parts.fused_clamp,
    }
    network = lowered(simulated, makers)
    for module in network.modules():
        if isinstance(module, parts.Layer):
            module.ready()
    return network


@contextmanager
def packing(name: str, shape: tuple[int, ...], place: Place | None) -> Iterator[None]:
    """Inside the block, a layer's weight is packed for kernels that add it up exactly.

    name: of the layer, for the error.
    shape: of its weight.
    place: stride, padding, dilation and groups of a convolution; None for a linear layer.

    Raises ValueError if there are none.
    """
    if place is None or place[3] == 1:
        shape = (min(shape[0], 48), *shape[1:])  # more of the same
    engines = _engines(torch.backends.quantized.engine)
    engine = next((engine for engine in engines if adds_layer_exactly(engine, shape, place)), None)
    if engine is None:
        raise ValueError(f"layer {name!r}: no kernels of this torch add it up exactly on this processor, use convert")
    with _engine(engine):
        yield
