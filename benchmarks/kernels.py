"""Products of signs by counting bits, against torch's float32, bfloat16 and int8, in one process on one thread.

Each line has the median times of floats and bits, and how many times as fast bits are as each rival. Then come the rate
of the bits, and its share of what xor, popcount and add reach in registers in the same run. All sides take turns, and
each call is repeated until it lasts a few milliseconds. Whole networks follow, converted, against the same networks in
floats and int8, then small layers with the side that is chosen for them. The tests compare what the bits compute with
floats. Run with ``make bench-kernels``.
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from lib import models
from lib.binarization import bwn, xnor_net
from lib.binarization.shared import inference, kernels, speed
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.quantization import affine
from lib.quantization.shared import precisions
from lib.weights import compress, decompress

RUNS, LEAST_MS = 20, 5.0
RIVALS = "float", "bfloat16", "int8"
HEAD = f"{'float ms':>10}{'bits ms':>10}" + "".join(f"{f'/ {rival}':>10}" for rival in RIVALS)
SMALL = [  # images, channels, side, filters, size of the filter, groups; side 0: a linear layer
    *((1, 784, 0, 10, 1, 1), (1, 16, 0, 4, 1, 1), (64, 784, 0, 10, 1, 1), (1, 16, 8, 16, 3, 1), (64, 16, 8, 16, 3, 1)),
    *((1, 1, 28, 8, 5, 1), (1, 8, 64, 8, 3, 1), (1, 16, 8, 16, 3, 16), (4, 64, 14, 64, 3, 64), (1, 32, 14, 32, 3, 4)),
]


def main() -> None:
    roof = speed.peaks(runs=RUNS)
    print(f"billion operations/s: {roof.bits:,.0f} on bits, {roof.int8:,.0f} on int8, {roof.bfloat16:,.0f} on", end=" ")
    print(f"bfloat16, {roof.floats:,.0f} on floats, in registers", end="")
    print(f" (torch's product: {', '.join(roof.by_product)})" if roof.by_product else "", end="; ")
    print(f"memory {roof.memory:.0f} GB/s; kernels compiled: {kernels.available()}")
    print(f"\n{'operation':42}{HEAD}{'Gop/s':>9}{'of peak':>9}")
    for side in (64, 256, 1024):
        product(f"product {side} x {side} x {side}, packed", (side, side, side), roof, "packed")
    for shape in ((1024, 1024, 1024), (256, 256, 2304)):
        name = f"product {' x '.join(map(str, shape))}, memory given"
        show(name, given_memory(*shape), 2 * shape[0] * shape[1] * shape[2], roof, "packed")
    product("product 1024^3, packing included", (1024, 1024, 1024), roof, "bits")
    for batch in (1, 8, 64):
        layer = speed.linear(batch, 4096, 4096, to_int8=to_int8)
        show(f"linear 4096, batch {batch}, whole layer", layer, 2 * batch * 4096**2, roof)
    for batch in (1, 8, 64):
        work, layer = 2 * batch * 196 * 256 * 2304, speed.convolution(256, 14, batch=batch, to_int8=to_int8)
        show(f"conv 3x3, 256, 14 x 14, batch {batch}, whole layer", layer, work, roof)
    show("the same, batch 1, with K", speed.convolution(256, 14), 2 * 196 * 256 * 2304, roof, "bits and K")

    networks()
    small()


def to_int8(network: nn.Module, images: Tensor) -> nn.Module:
    """The network on torch's 8-bit kernels, or in 32-bit integers if those kernels do not add exactly."""
    low = affine.simulate(network.eval())
    affine.calibrate(low, images)
    return precisions.integers(low)


def product(name: str, shape: tuple[int, int, int], roof: speed.Peaks, way: str) -> None:
    """A product of bits against products of other types, whose inputs are converted beforehand."""
    rows, columns, inner = shape
    show(name, speed.matrices(*shape) | speed.low_products(*shape), 2 * rows * columns * inner, roof, way)


