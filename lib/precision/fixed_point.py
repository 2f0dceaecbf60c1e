r"""Training in fixed point: each number of a network is a whole multiple of one step, in 16 bits or so.

A format of IL integer bits, the sign among them, and FL fractional bits holds the multiples of
:math:`\epsilon = 2^{-FL}` in :math:`[-2^{IL-1},\, 2^{IL-1} - \epsilon]`; a word has :math:`WL = IL + FL` bits.
A number x from outside goes to the nearest rail, any other to one of its two neighbours (gupta2015limited, section 3):

.. math:: \text{nearest: } \lfloor x \rfloor + \epsilon\,[\,x - \lfloor x \rfloor \ge \epsilon / 2\,], \qquad
    \text{stochastic: } \lfloor x \rfloor + \epsilon \text{ with probability } (x - \lfloor x \rfloor) / \epsilon ,

where :math:`\lfloor x \rfloor` is the largest multiple of :math:`\epsilon` that is not above x. Weights, biases,
outputs, errors, gradients and updates are kept so, and learning is :math:`W \leftarrow Q(W - Q(\eta\, Q(g)))`.
A dot product is summed in a wide accumulator and converted once. Here that accumulator is a float of the model's type:
it is exact in float64, while in float32 a sum of more than 24 bits is rounded before it is converted. The loss and its
softmax stay floats, and so does the inside of batch norm; what a ``forward`` computes between layers is not seen.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split
from lib.weights import CompressedWeight, Encoding, compress, layers

ROUNDINGS = ("nearest", "stochastic")
POOLS = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d | nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d
KEEP_THE_GRID = nn.Flatten | nn.Unflatten | nn.Identity | POOLS  # their outputs are some of their inputs


@dataclass(frozen=True)
class Format:
    """The multiples of ``step`` from ``lowest`` to ``highest``. word: the bits that both must add up to, if stated."""

    integer_bits: int  # IL, the sign among them; may be negative where all numbers are small
    fraction_bits: int  # FL
    word: int | None = None  # WL

    def __post_init__(self):
        total = self.integer_bits + self.fraction_bits
        if not 1 <= total <= 32 or not -64 <= self.fraction_bits <= 96:
            raise ValueError(
                f"a word of {self.integer_bits} integer and {self.fraction_bits} fractional bits has {total}:"
                " accepted are words of 1 to 32 bits, with -64 to 96 fractional ones"
            )
        if self.word not in (None, total):
            raise ValueError(
                f"{self.integer_bits} integer and {self.fraction_bits} fractional bits are {total}, not {self.word}:"
                " they must add up to the word"
            )
        object.__setattr__(self, "word", total)

    @property
    def step(self) -> float:
        return 2.0**-self.fraction_bits

    @property
    def lowest(self) -> float:
        return -(2.0 ** (self.integer_bits - 1))

    @property
    def highest(self) -> float:
        return -self.lowest - self.step


def convert(
    values: Tensor, format: Format, *, rounding: str = "nearest", generator: torch.Generator | None = None
) -> Tensor:
    """The values (any shape, float32 or float64) in the format, as floats of the same type.

    rounding: "nearest" (ties go up) or "stochastic", which draws its key from ``generator``. Infinity goes to a rail;
    in a format of more than 24 bits a float32 stops at the last one before the upper rail.
    Raises ValueError for NaN, another type of number, another rounding, and stochastic rounding without a generator.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")
    if rounding == "stochastic" and generator is None:
        raise ValueError("stochastic rounding without a generator: give one, so that the run can be repeated")
    flat, out = plain(values), torch.empty(values.shape, dtype=values.dtype)
    key = np.uint64(1 + torch.randint(2**62, (), generator=generator).item() if rounding == "stochastic" else 0)
    lost = 2.0 ** (format.integer_bits - 1 - (24 if flat.dtype == np.float32 else 53))
    highest = min(format.highest, -format.lowest - lost)  # what the type of float can hold of the upper rail
    if convert_each(flat, format.step, format.lowest, highest, key, out.view(-1).numpy()):
        raise ValueError("the values to convert hold NaN, which no fixed-point number is")
    return out.to(values.device)


def plain(values: Tensor) -> np.ndarray:
    """The values as a flat array, (n,); ValueError where they are no floats of 32 or 64 bits."""
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the values to convert are {values.dtype}: accepted are float32 and float64")
    return values.detach().cpu().contiguous().view(-1).numpy()


