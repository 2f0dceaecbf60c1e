r"""Limited precision as it was studied around 1990: short floats, fixed point, and a network with one hidden layer.

A float of e exponent and m significand bits has a relative error of at most :math:`2^{-(m+1)}`
(``shared/short_floats.py``). Iwata's processors computed with 24 bits (iwata1989artificial); we do not know how these
were divided, and use 1 + 7 + 16. A word of b bits in fixed point has one step for all numbers (``shared/formats.py``).

The network learns by back-propagation as it was done then, with sigmoids and squared errors. Every variable that memory
holds is rounded: weights, activations, errors, updates. Sums of products and the sigmoid itself are computed in float32
before they are rounded, so this simulates the words in memory, not each step inside an adder.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.precision.shared import formats, short_floats
from lib.precision.shared.formats import Format
from lib.precision.shared.straight_through import through
from lib.weights import CompressedWeight, Encoding, compress

Rounding = Callable[[Tensor], Tensor]


class FloatWeight(CompressedWeight):
    """A dense weight, rounded to a short float; the gradient passes through the rounding.

    exponent: bits of the exponent, 2 to 8.
    significand: bits of the significand without the leading one, 1 to 16.

    Raises ValueError for widths out of range, and later for a weight beyond the format.
    """

    def __init__(self, *, exponent: int, significand: int):
        super().__init__()
        exponent, significand = short_floats.check_widths(exponent, significand)
        if significand > 16:
            raise ValueError(f"significand must be in 1..16 for a weight that is stored, not {significand}")
        self.exponent, self.significand = exponent, significand

    def right_inverse(self, weight: Tensor) -> Tensor:
        if not self.forward(weight).isfinite().all():
            top = short_floats.largest(exponent=self.exponent, significand=self.significand)
            raise ValueError(f"a weight of {weight.abs().max():g} overflows: the format ends at {top:g}")
        return weight

    def forward(self, weight: Tensor) -> Tensor:
        return through(weight, lambda w: short_floats.rounded(w, exponent=self.exponent, significand=self.significand))

    def encode(self, weight: Tensor) -> Encoding:
        value = self.forward(weight).detach().flatten().cpu().numpy().astype(np.float64)
        _, power = np.frexp(np.abs(value))  # |value| = fraction 2^power, fraction in [1/2, 1)
        bias = 2 ** (self.exponent - 1) - 1
        power = np.where(value == 0, 1 - bias, np.maximum(power - 1, 1 - bias))
        whole = np.ldexp(np.abs(value), self.significand - power).astype(np.int64)  # 2^m + F, or F where subnormal
        field = np.where(whole >> self.significand, power + bias, 0) + (
            np.signbit(value).astype(np.int64) << self.exponent
        )
        symbols = {"sign and exponent": field, "significand": whole & (1 << self.significand) - 1}
        widths = torch.tensor([self.exponent, self.significand], dtype=torch.float32)
        return Encoding({name: torch.from_numpy(codes) for name, codes in symbols.items()}, {"widths": widths})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        exponent, significand = encoding.whole("widths", 2)
        short_floats.check_widths(exponent, significand)
        field = encoding.symbols["sign and exponent"].numpy()
        power = field & (1 << exponent) - 1
        whole = encoding.symbols["significand"].numpy() + (power > 0) * (1 << significand)
        bias = 2 ** (exponent - 1) - 1
        value = np.ldexp(whole.astype(np.float64), np.maximum(power, 1) - bias - significand)
        with np.errstate(over="ignore"):  # the reader of the file refuses what is not finite
            signed = np.where(field >> exponent, -value, value).astype(np.float32)
        return torch.from_numpy(signed).reshape(shape)

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        return dict.fromkeys(("sign and exponent", "significand"), shape.numel()), {"widths": 2}


def store(model: nn.Module, *, exponent: int, significand: int) -> nn.Module:
    """Keep the weights of every layer as short floats. In place; returns the model.

    model: any network of float32; its biases stay floats of 32 bits.
    exponent: bits of the exponent, 2 to 8.
    significand: bits of the significand without the leading one, 1 to 16.

    Raises ValueError for widths out of range, for weights beyond the format, not finite or of another type than
    float32, for a weight that two layers share, and for a model without a layer; the model is then unchanged.

    >>> from lib import models
    >>> model = store(models.lenet_300_100(), exponent=8, significand=7)
    >>> torch.equal(model.fc1.weight, models.lenet_300_100().fc1.weight.bfloat16().float())
    True
    """
    return compress(model, lambda name, layer: FloatWeight(exponent=exponent, significand=significand))


# -- A network with one hidden layer, in words of few bits -------------------------------------


@dataclass(frozen=True)
class Words:
    """How the numbers of a network are rounded.

    weights: rounds weights, biases and their updates, of any shape.
    signals: rounds activations and errors, all in [-1, 1].
    code: which words these are, three whole numbers: 0 and two zeros for :func:`single`, 1, exponent and significand
        for :func:`floating`, 2, bits and integer bits for :func:`fixed`.
    """

    weights: Rounding
    signals: Rounding
    code: tuple[int, int, int]


def single() -> Words:
    """float32 everywhere: nothing is rounded."""
    return Words(lambda x: x, lambda x: x, (0, 0, 0))


def floating(*, exponent: int = 7, significand: int = 16) -> Words:
    """One short float format for everything.

    exponent: bits of the exponent, 2 to 8, default 7.
    significand: bits of the significand without the leading one, 1 to 23, default 16.

    Raises ValueError for widths out of range.
    """
    exponent, significand = short_floats.check_widths(exponent, significand)

    def rounding(x: Tensor) -> Tensor:
        return short_floats.rounded(x, exponent=exponent, significand=significand)

    return Words(rounding, rounding, (1, exponent, significand))


def fixed(bits: int, *, integer: int = 4) -> Words:
    """Words in fixed point, rounded to the nearest: signals in [-1, 1) with the step 2^(1-bits).

    bits: of a word, including the sign, ``integer`` to 24.
    integer: bits of a weight before the point, including the sign, 1 or more, default 4: weights are in
        [-2^(integer-1), 2^(integer-1)) with the step 2^(integer-bits).

    Raises ValueError for numbers out of range.
    """
    bits, integer = formats.whole("bits", bits), formats.whole("integer", integer)
    if not 1 <= integer <= bits <= 24:
        raise ValueError(f"bits must be in {max(1, integer)}..24 and integer in 1..bits, not {bits} and {integer}")
    weights, signals = Format(integer, bits - integer), Format(1, bits - 1)
    code = 2, bits, integer
    return Words(lambda x: formats.rounded(x, weights), lambda x: formats.rounded(x, signals), code)


def words_of(code: Sequence[int]) -> Words:
    """The words that belong to a code: the inverse of ``Words.code``.

    code: three whole numbers; ValueError if they belong to no words.

    >>> words_of(fixed(8).code).code
    (2, 8, 4)
    """
    kind, first, second = code
    if kind == 0:
        return single()
    if kind == 1:
        return floating(exponent=first, significand=second)
    if kind == 2:
        return fixed(first, integer=second)
    raise ValueError(f"no words have the code {list(code)}: the first number must be 0, 1 or 2")


class Perceptron(nn.Module):
    """A hidden layer of sigmoids and a sigmoid for each class; input (n, ...), output (n, classes) in [0, 1].

    ``words`` rounds inputs and activations, and is float32 to begin with; :func:`retrieve` and :func:`learn` round the
    weights. Its code is the buffer ``code``, so it is saved and loaded with the weights.

    inputs: pixels of an image.
    hidden: units of the hidden layer, default 32.
    classes: number of outputs, default 10.
    seed: of the random weights, default 0.
    """

    def __init__(self, inputs: int, *, hidden: int = 32, classes: int = 10, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            self.hidden, self.output = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)
        self.register_buffer("code", torch.zeros(3, dtype=torch.int64))

    code: Tensor

    @property
    def words(self) -> Words:
        """How this network rounds."""
        return words_of(self.code.tolist())

    @words.setter
    def words(self, words: Words) -> None:
        self.code.copy_(torch.tensor(words.code))

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The values of the inputs, the hidden units and the outputs: (n, inputs), (n, hidden), (n, classes).

        x: images, (n, ...).
        """
        rounded = self.words.signals
        x = rounded(x.flatten(1))
        h = rounded(torch.sigmoid(self.hidden(x)))
        return x, h, rounded(torch.sigmoid(self.output(h)))

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)[-1]


