"""Bits for each layer, by name."""

from collections.abc import Mapping
from numbers import Integral

from torch import nn

from lib.weights import weight_named


def check_names(model: nn.Module, bits: int | Mapping[str, object]) -> None:
    """Raise ValueError if a mapping names a layer that the model does not have.

    model: any network.
    bits: one value for all layers, or a mapping from layer name to a value for that layer.

    >>> check_names(nn.Sequential(nn.Linear(2, 3)), {"fc": 4})
    Traceback (most recent call last):
    ValueError: Sequential has no layer 'fc' with a weight: it has 0
    """
    for name in bits if isinstance(bits, Mapping) else ():
        weight_named(model, name)


def bits_of(bits: int | Mapping[str, int], name: str) -> int | None:
    """Look up the bits for one layer.

    bits: one number for all layers, or a mapping from layer name to number.
    name: the layer.

    Returns a whole number from 1 to 16; None if a mapping leaves the layer out.
    Raises ValueError for anything but a whole number from 1 to 16.

    >>> bits_of({"fc1": 4}, "fc1"), bits_of({"fc1": 4}, "fc2"), bits_of(3, "fc2")
    (4, None, 3)
    """
    chosen = bits.get(name) if isinstance(bits, Mapping) else bits
    if chosen is not None and (isinstance(chosen, bool) or not isinstance(chosen, Integral) or not 1 <= chosen <= 16):
        raise ValueError(f"bits must be in 1..16, not {chosen}")
    return None if chosen is None else int(chosen)