@numba.njit(cache=True)
def convert_each(values, step, lowest, highest, key, out):
    """``out`` = the values in fixed point; returns whether one is NaN. Key 0 rounds to nearest, any other by chance."""
    nan = False
    for i in range(values.size):
        x = values[i] / step  # exact: the step is a power of two
        below = np.floor(x)
        threshold = 0.5
        if key:  # splitmix64: the number i of the stream ``key``, as a fraction between 0 and 1
            z = key + np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            threshold = (np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(12)) + 0.5) * 2.0**-52
        rounded = (below + (x - below >= threshold)) * step
        out[i] = min(max(rounded, lowest), highest)
        nan |= x != x
    return nan


class Arithmetic:
    """How the numbers of a network are kept; this one leaves them the floats that they are.

    A place says which number it is: ``fc1.output`` and its ``fc1.output.error``, ``fc1.weight`` and its
    ``fc1.weight.gradient`` and ``fc1.weight.update``. ``learning`` is True inside :func:`train` alone.
    """

    learning = False

    def convert(self, values: Tensor, place: str) -> Tensor:
        """The values as the network computes with them."""
        return values

    def keep(self, values: Tensor, place: str) -> Tensor:
        """A parameter as it is kept from one update to the next."""
        return values

    def saturated(self, values: Tensor, place: str) -> Tensor | None:
        """Where an output left the range, so that its error is zero; None where errors are to pass everywhere."""
        return None

    def end_of_step(self) -> None:
        """Called after each update of the parameters."""


class FixedPoint(Arithmetic):
    """Everything in one format. Outside training rounding is to nearest, so that an answer does not hang on chance.

    storage: a wider format for gradients, updates and the kept parameters; None: the same for them all.
    mask: whether the error of an output that was cut off at a rail is zero. This is no part of the paper as far as we
        know, but with few integer bits training can run away without it.
    """

    def __init__(
        self,
        format: Format,
        *,
        rounding: str = "nearest",
        storage: Format | None = None,
        mask: bool = True,
        seed: int = 0,
    ):
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")
        self.format, self.storage, self.rounding, self.mask = format, storage or format, rounding, mask
        self.generator = torch.Generator().manual_seed(seed)

    def convert(self, values: Tensor, place: str) -> Tensor:
        wide = place.endswith((".gradient", ".update"))
        return self._convert(values, self.storage if wide else self.format)

    def keep(self, values: Tensor, place: str) -> Tensor:
        return self._convert(values, self.storage)

    def saturated(self, values: Tensor, place: str) -> Tensor | None:
        return (values < self.format.lowest) | (values > self.format.highest) if self.mask else None

    def _convert(self, values: Tensor, format: Format) -> Tensor:
        rounding = self.rounding if self.learning else "nearest"
        return convert(values, format, rounding=rounding, generator=self.generator)


