r"""Arithmetic of integer networks: sums of products of integers on grids, and real factors as integers.

.. math:: q_3 = Z_3 + M \Big( \sum q_1 q_2 - Z_2 \sum q_1 - Z_1 \sum q_2 + N Z_1 Z_2 + q_b \Big), \quad
   M = \frac{S_1 S_2}{S_3} = 2^{-n} M_0

(jacob2018quantization, section 2). :mod:`lib.quantization.shared.integer_network` explains the symbols.
"""

from collections.abc import Callable

import torch
from torch import Tensor

INT32 = torch.iinfo(torch.int32)


def multiplier(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Split positive factors M = 2^-n M_0 into an int32 number and an exponent.

    factor: of any shape, above 0.

    Returns round(2^31 M_0), M_0 in [1/2, 1), and -n, both int64 and of that shape. A factor below 2^-32 gives 0. One of
    2^30 or more counts as 2^30 M_0, which takes every integer but zero beyond any grid of 16 bits.

    >>> [part.item() for part in multiplier(torch.tensor(0.75))]  # 0.75 = 2^0 · 0.75
    [1610612736, 0]
    """
    mantissa, exponent = torch.frexp(factor.double())
    m0, exponent = (mantissa * 2**31).round().long(), exponent.long()
    over = m0 == 2**31  # M_0 was rounded up to 1
    m0, exponent = torch.where(over, m0 // 2, m0), exponent + over
    return torch.where(exponent < -31, 0, m0), exponent.clamp(-31, 30)


def rescale(q: Tensor, m0: Tensor, exponent: Tensor, *, rounding: str = "twice") -> Tensor:
    """Multiply integers by M and round to integers.

    q: integers, int32 or int64.
    m0: round(2^31 M_0), as :func:`multiplier` returns it.
    exponent: -n, as :func:`multiplier` returns it.
    rounding: "twice" rounds M_0 q to the nearest, then the division by 2^n to the nearest, ties away from zero, as
        TensorFlow Lite's reference kernels do. "once" rounds both in one step, ties up, as it can be built to do too.

    Returns M q, int64.

    >>> rescale(torch.tensor([10, -10]), *multiplier(torch.tensor(0.25))).tolist()
    [3, -3]
    >>> rescale(torch.tensor([10, -10]), *multiplier(torch.tensor(0.25)), rounding="once").tolist()
    [3, -2]
    """
    if rounding == "once":
        shift = 31 - exponent
        return (q.long() * m0 + (1 << (shift - 1))) >> shift
    # method
    q = (q.long() << exponent.clamp(min=0)).clamp(INT32.min, INT32.max)
    product = q * m0  # 62 bits
    nudge = torch.where(product >= 0, 2**30, 1 - 2**30)
    high = torch.div(product + nudge, 2**31, rounding_mode="trunc")
    n = (-exponent).clamp(min=0)
    mask = (1 << n) - 1
    return (high >> n) + ((high & mask) > (mask >> 1) + (high < 0).long())
    # end of method


def accumulate(q1: Tensor, z1: int, q2: Tensor, z2: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compute product(q1 - z1, q2 - z2) from product(q1, q2) and the sums of the integers.

    q1: inputs, int32, (n, ...).
    z1: the zero of the inputs' grid.
    q2: weights, int32, (outputs, ...).
    z2: the zero of each output's grid, int32, (outputs,).
    product: linear in both of its arguments, such as ``torch.nn.functional.linear``.

    Returns int32.

    >>> q1, q2 = torch.tensor([[5, 6]], dtype=torch.int32), torch.tensor([[2, 3]], dtype=torch.int32)
    >>> product = torch.nn.functional.linear
    >>> accumulate(q1, 4, q2, torch.tensor([1], dtype=torch.int32), product).tolist()  # 1 · 1 + 2 · 2
    [[5]]
    """
    # method
    total = product(q1, q2)
    wide = [-1] + [1] * (q2.dim() - 2)  # outputs are the last dimension, in a convolution the one before the places
    flat = q2.flatten(1)
    total = total - (z1 * (flat.sum(1, dtype=torch.int32) - flat.shape[1] * z2)).reshape(wide)
    if z2.any():
        total = total - z2.reshape(wide) * product(q1, torch.ones_like(q2))
    return total
    # end of method


def narrowed(total: Tensor, most: int) -> tuple[Tensor, int]:
    """Shift integers that may be too large for int32 to the right, rounding to nearest, until they fit.

    total: integers, int64.
    most: the largest magnitude that they may have.

    Returns the integers and the power of two by which they were divided; 1 if they fit already.

    >>> narrowed(torch.tensor([2**32, 7]), 2**32)
    (tensor([1073741824,          2]), 4)
    """
    excess = max(0, most.bit_length() - 31)
    return ((total + (1 << excess >> 1)) >> excess if excess else total), 1 << excess


def fitted(scaled: Tensor, zero: Tensor | int, low: int, high: int) -> Tensor:
    """Add Z and clip to the integers of a grid.

    scaled: M q, int64.
    zero: Z of the grid.
    low: its lowest integer.
    high: its highest integer.

    Returns int32.

    >>> fitted(torch.tensor([-300, 5]), 10, -128, 127)
    tensor([-128,   15], dtype=torch.int32)
    """
    return (scaled + zero).clamp(low, high).int()
