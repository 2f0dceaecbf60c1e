r"""Limited precision as it was studied around 1990: short floats, fixed point, and a network with one hidden layer.

A float of e exponent and m significand bits holds, with the bias :math:`\beta = 2^{e-1} - 1`,

.. math:: \pm (1 + F / 2^m)\, 2^{E - \beta}, \quad 0 < E < 2^e - 1, \qquad \pm F\, 2^{1 - \beta - m}, \quad E = 0,

and infinity where E is at its top, all as IEEE 754 says; rounding goes to the nearest, ties to the even F. Its relative
error is at most :math:`2^{-(m+1)}`. Iwata's processors computed with 24 bits (iwata1989artificial); how these were
divided is not known here, and ours are 1 + 7 + 16. A word of b bits in fixed point has one step for all numbers.

The network learns by the back-propagation of its time, with squared errors behind sigmoids. Every variable that is kept
is rounded: weights, activations, errors, updates. Sums of products and the sigmoid itself are computed in float32
before they are rounded, so this simulates the words that memory holds, and not each step inside an adder.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.precision.fixed_point import Format, convert
from lib.weights import CompressedWeight, Encoding, compress

Rounding = Callable[[Tensor], Tensor]
INFINITY = 255 << 23  # the bits of float32's


def float_format(x: Tensor, *, exponent: int = 7, significand: int = 16) -> Tensor:
    """x rounded to floats of 1 + exponent + significand bits, in float32. Shape as x, no gradient.

    exponent: 2 to 8; significand: 1 to 23 (without the leading one). Small numbers become subnormal, then zero with
    their sign; large ones infinity; NaN stays. Raises ValueError for other widths, and for x not of float32.
    """
    _check(exponent, significand)
    if x.dtype != torch.float32:
        raise ValueError(f"x is {x.dtype}: float32 is needed, of which every shorter format is a part")
    bits = x.detach().contiguous().view(torch.int32).numpy()
    rounded = np.empty_like(bits)
    round_bits(bits.reshape(-1), rounded.reshape(-1), exponent, significand)
    return torch.from_numpy(rounded).view(torch.float32)


@numba.njit("void(int32[::1], int32[::1], int64, int64)", cache=True)
def round_bits(bits, rounded, exponent, significand):
    """The bits of float32 numbers, rounded to a shorter format: half a unit is added, what lies below it cut off."""
    least = 129 - (1 << exponent - 1) if exponent < 8 else 0  # biased exponent of the least normal number
    top = ((1 << exponent - 1) + 127) << 23  # bits of the first number that is too large
    for i in range(len(bits)):
        magnitude = bits[i] & 0x7FFFFFFF
        if magnitude > INFINITY:  # NaN
            rounded[i] = bits[i]
            continue
        field = magnitude >> 23
        drop = 23 - significand + max(0, least - field)  # subnormal: one bit less for each power of two
        if drop > 24:
            magnitude = 0
        elif drop > 0:
            kept = (magnitude & 0x7FFFFF) + 0x800000  # with the leading one, so that a carry is seen
            odd = kept >> drop & 1  # ties go to the even neighbour: half a unit, less one bit where that is below
            kept = kept + (1 << drop - 1) - 1 + odd >> drop << drop
            magnitude = magnitude - (magnitude & 0x7FFFFF) + kept - 0x800000 if kept else 0
        rounded[i] = (INFINITY if magnitude >= top else magnitude) | (bits[i] & ~0x7FFFFFFF)


def largest(*, exponent: int, significand: int) -> float:
    """The largest finite number of the format, (2 - 2^-m) 2^bias."""
    _check(exponent, significand)
    return (2 - 2.0**-significand) * 2.0 ** (2 ** (exponent - 1) - 1)


class FloatWeight(CompressedWeight):
    """A dense weight, rounded to a short float; the gradient passes through the rounding."""

    def __init__(self, *, exponent: int, significand: int):
        super().__init__()
        _check(exponent, significand)
        if significand > 16:
            raise ValueError(f"significand must be in 1..16 for a weight that is stored, not {significand}")
        self.exponent, self.significand = exponent, significand

    def right_inverse(self, weight: Tensor) -> Tensor:
        if not self.forward(weight).isfinite().all():
            top = largest(exponent=self.exponent, significand=self.significand)
            raise ValueError(f"a weight of {weight.abs().max():g} overflows: the format ends at {top:g}")
        return weight

    def forward(self, weight: Tensor) -> Tensor:
        return _PassedThrough.apply(weight, self.exponent, self.significand)

    def encode(self, weight: Tensor) -> Encoding:
        value = self.forward(weight).detach().flatten().numpy().astype(np.float64)
        _, power = np.frexp(np.abs(value))  # |value| = fraction 2^power, fraction in [1/2, 1)
        bias = 2 ** (self.exponent - 1) - 1
        power = np.where(value == 0, 1 - bias, np.maximum(power - 1, 1 - bias))
        whole = np.ldexp(np.abs(value), self.significand - power).astype(np.int64)  # 2^m + F, or F where subnormal
        field = np.where(whole >> self.significand, power + bias, 0) + (
            np.signbit(value).astype(np.int64) << self.exponent
        )
        symbols = {"sign and exponent": field, "significand": whole & (1 << self.significand) - 1}
        widths = torch.tensor([self.exponent, self.significand], dtype=torch.float32)
        return Encoding({name: torch.from_numpy(each) for name, each in symbols.items()}, {"widths": widths})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        exponent, significand = map(int, encoding.tables["widths"])
        field = encoding.symbols["sign and exponent"].numpy()
        power = field & (1 << exponent) - 1
        whole = encoding.symbols["significand"].numpy() + (power > 0) * (1 << significand)
        bias = 2 ** (exponent - 1) - 1
        value = np.ldexp(whole.astype(np.float64), np.maximum(power, 1) - bias - significand)
        return torch.from_numpy(np.where(field >> exponent, -value, value).astype(np.float32)).reshape(shape)


class _PassedThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, exponent: int, significand: int) -> Tensor:
        return float_format(weight, exponent=exponent, significand=significand)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def store(model: nn.Module, *, exponent: int, significand: int) -> nn.Module:
    """Keep the weights of every layer as short floats. In place; returns the model.

    Raises ValueError for widths outside 2..8 and 1..16, weights beyond the format, and what `compress` refuses.
    """
    return compress(model, lambda name, layer: FloatWeight(exponent=exponent, significand=significand))


# -- A network with one hidden layer, in words of few bits -------------------------------------


@dataclass(frozen=True)
class Words:
    """How weights (with biases and updates) and signals (activations and errors, in [-1, 1]) are rounded."""

    weights: Rounding
    signals: Rounding


def single() -> Words:
    """float32 everywhere: nothing is rounded."""
    return Words(lambda x: x, lambda x: x)


def floating(*, exponent: int = 7, significand: int = 16) -> Words:
    """One short float format for everything."""
    _check(exponent, significand)

    def rounding(x: Tensor) -> Tensor:
        return float_format(x, exponent=exponent, significand=significand)

    return Words(rounding, rounding)


def fixed(bits: int, *, integer: int = 4) -> Words:
    """Words of ``bits`` bits with the sign, rounded to the nearest: weights in [-2^(integer-1), 2^(integer-1)), step
    2^(integer-bits); signals in [-1, 1), step 2^(1-bits)."""
    if not 1 <= integer <= bits <= 24:
        raise ValueError(f"bits must be in {max(1, integer)}..24 and integer in 1..bits, not {bits} and {integer}")
    weights, signals = Format(integer, bits - integer), Format(1, bits - 1)
    return Words(lambda x: convert(x, weights), lambda x: convert(x, signals))


class Perceptron(nn.Module):
    """A hidden layer of sigmoids and a sigmoid for each class; input (n, ...), output (n, classes) in [0, 1].

    ``words`` rounds inputs and activations; the weights are rounded where they are kept.
    """

    def __init__(self, inputs: int, *, hidden: int = 32, classes: int = 10, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden, self.output = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)
        self.words = single()

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the inputs, the hidden units and the outputs hold."""
        rounded = self.words.signals
        x = rounded(x.flatten(1))
        h = rounded(torch.sigmoid(self.hidden(x)))
        return x, h, rounded(torch.sigmoid(self.output(h)))

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)[-1]


