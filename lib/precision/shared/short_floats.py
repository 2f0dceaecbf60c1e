r"""Floats of fewer bits than 32.

A float of e exponent and m significand bits holds, with the bias :math:`\beta = 2^{e-1} - 1`,

.. math:: \pm (1 + F / 2^m)\, 2^{E - \beta}, \quad 0 < E < 2^e - 1, \qquad \pm F\, 2^{1 - \beta - m}, \quad E = 0,

and infinity where E is at its top, all as in IEEE 754; rounding goes to the nearest, ties to the even F. Its relative
error is at most :math:`2^{-(m+1)}`.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from lib.precision.shared.formats import whole

INFINITY = 255 << 23  # the bits of infinity in float32


def check_widths(exponent: int, significand: int) -> tuple[int, int]:
    """Return the widths; ValueError unless they are whole numbers, an exponent in 2..8 and a significand in 1..23."""
    exponent, significand = whole("exponent", exponent), whole("significand", significand)
    if not 2 <= exponent <= 8 or not 1 <= significand <= 23:
        raise ValueError(f"exponent must be in 2..8 and significand in 1..23, not {exponent} and {significand}")
    return exponent, significand


def rounded(values: Tensor, *, exponent: int = 7, significand: int = 16) -> Tensor:
    """Round values to floats of 1 + exponent + significand bits; they stay float32, and have no gradient.

    values: any shape, float32. Small numbers become subnormal, then zero with their sign; large ones infinity; NaN
        stays.
    exponent: bits of the exponent, 2 to 8, default 7.
    significand: bits of the significand without the leading one, 1 to 23, default 16.

    Raises ValueError for widths out of range, and for values that are not float32.

    >>> rounded(torch.tensor([1.0, 1.1, 70000.0]), exponent=5, significand=2)
    tensor([1., 1., inf])
    """
    exponent, significand = check_widths(exponent, significand)
    if values.dtype != torch.float32:
        raise ValueError(f"values are {values.dtype}: float32 is needed, which contains every shorter format")
    bits = values.detach().cpu().contiguous().view(torch.int32).numpy()
    out = np.empty_like(bits)
    round_bits(bits.reshape(-1), out.reshape(-1), exponent, significand)
    return torch.from_numpy(out).view(torch.float32).to(values.device)


@numba.njit("void(int32[::1], int32[::1], int64, int64)", cache=True)
def round_bits(bits: np.ndarray, rounded: np.ndarray, exponent: int, significand: int) -> None:
    """Round the bits of float32 numbers to a shorter format: add half a unit, then cut off the bits below the unit."""
    least = 129 - (1 << exponent - 1) if exponent < 8 else 0  # biased exponent of the least normal number
    top = ((1 << exponent - 1) + 127) << 23  # bits of the first number that is too large
    for i in range(len(bits)):
        magnitude = bits[i] & 0x7FFFFFFF
        if magnitude > INFINITY:  # NaN
            rounded[i] = bits[i]
            continue
        # method
        field = magnitude >> 23
        drop = 23 - significand + max(0, least - field)  # subnormal: one bit less for each power of two
        if drop > 24:
            magnitude = 0
        elif drop > 0:
            kept = (magnitude & 0x7FFFFF) + 0x800000  # with the leading one, so that a carry is seen
            odd = kept >> drop & 1  # ties go to the even neighbor: half a unit, less one bit if that is below
            kept = kept + (1 << drop - 1) - 1 + odd >> drop << drop
            magnitude = magnitude - (magnitude & 0x7FFFFF) + kept - 0x800000 if kept else 0
        # end of method
        rounded[i] = (INFINITY if magnitude >= top else magnitude) | (bits[i] & ~0x7FFFFFFF)


def largest(*, exponent: int, significand: int) -> float:
    """The largest finite number of the format, (2 - 2^-m) 2^bias.

    exponent: bits of the exponent, 2 to 8.
    significand: bits of the significand without the leading one, 1 to 23.

    Raises ValueError for widths out of range.

    >>> largest(exponent=5, significand=10)
    65504.0
    """
    exponent, significand = check_widths(exponent, significand)
    return (2 - 2.0**-significand) * 2.0 ** (2 ** (exponent - 1) - 1)
