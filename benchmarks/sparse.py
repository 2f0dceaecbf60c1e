"""Sparse products against torch's dense one, and smaller ResNet-8s against the full one, in one process on one thread.

The first table has the time of a square matrix times one vector or many, relative to the dense product, by kernel and
by the share of weights kept. Scattered weights: scipy's and torch's compressed rows (CSR). Blocks of 16 x 16: scipy's
and torch's compressed blocks (BSR). Blocks of 16 x 1: ours. The last column is the share at which the kernel is as fast
as dense. The second table has ResNet-8 with batch norm folded on both sides. Run with ``make bench-sparse``.
"""

import warnings
from collections.abc import Callable

import scipy.sparse
import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization

from lib import measure, models, structure
from lib.pruning import sparse_speed
from lib.pruning.shared import block_sparse

SIDE, RUNS = 2048, 21
DENSITIES = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9]
WAYS = ["scipy CSR", "torch CSR", "scipy BSR", "torch BSR", "blocks"]


def main() -> None:
    print(f"{f'{SIDE} x {SIDE}, times over dense':32}", *(f"{share:7.0%}" for share in DENSITIES), "  as fast at")
    for n in (1, 16, 64):
        x = torch.rand(n, SIDE)
        ratios: dict[str, list[float]] = {name: [] for name in WAYS}
        for density in DENSITIES:
            times = measure.latency_ms(products(density, x), runs=RUNS)
            for name, values in ratios.items():
                values.append(times[name].median / times["dense"].median)
        for name, values in ratios.items():
            even = sparse_speed.break_even(DENSITIES, values)
            print(f"{f'{name}, inputs: {n}':32}", *(f"{ratio:7.2f}" for ratio in values), f"{even:12.0%}")
    networks()


def products(density: float, x: Tensor) -> dict[str, Callable[[], object]]:
    """The dense product and one for each kernel, with zeros of the shape that it can skip."""
    columns = x.T.contiguous()
    layer = sparse_speed.thinned(nn.Linear(SIDE, SIDE, bias=False), density=density, seed=0)
    weight = sparse_speed.thinned(nn.Linear(SIDE, SIDE, bias=False), density=1.0, seed=0).weight.detach()
    squares = (torch.rand(SIDE // 16, SIDE // 16) < density).repeat_interleave(16, 0).repeat_interleave(16, 1)
    blocks = block_sparse.Blocks(weight * block_sparse.mask(weight, density=density))
    by_scipy = scipy.sparse.bsr_array((weight * squares).numpy(), blocksize=(16, 16))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's sparse blocks are in beta
        by_torch = (weight * squares).to_sparse_bsr((16, 16))
    calls: dict[str, Callable[[], object]] = {**sparse_speed.products(layer, x)}
    calls["scipy BSR"] = lambda: by_scipy @ columns.numpy()
    calls["torch BSR"] = lambda: by_torch @ columns
    calls["blocks"] = lambda: blocks @ columns
    return calls


def networks() -> None:
    """ResNet-8 on 64 images, full size and with half of its multiply-adds or fewer."""
    model, tiny = models.resnet8().eval(), torch.zeros(1, 3, 32, 32)
    fraction = structure.fraction_for(model, tiny, multiply_adds=0.5)
    eights = structure.fraction_for(model, tiny, multiply_adds=0.5, multiple_of=8)
    variants: dict[str, nn.Module] = {"dense": model}
    variants["any number of filters"] = sparse_speed.shrunk(model, tiny, fraction=fraction, multiple_of=1)
    variants["multiples of 8"] = sparse_speed.shrunk(model, tiny, fraction=eights)
    for share in (0.5, 0.45, 0.4):
        variants[f"those that save most, {share:.0%}"] = sparse_speed.shrunk_to(model, tiny, multiply_adds=share)
    whole = measure.multiply_adds(model, (3, 32, 32))
    print(f"\n{'ResNet-8, 64 images, folded':32}{'multiply-adds':>15}{'ms':>8}{'ratio':>8}")
    for memory in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(64, 3, 32, 32).contiguous(memory_format=memory)
        times = measure.latency_ms({k: call(v, x, memory) for k, v in variants.items()}, runs=RUNS)
        for name, time in times.items():
            share = measure.multiply_adds(variants[name], (3, 32, 32)) / whole
            title = name + ", channels last" * (memory is torch.channels_last)
            print(f"{title:42}{share:5.2f}{time.median:8.2f}{time.median / times['dense'].median:8.2f}")


def call(model: nn.Module, x: Tensor, memory: torch.memory_format) -> Callable[[], object]:
    folded = optimization.fuse(model).to(memory_format=memory)  # type: ignore[call-overload]  # missing in torch's types
    return lambda: folded(x)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
