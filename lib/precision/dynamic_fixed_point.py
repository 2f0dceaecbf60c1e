r"""Dynamic fixed point: one range for each kind of number in each layer, moved when too many numbers overflow.

With B bits beside the sign and the range I, which may be negative, the numbers are (courbariaux2014low)

.. math:: q(x) = \operatorname{clip}\big(\operatorname{round}(x\, 2^{B-I}),\, \pm(2^B - 1)\big)\, 2^{I-B} .

Fixed point has one range for everything. Dynamic fixed point has one for the outputs of a layer, one for its weights,
one for its biases, and one for the errors, gradients and updates of each. Every so many steps a range grows by one bit
if more than a share r of its numbers have reached its end, and shrinks by one bit if no more than r would reach the
smaller end. Parameters are kept with more bits than those that are multiplied. There is no chance in rounding.
"""

import copy
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.precision.fixed_point import Arithmetic, Format, plain, train

LIMITS = -60, 60  # of a range


def quantize(values: Tensor, *, bits: int, integer_bits: int) -> Tensor:
    """q of the values (any shape, float32 or float64): symmetric, rounded to nearest, ties to even.

    bits: B, 1 to 31, without the sign. integer_bits: I, -60 to 60. Raises ValueError beyond, and for NaN.
    """
    return _counted(values, bits, integer_bits)[0]


def _counted(values: Tensor, bits: int, integer_bits: int) -> tuple[Tensor, int, int]:
    """The quantized values; how many reached the end of the range; how many would that of half the range."""
    if not 1 <= bits <= 31:
        raise ValueError(f"bits must be in 1..31 beside the sign, not {bits}")
    if not LIMITS[0] <= integer_bits <= LIMITS[1]:
        raise ValueError(f"integer_bits must be in {LIMITS[0]}..{LIMITS[1]}, not {integer_bits}")
    flat, out = plain(values), torch.empty(values.shape, dtype=values.dtype)
    nan, over, half = _quantized(flat, 2.0 ** (integer_bits - bits), 2.0**bits - 1, out.view(-1).numpy())
    if nan:
        raise ValueError("the values to quantize hold NaN, which no fixed-point number is")
    return out.to(values.device), over, half


@numba.njit(cache=True)
def _quantized(values, step, top, out):
    nan, over, half = False, 0, 0
    for i in range(values.size):
        x = values[i] / step
        out[i] = min(max(np.rint(x), -top), top) * step
        over += abs(x) >= top
        half += abs(x) >= top / 2
        nan |= x != x
    return nan, over, half


@dataclass
class Range:
    """A range I, and what was seen since it last moved."""

    integer_bits: int
    numbers: int = 0
    over: int = 0  # of them, those that reached the end of the range
    half: int = 0  # those that would reach the end of the next smaller one
    moves: int = 0

    def move(self, limit: float) -> None:
        """One bit up, one bit down, or not at all; then count anew. Zeros alone say nothing about a range."""
        if self.numbers:
            change = (self.over > limit * self.numbers) - (self.half <= limit * self.numbers)
            found = min(max(self.integer_bits + change, LIMITS[0]), LIMITS[1])
            self.moves += found != self.integer_bits
            self.integer_bits = found
        self.numbers = self.over = self.half = 0


class DynamicFixedPoint(Arithmetic):
    """Numbers of ``bits`` bits beside the sign, parameters kept with ``storage_bits``; ``ranges`` holds I by place.

    integer_bits: every range to begin with. every: steps between two moves; None never moves them, which is the fixed
    point that the paper compares with. limit: the share r that may overflow.
    Raises ValueError for bits outside 1..31, storage of fewer bits, every below 1 and a limit outside 0..1.
    """

    def __init__(
        self,
        *,
        bits: int,
        storage_bits: int | None = None,
        integer_bits: int = 5,
        every: int | None = 100,
        limit: float = 1e-4,
    ):
        storage_bits = bits if storage_bits is None else storage_bits
        if not 1 <= bits <= storage_bits <= 31:
            raise ValueError(f"bits must be in 1..31 and no more than storage_bits, not {bits} and {storage_bits}")
        if (every is not None and every < 1) or not 0 <= limit <= 1:
            raise ValueError(f"every must be 1 or more, or None, and limit in 0..1, not {every} and {limit}")
        self.bits, self.storage_bits, self.start, self.every, self.limit = (
            bits,
            storage_bits,
            integer_bits,
            every,
            limit,
        )
        self.ranges: dict[str, Range] = {}
        self.steps = 0

    def convert(self, values: Tensor, place: str) -> Tensor:
        known = self.ranges.setdefault(place, Range(self.start))
        quantized, over, half = _counted(values, self.bits, known.integer_bits)
        if self.learning and (half or values.any()):
            known.numbers, known.over, known.half = known.numbers + values.numel(), known.over + over, known.half + half
        return quantized

    def keep(self, values: Tensor, place: str) -> Tensor:
        known = self.ranges.setdefault(place, Range(self.start))
        return quantize(values, bits=self.storage_bits, integer_bits=known.integer_bits)

    def end_of_step(self) -> None:
        self.steps += 1
        if self.every and self.steps % self.every == 0:
            for known in self.ranges.values():
                known.move(self.limit)

    def formats(self) -> dict[str, Format]:
        """Layer name -> the fixed-point format that holds its weight as the network multiplies with it."""
        weights = {place[:-7]: r.integer_bits for place, r in self.ranges.items() if place.endswith(".weight")}
        return {name: Format(range + 1, self.bits - range) for name, range in weights.items()}


class HalfFloat(Arithmetic):
    """IEEE's 16-bit floats for everything, parameters included."""

    def convert(self, values: Tensor, place: str) -> Tensor:
        return values.half().to(values.dtype)

    def keep(self, values: Tensor, place: str) -> Tensor:
        return self.convert(values, place)


def find_ranges(model: nn.Module, split: Split, *, arithmetic: DynamicFixedPoint, epochs: int, **how: object) -> None:
    """Let the ranges settle while a copy of the model is trained with 31 bits; ``how``: for ``train``.

    The model itself is left as it is, so that its training begins from the same parameters, with good ranges.
    """
    wide = DynamicFixedPoint(bits=31, integer_bits=arithmetic.start, every=arithmetic.every, limit=arithmetic.limit)
    train(copy.deepcopy(model), split, arithmetic=wide, epochs=epochs, **how)
    arithmetic.ranges = {place: Range(known.integer_bits) for place, known in wide.ranges.items()}
