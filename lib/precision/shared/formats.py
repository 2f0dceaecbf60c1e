"""Fixed-point formats: the multiples of one step in a range, and two ways of rounding to them."""

from dataclasses import dataclass
from numbers import Integral

import numba
import numpy as np
import torch
from torch import Tensor

from lib.arguments import check_one_of

ROUNDINGS = ("nearest", "stochastic")


def whole(name: str, value: object) -> int:
    """Return a whole number, possibly numpy's, as a Python int, since numpy's unsigned ones cannot be negated.

    name: what an error calls the number.
    value: ValueError unless it is a whole number.

    >>> -whole("bits", np.uint8(3))
    -3
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return int(value)


@dataclass(frozen=True)
class Format:
    """The multiples of ``step`` from ``lowest`` to ``highest``, in words of IL + FL bits.

    integer_bits: IL, a whole number, including the sign; may be negative if all numbers are small.
    fraction_bits: FL, a whole number, -64 to 96; a word has 1 to 32 bits.
    word: the number of bits that both must add up to, if it is given; afterwards it always holds their sum.

    Raises ValueError for numbers of bits out of range, and for a word that is not the sum.

    >>> format = Format(2, 6)
    >>> format.word, format.step, format.lowest, format.highest
    (8, 0.015625, -2.0, 1.984375)
    """

    integer_bits: int
    fraction_bits: int
    word: int = 0

    def __post_init__(self) -> None:
        for name in ("integer_bits", "fraction_bits", "word"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        total = self.integer_bits + self.fraction_bits
        if not 1 <= total <= 32 or not -64 <= self.fraction_bits <= 96:
            raise ValueError(
                f"a word of {self.integer_bits} integer and {self.fraction_bits} fractional bits has {total}:"
                " accepted are words of 1 to 32 bits, with -64 to 96 fractional ones"
            )
        if self.word not in (0, total):
            raise ValueError(
                f"{self.integer_bits} integer and {self.fraction_bits} fractional bits are {total}, not {self.word}:"
                " they must add up to the word"
            )
        object.__setattr__(self, "word", total)

    @property
    def step(self) -> float:
        """The distance between two neighbors, 2^-FL."""
        return 2.0**-self.fraction_bits

    @property
    def lowest(self) -> float:
        """The lower rail, -2^(IL-1)."""
        return -(2.0 ** (self.integer_bits - 1))

    @property
    def highest(self) -> float:
        """The upper rail, one step less than 2^(IL-1)."""
        return -self.lowest - self.step


def rounded(
    values: Tensor, format: Format, *, rounding: str = "nearest", generator: torch.Generator | None = None
) -> Tensor:
    """Round values to the numbers of a fixed-point format; they stay floats of the same type.

    values: any shape, float32 or float64. Infinity goes to a rail; in a format of more than 24 bits, float32 values
        stop at the last float32 before the upper rail.
    format: the format to round to.
    rounding: "nearest" (default; ties go up) or "stochastic".
    generator: for stochastic rounding, whose key is drawn from it.

    Raises ValueError for NaN, other types of numbers, an unknown rounding, and stochastic rounding without a generator
    (gupta2015limited, section 3).

    >>> rounded(torch.tensor([0.3, 0.125, 9.0]), Format(3, 2))
    tensor([0.2500, 0.2500, 3.7500])
    """
    check_one_of("rounding", rounding, ROUNDINGS)
    if rounding == "stochastic" and generator is None:
        raise ValueError("stochastic rounding without a generator: give one, so that the run can be repeated")
    flat, out = flat_floats(values), torch.empty(values.shape, dtype=values.dtype)
    key = np.uint64(1 + torch.randint(2**62, (), generator=generator).item() if rounding == "stochastic" else 0)
    lost = 2.0 ** (format.integer_bits - 1 - (24 if flat.dtype == np.float32 else 53))
    highest = min(format.highest, -format.lowest - lost)  # at most the upper rail, as far as the float type can hold it
    if round_each(flat, format.step, format.lowest, highest, key, out.view(-1).numpy()):
        raise ValueError("the values to round hold NaN, which fixed point cannot represent")
    return out.to(values.device)


def flat_floats(values: Tensor) -> np.ndarray:
    """The values as a flat array, (n,). Raises ValueError if they are not floats of 32 or 64 bits."""
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the values to round are {values.dtype}: accepted are float32 and float64")
    return values.detach().cpu().contiguous().view(-1).numpy()


@numba.njit(cache=True)
def round_each(values: np.ndarray, step: float, lowest: float, highest: float, key: np.uint64, out: np.ndarray) -> bool:
    """Write the values in fixed point to ``out``, and return whether any is NaN.

    Key 0 rounds to nearest, any other key at random.
    """
    nan = False
    for i in range(values.size):
        # method
        x = values[i] / step  # exact: the step is a power of two
        below = np.floor(x)
        threshold = 0.5
        if key:
            # splitmix64: the number i of the stream ``key``, as a fraction between 0 and 1
            z = key + np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            threshold = (np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(12)) + 0.5) * 2.0**-52
        nearest = (below + (x - below >= threshold)) * step
        out[i] = min(max(nearest, lowest), highest)
        # end of method
        nan |= x != x
    return nan
