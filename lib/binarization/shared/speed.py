"""The same operation on bits and on floats, ready to be timed, and what one core can do at most."""

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib import measure
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import kernels, vector
from lib.binarization.shared.inference import BitLayer
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.binarization.xnor_net import InputScale
from lib.weights import compress

Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Peaks:
    """Billions of operations a second of one core, in registers alone; a product and its addition count two.

    memory: billions of bytes a second that a sum of floats reads, from a block far larger than the caches.
    """

    bits: float
    floats: float
    memory: float


def peaks(*, runs: int = 20, turns: int = 200_000, megabytes: int = 256) -> Peaks:
    """Measured now: xor, count and add of words; fused multiply-adds of float32; reading of memory. Medians."""
    block = torch.zeros(megabytes << 18)
    calls = {
        "bits": lambda: _popcounts(turns, 12345),
        "floats": lambda: _multiply_adds(turns, 1),
        "memory": block.sum,
    }
    times = {name: time.median / 1000 for name, time in measure.latency_ms(calls, runs=runs).items()}
    work = {
        "bits": turns * vector.CHAINS * 512 * 2,
        "floats": turns * vector.CHAINS * 16 * 2,
        "memory": megabytes << 20,
    }
    return Peaks(**{name: work[name] / times[name] / 1e9 for name in calls})


@numba.njit("int64(int64, int64)", cache=True)
def _popcounts(turns: int, seed: int) -> int:
    return vector.popcounts(turns, seed)


@numba.njit("float64(int64, int64)", cache=True)
def _multiply_adds(turns: int, seed: int) -> float:
    return vector.multiply_adds(turns, seed)


def timed(calls: Calls, *, runs: int = 20, least_ms: float = 2.0) -> dict[str, float]:
    """Median milliseconds of one call each, taken in turns; a short call is repeated until that lasts ``least_ms``."""
    once = measure.latency_ms(calls, runs=runs)
    repeats = {name: max(1, round(least_ms / once[name].median)) for name in calls}
    again = {name: lambda f=f, n=repeats[name]: [f() for _ in range(n)] for name, f in calls.items()}
    return {name: time.median / repeats[name] for name, time in measure.latency_ms(again, runs=runs).items()}


def matrices(rows: int, columns: int, inner: int) -> Calls:
    """(rows, inner) times (inner, columns): "float", by torch; "packed", bits; "bits", floats packed on the way."""
    a, b = random_normal(rows, inner), random_normal(columns, inner)
    filters, zeros = kernels.arrange(signs_of(b)), torch.zeros(inner)
    bits = kernels.pack(a, zeros)
    return {
        "float": lambda: nn.functional.linear(a, b),
        "packed": lambda: kernels.product(bits, filters),
        "bits": lambda: kernels.product(kernels.pack(a, zeros), filters),
    }


def linear(batch: int, inputs: int, outputs: int) -> Calls:
    """A whole linear layer: "float", and "bits", with packing and the scale of each output."""
    layer, x = nn.Linear(inputs, outputs, bias=False), random_normal(batch, inputs)
    bits = bit_layer(layer)
    return {"float": lambda: layer(x), "bits": lambda: bits(x)}


def convolution(channels: int, side: int, *, batch: int = 1, size: int = 3) -> Calls:
    """A whole convolution of as many filters as channels, borders kept, the image side x side, channels last.

    "float" by torch; "bits" with packing, gathering and the scale of each filter; "bits and K" with XNOR-Net's K, too.
    """
    layer = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False).to(memory_format=torch.channels_last)
    x = random_normal(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    bits, scaled = bit_layer(layer), bit_layer(layer, input_scale=True)
    return {"float": lambda: layer(x), "bits": lambda: bits(x), "bits and K": lambda: scaled(x)}


def bit_layer(layer: nn.Module, *, input_scale: bool = False) -> BitLayer:
    """The layer as one of XNOR-Net, without batch norm, on bits; the layer itself stays as it is."""
    copied = type(layer)(*_shape(layer), bias=False, **_place(layer))
    copied.weight = nn.Parameter(layer.weight.detach().clone(memory_format=torch.contiguous_format))
    compress(copied, lambda name, each: BinaryWeight())
    return BitLayer(Binarized(copied, SignActivation(), None, InputScale(copied) if input_scale else None))


def _shape(layer: nn.Module) -> tuple:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size


def _place(layer: nn.Module) -> dict:
    return {} if isinstance(layer, nn.Linear) else {"padding": layer.padding}


def random_normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def signs_of(values: Tensor) -> Tensor:
    return torch.where(values >= 0, 1.0, -1.0)


@numba.njit("void(float32[:, :, ::1], float32[:, :, :, ::1], float32[:, :, ::1])", cache=True)
def scalar_convolution(image: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """image (height + 2, width + 2, channels), weight (filters, 3, 3, channels) -> out (height, width, filters).

    One multiplication and one addition after the other: floats may not be added in another order than the code says,
    so the compiler uses no vectors. This is the rival in many published comparisons.
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
