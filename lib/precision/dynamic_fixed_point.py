r"""Dynamic fixed point: one range for each kind of number in each layer, moved when too many numbers overflow.

With B bits besides the sign and the range I, which may be negative, the numbers are (courbariaux2014low)

.. math:: q(x) = \operatorname{clip}\big(\operatorname{round}(x\, 2^{B-I}),\, \pm(2^B - 1)\big)\, 2^{I-B} .

Fixed point has one range for everything. Dynamic fixed point has one for the outputs of a layer, one for its weights,
one for its biases, and one each for their errors, gradients and updates. At regular intervals a range grows by one
bit if more than a share r of its numbers have reached its end, and shrinks by one bit if no more than r would reach the
end of half the range. Parameters are kept with more bits than they are multiplied with. Rounding is never random.
"""

import copy
from dataclasses import dataclass
from typing import Unpack

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.precision.shared.arithmetic import Arithmetic
from lib.precision.shared.formats import Format, flat_floats, whole
from lib.precision.shared.gradient_descent import DescentOptions, train

LIMITS = -60, 60  # of a range


def rounded(values: Tensor, *, bits: int, integer_bits: int) -> Tensor:
    """Round values to the nearest number of a symmetric range, q(x); ties go to even.

    values: any shape, float32 or float64.
    bits: B, 1 to 31, without the sign.
    integer_bits: I, the range, -60 to 60.

    Raises ValueError for arguments out of range, for NaN, and for other types of numbers (courbariaux2014low).

    >>> rounded(torch.tensor([0.3, -0.3, 9.0]), bits=3, integer_bits=0)
    tensor([ 0.2500, -0.2500,  0.8750])
    """
    return _counted(values, bits, integer_bits)[0]


def _counted(values: Tensor, bits: int, integer_bits: int) -> tuple[Tensor, int, int]:
    """The rounded values; how many reached the end of the range; how many would reach the end of half the range."""
    bits, integer_bits = whole("bits", bits), whole("integer_bits", integer_bits)
    if not 1 <= bits <= 31:
        raise ValueError(f"bits must be in 1..31 besides the sign, not {bits}")
    if not LIMITS[0] <= integer_bits <= LIMITS[1]:
        raise ValueError(f"integer_bits must be in {LIMITS[0]}..{LIMITS[1]}, not {integer_bits}")
    flat, out = flat_floats(values), torch.empty(values.shape, dtype=values.dtype)
    nan, over, half = _quantized(flat, 2.0 ** (integer_bits - bits), 2.0**bits - 1, out.view(-1).numpy())
    if nan:
        raise ValueError("the values to round hold NaN, which fixed point cannot represent")
    return out.to(values.device), over, half


@numba.njit(cache=True)
def _quantized(values: np.ndarray, step: float, top: float, out: np.ndarray) -> tuple[bool, int, int]:
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
    """A range I, and how many numbers were rounded to it since it last moved: in all, and those too large for it.

    integer_bits: I.
    numbers: how many were rounded.
    over: how many of them reached the end of the range.
    half: how many would have reached the end of half the range.
    moves: how often the range has moved.
    """

    integer_bits: int
    numbers: int = 0
    over: int = 0
    half: int = 0
    moves: int = 0

    def move(self, limit: float) -> None:
        """Move one bit up, one bit down, or not at all; then count from zero. Zeros alone do not move a range.

        limit: the share of the numbers that may reach the end of the range.

        >>> grown = Range(3, numbers=1000, over=5, half=400)
        >>> grown.move(limit=1e-4)
        >>> grown.integer_bits
        4
        """
        if self.numbers:
            # method
            change = (self.over > limit * self.numbers) - (self.half <= limit * self.numbers)
            moved = min(max(self.integer_bits + change, LIMITS[0]), LIMITS[1])
            # end of method
            self.moves += moved != self.integer_bits
            self.integer_bits = moved
        self.numbers = self.over = self.half = 0


