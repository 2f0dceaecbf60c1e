"""The same operations on bits and on floats, ready to be timed, and the most that one core can do."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib import measure
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import dots, kernels, vector
from lib.binarization.shared.inference import BitLayer
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.binarization.xnor_net import InputScale
from lib.weights import compress

Calls = dict[str, Callable[[], object]]
Convert = Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]  # a network and images -> the same in 8 bits
DOTS = {"bfloat16": "vdpbf16ps", "int8": "vpdpbusd"}  # the instructions for vectors of such numbers
MOST = 63  # largest integer used: processors without dot products add two products, each up to 255 · 63, in 16 bits


@dataclass(frozen=True)
class Peaks:
    """What one core can do at most.

    bits: billions of operations a second on bits, in registers alone; a product and its addition count as two.
    floats: the same on float32.
    bfloat16: the same on bfloat16.
    int8: the same on integers of 8 bits.
    memory: billions of bytes a second that a sum of floats reads from a block far larger than the caches.
    by_product: which of "bfloat16" and "int8" come from torch's product of large matrices, the faster of the two ways.
    """

    bits: float
    floats: float
    bfloat16: float
    int8: float
    memory: float
    by_product: tuple[str, ...] = ()


def peaks(*, runs: int = 20, turns: int = 200_000, megabytes: int = 256, side: int = 512) -> Peaks:
    """Measure what this core can do: xor, count and add words; multiply and add numbers; read memory.

    bfloat16 and int8 have two measures, of which the larger counts: a loop of dot products in registers, where this
    processor has such instructions for vectors, and torch's product of large matrices, which can use matrix units.

    runs: timings of which the median counts, from 20; 20 by default.
    turns: of each loop in registers; 200,000 by default.
    megabytes: of the block that is read; 256 by default.
    side: rows and columns of those matrices; 512 by default.
    """
    block = torch.zeros(megabytes << 18)
    calls: Calls = {
        "bits": lambda: _popcounts(turns, 12345),
        "floats": lambda: _multiply_adds(turns, 1),
        "memory": block.sum,
    }
    work = {
        "bits": turns * vector.CHAINS * 512 * 2,
        "floats": turns * vector.CHAINS * 16 * 2,
        "memory": megabytes << 20,
    }
    for name, instruction in DOTS.items():
        if loop := _dot_loop(instruction):
            calls[name] = partial(loop, turns, 0)
            work[name] = turns * vector.CHAINS * 16 * dots.DOTS[instruction][1] * 2
    for name, call in low_products(side, side, side).items():
        calls[f"{name} product"], work[f"{name} product"] = call, 2 * side**3
    times = {name: time.median / 1000 for name, time in measure.latency_ms(calls, runs=runs).items()}
    rates = {name: work[name] / times[name] / 1e9 for name in calls}
    by_product = tuple(name for name in DOTS if rates[f"{name} product"] > rates.get(name, 0))
    most = {name: max(rates[f"{name} product"], rates.get(name, 0)) for name in DOTS}
    return Peaks(rates["bits"], rates["floats"], most["bfloat16"], most["int8"], rates["memory"], by_product)


@numba.njit("int64(int64, int64)", cache=True)
def _popcounts(turns: int, seed: int) -> int:
    return vector.popcounts(turns, seed)


@numba.njit("float64(int64, int64)", cache=True)
def _multiply_adds(turns: int, seed: int) -> float:
    return vector.multiply_adds(turns, seed)


@cache
def _dot_loop(instruction: str) -> Callable[[int, int], float] | None:
    """Compile the loop of dot products; None where this processor does not have the instruction."""
    products = dots.dot_products(instruction)
    if products is None:
        return None

    @numba.njit("float64(int64, int64)")
    def loop(turns: int, seed: int) -> float:
        return products(turns, seed)

    return loop


def timed(calls: Calls, *, runs: int = 20, least_ms: float = 2.0) -> dict[str, float]:
    """How many milliseconds each call takes; the calls take turns.

    calls: name -> what to time.
    runs: timings of which the median counts, from 20; 20 by default.
    least_ms: milliseconds that one timing lasts at least; shorter calls are repeated. 2 by default.
    Returns name -> median milliseconds of one call.
    """
    once = measure.latency_ms(calls, runs=runs)
    repeats = {name: max(1, round(least_ms / once[name].median)) for name in calls}
    again = {name: _repeated(call, repeats[name]) for name, call in calls.items()}
    return {name: time.median / repeats[name] for name, time in measure.latency_ms(again, runs=runs).items()}


def _repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [call() for _ in range(times)]


def matrices(rows: int, columns: int, inner: int) -> Calls:
    """A product of matrices, (rows, inner) times (inner, columns), in three ways.

    rows: of the first matrix.
    columns: of the second.
    inner: columns of the first, rows of the second.
    Returns "float", by torch; "packed", bits; "bits", the first matrix packed on the way.

    >>> calls = matrices(2, 3, 64)
    >>> calls["packed"]().shape, calls["float"]().shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    a, b = random_normal(rows, inner), random_normal(columns, inner)
    filters, zeros = kernels.arrange(signs_of(b)), torch.zeros(inner)
    bits = kernels.pack(a, zeros)
    return {
        "float": lambda: nn.functional.linear(a, b),
        "packed": lambda: kernels.product(bits, filters),
        "bits": lambda: kernels.product(kernels.pack(a, zeros), filters),
    }


