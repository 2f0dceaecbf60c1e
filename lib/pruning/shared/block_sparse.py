r"""Multiply by a weight whose zeros come in blocks: of sixteen adjacent outputs, all read an input or none does.

A scattered weight costs an index, and an input is fetched for it alone. Here the rows of the weight form groups of B =
16, and each group r keeps the columns :math:`C_r` whole, with values :math:`V_r`:

.. math:: y_{Br + j} = \sum_{c \in C_r} V_{r, c, j}\, x_c, \qquad j = 0, \dots, B - 1,

so that one index serves sixteen weights, and these fill one vector of 512 bits. The blocks of the largest mean
magnitude are kept, as in structured pruning (anwar2017structured).
"""

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib.pruning.shared.selection import largest

ROWS = 16  # of a block: a 512-bit vector holds 16 float32 numbers, and the compiler unrolls loops of known length
MANY = 32  # from this many inputs on, vectors along the inputs are faster than along a block's rows, as measured


def mask(weight: Tensor, *, density: float) -> Tensor:
    """Choose the blocks to keep, those of the largest mean magnitude.

    weight: (outputs, inputs), finite; if the outputs are not a multiple of 16, the last blocks are shorter.
    density: share of the blocks to keep, in (0, 1]; at least one, and never one of zeros alone.

    Returns a bool mask of the same shape, True where a weight is kept.
    Raises ValueError for a weight or a density that is not accepted.

    >>> mask(torch.cat([torch.ones(16, 1), torch.full((16, 1), 2.0)], dim=1), density=0.5).sum(0).tolist()
    [0, 16]
    """
    if weight.dim() != 2 or not weight.numel() or not torch.isfinite(weight).all():
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} has no blocks here:"
            " accepted are rows and columns of finite numbers, one or more of each"
        )
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], not {density}")
    # Sums in half precision would tie.
    size = weight.detach().abs().to(torch.promote_types(weight.dtype, torch.float32))
    # method
    means = torch.stack([part.mean(0) for part in size.split(ROWS)])
    kept = largest(means, density)  # (groups of rows, columns)
    return kept.repeat_interleave(ROWS, dim=0)[: len(weight)]
    # end of method


class Blocks:
    """A weight stored as its nonzero blocks; ``blocks @ x`` is the product.

    weight: (outputs, inputs), float32, on the CPU, finite. It is copied.

    ``x`` is (inputs,) or (inputs, n), float32, on the CPU, and the product (outputs,) or (outputs, n). It differs from
    the dense product by rounding. An input that no block reads is not looked at, even if it is NaN.

    Raises ValueError for another weight, and for an ``x`` that is not accepted.

    >>> blocks = Blocks(torch.tensor([[0.0, 5.0], [0.0, 2.0]]))
    >>> len(blocks.values), (blocks @ torch.tensor([3.0, 1.0])).tolist()
    (1, [5.0, 2.0])
    """

    def __init__(self, weight: Tensor):
        if weight.dim() != 2 or not weight.numel() or weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError(
                f"a weight of {weight.dtype} and shape {tuple(weight.shape)} on {weight.device.type} has no product in"
                " blocks: accepted are rows and columns of float32, on the CPU"
            )
        if not torch.isfinite(weight).all():
            raise ValueError("the weight holds NaN or infinity: finite values are needed")
        self.shape = tuple(weight.shape)
        padded = nn.functional.pad(weight.detach(), (0, 0, 0, -len(weight) % ROWS))  # the last group gets rows of zeros
        groups = padded.unflatten(0, (-1, ROWS))  # (groups, rows, columns)
        group, column = (groups != 0).any(1).nonzero(as_tuple=True)  # group by group, in each from left to right
        self.values = groups[group, :, column].contiguous().numpy()
        self.columns = column.numpy().astype(np.uint32)  # unsigned: no checks for negatives in compiled code
        self.starts = np.searchsorted(group.numpy(), np.arange(len(groups) + 1))

    def __matmul__(self, x: Tensor) -> Tensor:
        if x.dim() not in (1, 2) or len(x) != self.shape[1] or x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(
                f"x of {x.dtype} and shape {tuple(x.shape)} on {x.device.type} does not fit a weight of {self.shape}:"
                f" accepted are ({self.shape[1]},) and ({self.shape[1]}, n) of float32, on the CPU"
            )
        read = (x.detach()[:, None] if x.dim() == 1 else x.detach()).contiguous().numpy()
        groups, n = len(self.starts) - 1, read.shape[1]
        if n < MANY:
            sums = np.zeros((groups, n, ROWS), dtype=np.float32)
            _times_few(self.values, self.columns, self.starts, read, sums)
            product = torch.from_numpy(sums).transpose(1, 2).reshape(groups * ROWS, n)
        else:
            product = torch.zeros(groups * ROWS, n)
            _times_many(self.values, self.columns, self.starts, read, product.numpy())
        product = product[: self.shape[0]]
        return product[:, 0] if x.dim() == 1 else product