class DynamicFixedPoint(Arithmetic):
    """Numbers in ranges that move as they overflow; ``ranges`` holds place -> :class:`Range`.

    bits: B, of the numbers that are multiplied, besides the sign, 1 to 31.
    storage_bits: of stored parameters, besides the sign, from ``bits`` (default) to 31.
    integer_bits: I of every range to begin with, default 5.
    every: steps between two moves, default 100; None never moves them, which is the fixed point that the paper compares
        with.
    limit: the share r of the numbers that may overflow, 0 to 1, default 1e-4.

    Raises ValueError for arguments out of range (courbariaux2014low).

    >>> arithmetic = DynamicFixedPoint(bits=3, integer_bits=1)
    >>> arithmetic.rounded(torch.tensor([0.3, 9.0]), "fc1.output")
    tensor([0.2500, 1.7500])
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
        bits, integer_bits = whole("bits", bits), whole("integer_bits", integer_bits)
        storage_bits = bits if storage_bits is None else whole("storage_bits", storage_bits)
        if not 1 <= bits <= storage_bits <= 31:
            raise ValueError(f"bits must be in 1..31 and no more than storage_bits, not {bits} and {storage_bits}")
        if (every is not None and every < 1) or not 0 <= limit <= 1:
            raise ValueError(f"every must be 1 or more, or None, and limit in 0..1, not {every} and {limit}")
        self.bits, self.storage_bits, self.start = bits, storage_bits, integer_bits
        self.every, self.limit = every, limit
        self.ranges: dict[str, Range] = {}
        self.steps = 0

    def rounded(self, values: Tensor, place: str) -> Tensor:
        """The values rounded to the range of their place; training also counts those that leave it."""
        # method
        known = self.ranges.setdefault(place, Range(self.start))
        quantized, over, half = _counted(values, self.bits, known.integer_bits)
        if self.learning and (half or values.any()):
            known.numbers, known.over, known.half = known.numbers + values.numel(), known.over + over, known.half + half
        # end of method
        return quantized

    def keep(self, values: Tensor, place: str) -> Tensor:
        """A parameter rounded to ``storage_bits``, in the range of its place."""
        known = self.ranges.setdefault(place, Range(self.start))
        return rounded(values, bits=self.storage_bits, integer_bits=known.integer_bits)

    def end_of_step(self) -> None:
        """Move all ranges, if enough steps have passed."""
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

    def rounded(self, values: Tensor, place: str) -> Tensor:
        """The values as the nearest 16-bit floats."""
        return values.half().to(values.dtype)

    def keep(self, values: Tensor, place: str) -> Tensor:
        """A parameter as the nearest 16-bit floats."""
        return self.rounded(values, place)


def find_ranges(
    model: nn.Module,
    split: Split,
    *,
    arithmetic: DynamicFixedPoint,
    epochs: int,
    seed: int,
    **options: Unpack[DescentOptions],
) -> None:
    """Let the ranges settle while a copy of the model is trained with 31 bits.

    The model itself is left unchanged, so its training begins from the same parameters, but with good ranges.

    model: any network whose layers are modules, float32 or float64.
    split: images and labels to train on.
    arithmetic: whose ranges are set.
    epochs: passes over the split, 0 or more.
    seed: of the order of the samples.
    options: of the training, see :func:`lib.precision.shared.gradient_descent.train`:

        - learning_rate: of the first epoch, default 0.1.
        - decay: factor of the learning rate after each epoch, default 0.95.
        - batch_size: samples per step, 1 or more, default 128.

    Raises TypeError for unknown options, and ValueError for an empty split, arguments out of range, and a loss that is
    not finite.
    """
    wide = DynamicFixedPoint(bits=31, integer_bits=arithmetic.start, every=arithmetic.every, limit=arithmetic.limit)
    train(copy.deepcopy(model), split, arithmetic=wide, epochs=epochs, seed=seed, **options)
    arithmetic.ranges = {place: Range(known.integer_bits) for place, known in wide.ranges.items()}