def low_products(rows: int, columns: int, inner: int) -> Calls:
    """The product of :func:`matrices` by torch, with numbers already converted to shorter ones than float32.

    rows: of the first matrix.
    columns: of the second.
    inner: columns of the first, rows of the second.
    Returns "bfloat16", and "int8", of :func:`integers_of` both matrices, with sums of 32 bits.

    >>> {name: call().dtype for name, call in low_products(2, 3, 64).items()}
    {'bfloat16': torch.bfloat16, 'int8': torch.int32}
    """
    a, b = random_normal(rows, inner), random_normal(columns, inner)
    short_a, short_b = a.bfloat16(), b.bfloat16()
    whole_a, whole_b = integers_of(a), integers_of(b).T
    return {
        "bfloat16": lambda: nn.functional.linear(short_a, short_b),
        "int8": lambda: torch._int_mm(whole_a, whole_b),
    }


def low_networks(network: nn.Module, x: Tensor, to_int8: Convert) -> Calls:
    """A network, or one layer, in shorter numbers than float32, on the same images.

    network: in float32, in evaluation mode; unchanged.
    x: images, the first dimension counts them.
    to_int8: (network, images) -> the network in integers of 8 bits, which takes and gives float32.
    Returns "bfloat16", weights and images converted before, and "int8", images and outputs converted on the way.

    >>> calls = low_networks(nn.Linear(3, 2), torch.ones(1, 3), lambda network, images: network)
    >>> {name: call().dtype for name, call in calls.items()}
    {'bfloat16': torch.bfloat16, 'int8': torch.float32}
    """
    short, short_x, whole = copy.deepcopy(network).bfloat16(), x.bfloat16(), to_int8(network, x)
    return {"bfloat16": lambda: short(short_x), "int8": lambda: whole(x)}


def linear(batch: int, inputs: int, outputs: int, *, to_int8: Convert | None = None) -> Calls:
    """A whole linear layer, in two ways or four.

    batch: rows of the input.
    inputs: of the layer.
    outputs: of the layer.
    to_int8: as for :func:`low_networks`; None (default): without those ways.
    Returns "float", by torch; "bits", with packing and the scale of each output; and those of :func:`low_networks`.
    """
    layer, x = nn.Linear(inputs, outputs, bias=False), random_normal(batch, inputs)
    bits = bit_layer(layer)
    low = low_networks(nn.Sequential(layer), x, to_int8) if to_int8 else {}
    return {"float": lambda: layer(x), "bits": lambda: bits(x)} | low


def convolution(channels: int, side: int, *, batch: int = 1, size: int = 3, to_int8: Convert | None = None) -> Calls:
    """A whole convolution with as many filters as channels, in three ways or five, on images in channels-last memory.

    channels: of the images, and filters.
    side: of the images, in pixels; a border of zeros keeps it.
    batch: images; 1 by default.
    size: of the filters, size x size; 3 by default.
    to_int8: as for :func:`low_networks`; None (default): without those ways.
    Returns "float", by torch; "bits", with packing, gathering and the scale of each filter; "bits and K", with
    XNOR-Net's K too; and those of :func:`low_networks`.
    """
    layer = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave this argument out
    x = random_normal(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    bits, scaled = bit_layer(layer), bit_layer(layer, input_scale=True)
    low = low_networks(nn.Sequential(layer), x, to_int8) if to_int8 else {}
    return {"float": lambda: layer(x), "bits": lambda: bits(x), "bits and K": lambda: scaled(x)} | low


def bit_layer(layer: nn.Linear | nn.Conv2d, *, input_scale: bool = False) -> BitLayer:
    """The layer as one of XNOR-Net, without batch norm, on bits. The layer itself is unchanged.

    layer: its weight is used, its bias is not.
    input_scale: whether outputs are multiplied by K; False by default.
    """
    copied: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        copied = nn.Linear(layer.in_features, layer.out_features, bias=False)
    else:
        size: Any = layer.kernel_size
        padding: Any = layer.padding
        copied = nn.Conv2d(layer.in_channels, layer.out_channels, size, padding=padding, bias=False)
    copied.weight = nn.Parameter(layer.weight.detach().clone(memory_format=torch.contiguous_format))
    compress(copied, lambda *_: BinaryWeight())
    return BitLayer(Binarized(copied, SignActivation(), None, InputScale(copied) if input_scale else None))


def random_normal(*shape: int) -> Tensor:
    """The same normal numbers at each call, of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def signs_of(values: Tensor) -> Tensor:
    """+1 where a value is 0 or more, else -1."""
    return torch.where(values >= 0, 1.0, -1.0)


def integers_of(values: Tensor) -> Tensor:
    """Values in steps of 1/20, rounded, as int8 from -MOST to MOST."""
    return values.mul(20).round().clamp(-MOST, MOST).to(torch.int8)


@numba.njit("void(float32[:, :, ::1], float32[:, :, :, ::1], float32[:, :, ::1])", cache=True)
def scalar_convolution(image: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """A 3 x 3 convolution of floats, one multiplication and one addition at a time.

    Floats may not be added in another order than the code says, so the compiler uses no vectors. This is the rival in
    many published comparisons.

    image: (height + 2, width + 2, channels), with its border.
    weight: (filters, 3, 3, channels).
    out: (height, width, filters), which is filled.
    """
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for f in range(weight.shape[0]):
                total = np.float32(0)
                for i in range(3):
                    for j in range(3):
                        for c in range(weight.shape[3]):
                            total += image[y + i, x + j, c] * weight[f, i, j, c]
                out[y, x, f] = total