# Both kernels take several blocks at a time, so that a sum is loaded and stored once for several multiply-adds. With
# few inputs the vectors run along the rows of a block, otherwise along the inputs.
_fast = numba.njit(fastmath={"contract", "reassoc"}, cache=True)


@_fast
def _times_few(values: np.ndarray, columns: np.ndarray, starts: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    flat = values.reshape(-1)
    for r in range(len(starts) - 1):
        rest = starts[r + 1] - (starts[r + 1] - starts[r]) % 8
        for b in range(starts[r], rest, 8):  # with four, LLVM does not vectorize the innermost loop
            c, v = columns[b : b + 8], flat[b * ROWS : (b + 8) * ROWS]
            a0, a1, a2, a3, a4, a5, a6, a7 = x[c[0]], x[c[1]], x[c[2]], x[c[3]], x[c[4]], x[c[5]], x[c[6]], x[c[7]]
            for t in range(x.shape[1]):
                x0, x1, x2, x3, x4, x5, x6, x7 = a0[t], a1[t], a2[t], a3[t], a4[t], a5[t], a6[t], a7[t]
                sums = out[r, t]
                for j in range(ROWS):
                    sums[j] += ((v[j] * x0 + v[j + ROWS] * x1) + (v[j + 2 * ROWS] * x2 + v[j + 3 * ROWS] * x3)) + (
                        (v[j + 4 * ROWS] * x4 + v[j + 5 * ROWS] * x5) + (v[j + 6 * ROWS] * x6 + v[j + 7 * ROWS] * x7)
                    )
        for b in range(rest, starts[r + 1]):
            a0 = x[columns[b]]
            for t in range(x.shape[1]):
                sums, x0 = out[r, t], a0[t]
                for j in range(ROWS):
                    sums[j] += values[b, j] * x0


@_fast
def _times_many(values: np.ndarray, columns: np.ndarray, starts: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    for r in range(len(starts) - 1):
        rest = starts[r + 1] - (starts[r + 1] - starts[r]) % 4
        for b in range(starts[r], rest, 4):
            x0, x1, x2, x3 = x[columns[b]], x[columns[b + 1]], x[columns[b + 2]], x[columns[b + 3]]
            for j in range(ROWS):
                v0, v1, v2, v3 = values[b, j], values[b + 1, j], values[b + 2, j], values[b + 3, j]
                row = out[r * ROWS + j]
                for t in range(len(row)):
                    row[t] += v0 * x0[t] + v1 * x1[t] + v2 * x2[t] + v3 * x3[t]
        for b in range(rest, starts[r + 1]):
            for j in range(ROWS):
                row, v, x0 = out[r * ROWS + j], values[b, j], x[columns[b]]
                for t in range(len(row)):
                    row[t] += v * x0[t]
