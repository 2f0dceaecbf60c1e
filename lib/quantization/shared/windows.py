"""Sums of integers over the windows of an average pooling, and the divisor of each."""

import math
from typing import Any

import torch
from torch import Tensor

from lib.quantization.shared.operations import ADAPTIVE, MEANS, Mean


def windows(layer: MEANS, q: Tensor) -> tuple[Tensor, Tensor]:
    """Add the integers in each window.

    layer: an average pooling, adaptive or not, or a mean over dimensions.
    q: integers, int64, with zero for the real zero.

    Returns the sums, in the shape of the layer's output, and their divisors, which broadcast against them.

    >>> total, count = windows(torch.nn.AdaptiveAvgPool1d(2), torch.tensor([[1, 2, 3]]))
    >>> total.tolist(), count.tolist()
    ([[3, 5]], [2, 2])
    """
    if isinstance(layer, Mean):
        size = math.prod(q.shape[dim] for dim in layer.dims)
        return q.sum(layer.dims, layer.keepdim), torch.tensor(size, device=q.device)
    rank = int(type(layer).__name__[-2])  # 2 of AvgPool2d
    counts = torch.ones((), dtype=torch.int64, device=q.device)
    for axis in range(rank):
        dim = q.dim() - rank + axis
        start, end, count = _extents(layer, axis, rank, q.shape[dim], q.device)
        sums = torch.cat([torch.zeros_like(q.narrow(dim, 0, 1)), q.cumsum(dim)], dim)
        q = sums.index_select(dim, end) - sums.index_select(dim, start)
        counts = counts[..., None] * count
    divisor = getattr(layer, "divisor_override", None)
    return q, counts if divisor is None else torch.full_like(counts, divisor)


def _extents(layer: Any, axis: int, rank: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Along one side: where each window begins, where it ends, and by how many entries its sum is divided."""

    def side(value: Any) -> Any:
        return value[axis] if isinstance(value, tuple | list) else value

    if isinstance(layer, ADAPTIVE):
        n = size if side(layer.output_size) is None else side(layer.output_size)
        i = torch.arange(n, device=device)
        start, end = i * size // n, -(-(i + 1) * size // n)
        return start, end, end - start
    kernel, stride, padding = side(layer.kernel_size), side(layer.stride), side(layer.padding)
    n = (size + 2 * padding - kernel + (stride - 1 if layer.ceil_mode else 0)) // stride + 1
    if layer.ceil_mode and (n - 1) * stride >= size + padding:  # no window may begin in the border at the end
        n -= 1
    start = torch.arange(n, device=device) * stride - padding
    end = (start + kernel).clamp(max=size + padding)
    inside = start.clamp(0, size), end.clamp(0, size)
    return *inside, end - start if layer.count_include_pad else inside[1] - inside[0]
