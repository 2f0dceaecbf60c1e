"""Bits for each layer, by name."""

from collections.abc import Mapping

from torch import nn

from lib.weights import layers


def check_names(model: nn.Module, bits: int | Mapping[str, int]) -> None:
    """ValueError where a mapping names a layer that the model does not have."""
    names = [name for name, _ in layers(model)]
    for name in bits if isinstance(bits, Mapping) else ():
        if name not in names:
            raise ValueError(f"no layer {name!r} to share: the layers are {', '.join(names)}")


def bits_of(bits: int | Mapping[str, int], name: str) -> int | None:
    """The bits asked for layer ``name``; None where a mapping leaves it out; ValueError outside 1..16."""
    chosen = bits.get(name) if isinstance(bits, Mapping) else bits
    if chosen is not None and not 1 <= chosen <= 16:
        raise ValueError(f"bits must be in 1..16, not {chosen}")
    return chosen