@torch.no_grad()
def retrieve(model: Perceptron, words: Words) -> Perceptron:
    """A copy whose weights are rounded once and that computes in the given words: inference only."""
    model = copy.deepcopy(model)
    model.words = words
    for parameter in model.parameters():
        parameter.copy_(words.weights(parameter))
    return model


@torch.no_grad()
def learn(
    model: Perceptron, split: Split, *, epochs: int, seed: int, learning_rate: float = 1.0, batch_size: int = 16
) -> float:
    """Back-propagation of the squared error in the model's own words; the share of updates that rounding swallowed.

    With targets t in {0, 1}: the output's error is (y - t) y (1 - y), the hidden layer's W^T of it times h (1 - h), and
    an update is the learning rate times the batch's mean of error times activation. In place, sample order by ``seed``.
    The share counts the weights' updates of the last epoch that were not zero and changed nothing.
    Raises ValueError on an empty split.
    """
    if len(split) == 0:
        raise ValueError("the training split is empty: at least one sample is needed")
    generator = torch.Generator().manual_seed(seed)
    weights, signals = model.words.weights, model.words.signals
    for parameter in model.parameters():
        parameter.copy_(weights(parameter))
    targets = nn.functional.one_hot(split.labels, model.output.out_features).float()
    swallowed = moved = 0
    for epoch in range(epochs):
        for batch in torch.randperm(len(split), generator=generator).split(batch_size):
            x, h, y = model.activations(split.images[batch])
            output = signals((y - targets[batch]) * y * (1 - y))
            hidden = signals(output @ model.output.weight * h * (1 - h))
            for layer, error, below in ((model.output, output, h), (model.hidden, hidden, x)):
                rate = learning_rate / len(batch)
                step = rate * (error.T @ below)
                new = weights(layer.weight - weights(step))
                if epoch == epochs - 1:
                    asked = step != 0
                    moved += int(asked.sum())
                    swallowed += int((asked & (new == layer.weight)).sum())
                layer.weight.copy_(new)
                layer.bias.copy_(weights(layer.bias - weights(rate * error.sum(0))))
    return swallowed / max(1, moved)


def _check(exponent: int, significand: int) -> None:
    if not 2 <= exponent <= 8 or not 1 <= significand <= 23:
        raise ValueError(f"exponent must be in 2..8 and significand in 1..23, not {exponent} and {significand}")