class _Through(torch.autograd.Function):
    """``there(values)`` forward, ``back(error)`` backward."""

    @staticmethod
    def forward(ctx, values: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        result = there(values)
        return result.clone() if result is values else result

    @staticmethod
    def backward(ctx, error: Tensor):
        return ctx.back(error), None, None


def converted(values: Tensor, arithmetic: Arithmetic, place: str) -> Tensor:
    """The values in the arithmetic, and so their error on its way back, but for what was saturated."""
    saturated = arithmetic.saturated(values.detach(), place)

    def back(error: Tensor) -> Tensor:
        error = arithmetic.convert(error, f"{place}.error")
        return error if saturated is None else error.masked_fill(saturated, 0)

    return _Through.apply(values, lambda v: arithmetic.convert(v, place), back)


@contextmanager
def computing(model: nn.Module, arithmetic: Arithmetic) -> Iterator[nn.Module]:
    """Inside, the model's input and the output of each of its layers are in the arithmetic, and their errors as well.

    Layers are the modules without children, except those that pass numbers on as they are (flatten, max pooling).
    Weights and biases are left alone: :func:`train` converts them, and :func:`quantize`.
    """

    def hook(place: str):
        def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if isinstance(output, Tensor) and output.is_floating_point():
                return converted(output, arithmetic, place)
            return None

        return after

    def before(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arithmetic.convert(inputs[0], "input"), *inputs[1:])

    handles = [model.register_forward_pre_hook(before)]
    for name, layer in model.named_modules():
        whole = not {key for key, _ in layer.named_children()} - {"parametrizations"}
        if whole and not isinstance(layer, KEEP_THE_GRID) and ".parametrizations" not in f".{name}":
            handles.append(layer.register_forward_hook(hook(f"{name}.output".lstrip("."))))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def train(
    model: nn.Module,
    split: Split,
    *,
    arithmetic: Arithmetic,
    epochs: int,
    seed: int,
    learning_rate: float = 0.1,
    decay: float = 0.95,
    batch_size: int = 128,
) -> list[float]:
    """Minimise the cross-entropy by plain stochastic gradient descent in the arithmetic; each epoch's mean loss.

    The error of each sample enters as it is, not divided by the size of the batch; the sum over the batch is divided in
    the wide accumulator, before the gradient is converted. ``learning_rate`` is multiplied by ``decay`` after an epoch.
    Sample order depends on ``seed`` alone. In place: the model ends with the converted parameters, in evaluation mode.
    Raises ValueError on an empty split, or a loss that is not a number.
    """
    if len(split) == 0:
        raise ValueError("the training split is empty: at least one sample is needed")
    if epochs < 0 or batch_size < 1:
        raise ValueError(f"epochs must be 0 or more and batch_size 1 or more, not {epochs} and {batch_size}")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    order, losses = torch.Generator().manual_seed(seed), []
    kept = {name: arithmetic.keep(p.detach().clone(), name) for name, p in parameters.items()}
    _enter(parameters, kept, arithmetic)
    arithmetic.learning = True
    try:
        with computing(model.train(), arithmetic):
            for epoch in range(epochs):
                total, rate = 0.0, learning_rate * decay**epoch
                for batch in torch.randperm(len(split), generator=order).split(batch_size):
                    outputs = running.logits(model, split.images[batch])
                    loss = nn.functional.cross_entropy(outputs, split.labels[batch], reduction="sum")
                    total += loss.item()
                    if not np.isfinite(total):
                        raise ValueError(f"training diverged in epoch {epoch + 1}: try a lower learning rate")
                    for (name, parameter), gradient in zip(
                        parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
                    ):
                        # W <- Q(W - Q(eta Q(g)))
                        gradient = arithmetic.convert(gradient / len(batch), f"{name}.gradient")
                        update = arithmetic.convert(rate * gradient, f"{name}.update")
                        kept[name] = arithmetic.keep(kept[name] - update, name)
                        parameter.data.copy_(arithmetic.convert(kept[name], name))
                    arithmetic.end_of_step()
                losses.append(total / len(split))
    finally:
        arithmetic.learning = False
        model.eval()
    _enter(parameters, kept, arithmetic)
    return losses


def _enter(parameters: Mapping[str, nn.Parameter], kept: Mapping[str, Tensor], arithmetic: Arithmetic) -> None:
    for name, parameter in parameters.items():
        parameter.data.copy_(arithmetic.convert(kept[name], name))


class FixedPointWeight(CompressedWeight):
    """The dense weight, rounded to the nearest number of a format; its gradient goes straight to the dense weight."""

    def __init__(self, format: Format):
        super().__init__()
        self.format = format

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, weight: Tensor) -> Tensor:
        return _Through.apply(weight, lambda w: convert(w, self.format), lambda error: error)

    def encode(self, weight: Tensor) -> Encoding:
        whole = (self.forward(weight).detach().double() / self.format.step).long().flatten()
        code = (whole + 2 ** (self.format.word - 1)).cpu()
        symbols = {"low": code & 0xFFFF, "high": code >> 16} if self.format.word > 16 else {"code": code}
        return Encoding(symbols, {"bits": torch.tensor([self.format.integer_bits, self.format.fraction_bits]).float()})

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        format = Format(*(int(bits) for bits in encoding.tables["bits"]))
        symbols = encoding.symbols
        code = symbols["code"].long() if format.word <= 16 else symbols["low"].long() + (symbols["high"].long() << 16)
        return ((code - 2 ** (format.word - 1)).double() * format.step).float().reshape(shape)


def quantize(model: nn.Module, format: Format | Mapping[str, Format]) -> nn.Module:
    """Keep the weight of each layer in fixed point, rounded to nearest. In place; returns the model.

    format: one for all layers, or by layer name (layers not named are left alone). Biases stay floats.
    Raises ValueError on an unknown layer, and for weights that are not finite, float32 or float64.
    """
    known = {name: layer.weight for name, layer in layers(model)}
    chosen = dict(format) if isinstance(format, Mapping) else dict.fromkeys(known, format)
    for name in chosen:
        if name not in known:
            raise ValueError(f"no layer {name!r} to quantize: the layers are {', '.join(known)}")
        plain(known[name])
    return compress(model, lambda name, _: FixedPointWeight(chosen[name]) if name in chosen else None)
