"""How the numbers of a network are rounded while it computes: a class for each arithmetic, and hooks that use it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lib import owners
from lib.precision.shared.straight_through import through
from lib.weights import PackedWeight, layers

POOLS = nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d | nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d
KEEP_THE_GRID = nn.Flatten | nn.Unflatten | nn.Identity | POOLS  # their outputs are some of their inputs


class Arithmetic:
    """How the numbers of a network are rounded; this base class leaves them as they are.

    A place names a number: ``fc1.output`` and its ``fc1.output.error``, ``fc1.weight`` and its ``fc1.weight.gradient``
    and ``fc1.weight.update``. ``learning`` is True only while a network is trained in the arithmetic.
    """

    learning = False

    def rounded(self, values: Tensor, place: str) -> Tensor:
        """The values as the network computes with them."""
        return values

    def keep(self, values: Tensor, place: str) -> Tensor:
        """A parameter as it is stored from one update to the next."""
        return values

    def saturated(self, values: Tensor, place: str) -> Tensor | None:
        """Where an output left the range, so that its error becomes zero; None to let all errors pass."""
        return None

    def end_of_step(self) -> None:
        """Called after each update of the parameters."""


def rounded_both_ways(values: Tensor, arithmetic: Arithmetic, place: str) -> Tensor:
    """Round values on the way forward, and their error on the way back; it is zero where the values saturated.

    values: any shape.
    arithmetic: how they are rounded.
    place: their name; the error's is ``place.error``.
    """
    saturated = arithmetic.saturated(values.detach(), place)

    def back(error: Tensor) -> Tensor:
        error = arithmetic.rounded(error, f"{place}.error")
        return error if saturated is None else error.masked_fill(saturated, 0)

    return through(values, lambda v: arithmetic.rounded(v, place), back)


def check_called(model: nn.Module) -> None:
    """Raise ValueError, which names it, for a weight that is used without calling its layer: its output is not seen.

    model: any network.

    >>> check_called(nn.LSTM(3, 2))
    Traceback (most recent call last):
    ValueError: LSTM multiplies by 'weight_hh_l0' itself: only outputs of layers that are called are rounded
    """
    for name, layer in layers(model):
        reader = owners.reads(model, name).get("weight") if not isinstance(layer, PackedWeight) else None
        if isinstance(layer, PackedWeight):
            reader = type_before_parametrizations(layer.module).__name__
        if reader:
            raise ValueError(
                f"{reader} multiplies by {name!r} itself: only outputs of layers that are called are rounded"
            )


@contextmanager
def computing(model: nn.Module, arithmetic: Arithmetic) -> Iterator[nn.Module]:
    """Inside the block, the model's input is rounded, and so are the outputs of its layers and the outputs' errors.

    Layers are the modules without children, except those that only pass numbers on (flatten, max pooling). Weights and
    biases are left alone. What a ``forward`` computes between layers is not rounded.

    model: any network; its first input is rounded.
    arithmetic: how the numbers are rounded.

    Raises ValueError, which names it, for a weight that is used without calling its layer, as those of attention and of
    recurrent layers are.

    >>> import torch
    >>> from lib.precision.fixed_point import FixedPoint, Format
    >>> with computing(nn.ReLU(), FixedPoint(Format(3, 2))) as model:
    ...     model(torch.tensor([0.3, 9.0]))
    tensor([0.2500, 3.7500])
    """

    def hook(place: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if isinstance(output, Tensor) and output.is_floating_point():
                return rounded_both_ways(output, arithmetic, place)
            return None

        return after

    def before(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arithmetic.rounded(inputs[0], "input"), *inputs[1:])

    check_called(model)
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