@torch.no_grad()
def retrieve(model: Perceptron, words: Words) -> Perceptron:
    """Copy a network, round its weights once, and let it compute in the given words: inference only.

    model: left unchanged.
    words: how weights and signals are rounded.
    """
    model = copy.deepcopy(model)
    model.words = words
    for parameter in model.parameters():
        parameter.copy_(words.weights(parameter))
    return model


@torch.no_grad()
def learn(
    model: Perceptron, split: Split, *, epochs: int, seed: int, learning_rate: float = 1.0, batch_size: int = 16
) -> float:
    """Train by back-propagation of the squared error in the model's own words; return the share of updates lost.

    With targets t in {0, 1}, the output's error is (y - t) y (1 - y), the hidden layer's is W^T times that, times
    h (1 - h), and an update is the learning rate times the batch's mean of error times activation. In place.

    model: its ``words`` round every variable that is kept.
    split: images and labels to train on.
    epochs: passes over the split.
    seed: of the order of the samples.
    learning_rate: of every step, default 1.
    batch_size: samples per step, default 16.

    Returns the share of the weights' updates in the last epoch that were not zero and yet changed nothing.
    Raises ValueError for an empty split.

    >>> model, split = Perceptron(4), Split(torch.rand(8, 1, 2, 2), torch.arange(8))
    >>> model.words = fixed(8)
    >>> learn(model, split, epochs=1, seed=0, learning_rate=1e-4)  # every update is below half a step
    1.0
    """
    split.check_not_empty("to train on")
    generator = torch.Generator().manual_seed(int(seed))
    weights, signals = model.words.weights, model.words.signals
    for parameter in model.parameters():
        parameter.copy_(weights(parameter))
    targets = nn.functional.one_hot(split.labels, model.output.out_features).float()
    swallowed = moved = 0
    for epoch in range(epochs):
        for batch in torch.randperm(len(split), generator=generator).split(batch_size):
            # method
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
            # end of method
    return swallowed / max(1, moved)