def given_memory(rows: int, columns: int, inner: int) -> speed.Calls:
    """A product of packed bits, and torch's of floats; both write to the same memory again and again."""
    a, b = speed.random_normal(rows, inner), speed.random_normal(columns, inner)
    bits, filters = kernels.pack(a, torch.zeros(inner)), kernels.arrange(speed.signs_of(b))
    out, real = torch.empty(rows, columns, dtype=torch.int32), torch.empty(rows, columns)
    return {
        "float": lambda: torch.mm(a, b.T, out=real),
        "packed": lambda: kernels.product(bits, filters, out=out),
    }


@torch.inference_mode()
def networks() -> None:
    """Whole networks, with random weights, as XNOR-Net binarizes them."""
    print(f"\n{'network':42}{HEAD}   same answers as before it was converted")
    for name, dense, net, shape in (
        ("VGG-small, width 128", models.vgg_small(), xnor_net.binarize(models.vgg_small()), (3, 32, 32)),
        ("LeNet-5", models.lenet5(), xnor_net.binarize(models.lenet5(), maps={"fc1": 50}), (1, 28, 28)),
    ):
        for model in (dense.eval(), net.eval()):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        bits = inference.convert(net)
        for batch in (1, 64):
            x = speed.random_normal(batch, *shape).contiguous(memory_format=torch.channels_last)
            calls: speed.Calls = {"float": partial(dense, x), "bits": partial(bits, x)}
            compare(f"{name}, batch {batch}", calls | speed.low_networks(dense, x, to_int8))
            print(f"   {torch.equal(bits(x), net(x))}")


@torch.inference_mode()
def small() -> None:
    """Layers for which bits and floats are close: a converted layer against its original, with signs in floats."""
    print(f"\n{'layer that reads signs':42}{HEAD}   runs on")
    for batch, channels, side, filters, size, groups in SMALL:
        layer: nn.Linear | nn.Conv2d = nn.Linear(channels, filters)
        x, name = speed.random_normal(batch, channels), f"linear {channels} to {filters}, batch {batch}"
        if side:
            layer = nn.Conv2d(channels, filters, size, padding=size // 2, groups=groups)
            x = speed.random_normal(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
            name = f"{size} x {size}, {channels} to {filters}, {groups} groups, side {side}, batch {batch}"
        before, after = converted(layer)
        compare(name, {"float": lambda f=before, x=x: f(x), "bits": lambda f=after, x=x: f(x)})
        print("   floats" if after.floats_win(x) else "   bits")


def converted(layer: nn.Linear | nn.Conv2d) -> tuple[nn.Module, inference.BitLayer]:
    """A layer that reads signs, with its signs already computed as its weight, and the same layer on bits."""
    before = Binarized(compress(layer, lambda *_: bwn.BinaryWeight()), SignActivation()).eval()
    after = inference.convert(before)
    assert isinstance(after, inference.BitLayer)
    return decompress(copy.deepcopy(before)), after


def compare(name: str, calls: speed.Calls, way: str = "bits") -> float:
    """Print how many times as fast one way is as each rival; returns its milliseconds."""
    rivals = [rival for rival in RIVALS if rival in calls]
    times = speed.timed({other: calls[other] for other in (*rivals, way)}, runs=RUNS, least_ms=LEAST_MS)
    ratios = [f"{times[rival] / times[way]:.1f}x" if rival in times else "" for rival in RIVALS]
    print(f"{name:42}{times['float']:10.3f}{times[way]:10.4f}" + "".join(f"{text:>10}" for text in ratios), end="")
    return times[way]


@torch.inference_mode()
def show(name: str, calls: speed.Calls, work: int, roof: speed.Peaks, way: str = "bits") -> None:
    rate = work / compare(name, calls, way) / 1e6
    print(f"{rate:9,.0f}{rate / roof.bits:9.0%}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
