"""Products of signs by counting bits against torch's float32, as ratios in one process on one thread.

Each line has the medians of both sides, which take turns (each call is repeated until it lasts a few milliseconds), the
rate of the bits, and their share of what xor, popcount and add reach in registers in the same run. The tests compare
what the bits compute with floats. Run with ``make bench-kernels``.
"""

import torch

from lib.binarization.shared import kernels, speed

RUNS, LEAST_MS = 20, 5.0


def main() -> None:
    roof = speed.peaks(runs=RUNS)
    print(f"in registers: {roof.bits:,.0f} billion operations/s on bits, {roof.floats:,.0f} on floats;", end=" ")
    print(f"memory {roof.memory:.0f} GB/s; kernels compiled: {kernels.available()}")
    print(f"\n{'operation':42}{'float ms':>10}{'bits ms':>10}{'ratio':>8}{'Gop/s':>9}{'of peak':>9}")
    for side in (64, 256, 1024):
        show(f"product {side} x {side} x {side}, packed", speed.matrices(side, side, side), 2 * side**3, roof, "packed")
    show("product 256 x 256 x 2304, packed", speed.matrices(256, 256, 2304), 2 * 256 * 256 * 2304, roof, "packed")
    show("product 1024^3, packing included", speed.matrices(1024, 1024, 1024), 2 * 1024**3, roof)
    for batch in (1, 8, 64):
        show(f"linear 4096, batch {batch}, whole layer", speed.linear(batch, 4096, 4096), 2 * batch * 4096**2, roof)
    for batch in (1, 8, 64):
        work = 2 * batch * 196 * 256 * 2304
        show(f"conv 3x3, 256, 14 x 14, batch {batch}, whole layer", speed.convolution(256, 14, batch=batch), work, roof)
    show("the same, batch 1, with K", speed.convolution(256, 14), 2 * 196 * 256 * 2304, roof, "bits and K")


@torch.inference_mode()
def show(name: str, calls: speed.Calls, work: int, roof: speed.Peaks, way: str = "bits") -> None:
    times = speed.timed({"float": calls["float"], way: calls[way]}, runs=RUNS, least_ms=LEAST_MS)
    rate = work / times[way] / 1e6
    print(f"{name:42}{times['float']:10.3f}{times[way]:10.4f}{times['float'] / times[way]:7.1f}x", end="")
    print(f"{rate:9,.0f}{rate / roof.bits:9.0%}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
