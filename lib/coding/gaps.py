"""Places of the few among the many, as the gaps between them."""

import numpy as np
import torch
from torch import Tensor

from lib.coding.coders import entropy_bits


def encode(positions: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Ascending positions as gaps of ``bits`` bits each, with filler entries where a gap is too long.

    A field :math:`f \in \{0, \dots, 2^g - 1\}` says that the next entry lies :math:`f + 1` places on. A gap longer than
    :math:`2^g` is bridged by fillers: entries of value zero, each :math:`2^g` places on.

    positions: (n,), distinct and ascending. Returns (fields, kept), both (n + fillers,); ``kept`` is False at a filler.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"gap bits must be in 1..16, not {bits}")
    positions = np.asarray(positions, dtype=np.int64)
    distance = np.diff(positions, prepend=-1)
    if len(distance) and distance.min() < 1:
        raise ValueError("positions must be distinct, ascending and not negative")
    fillers = (distance - 1) >> bits
    last = np.cumsum(fillers + 1) - 1  # where each entry lands behind its fillers
    fields = np.full(last[-1] + 1 if len(last) else 0, (1 << bits) - 1, dtype=np.int64)
    fields[last] = (distance - 1) & ((1 << bits) - 1)
    kept = np.zeros(len(fields), dtype=bool)
    kept[last] = True
    return fields, kept


def positions(fields: np.ndarray) -> np.ndarray:
    """Where the entries lie (fillers included) whose gap fields are given: the inverse of :func:`encode`."""
    return np.cumsum(np.asarray(fields, dtype=np.int64) + 1) - 1


def best_bits(positions: np.ndarray, *, filler_bits: float, choices: range = range(2, 11)) -> int:
    """The gap width that costs least: entropy of the fields, ``filler_bits`` for each filler, 10 a table entry."""

    def cost(bits: int) -> float:
        fields, kept = encode(positions, bits)
        return entropy_bits(np.bincount(fields)) + filler_bits * np.count_nonzero(~kept) + 10 * len(np.unique(fields))

    return min(choices, key=cost)


def scatter(fields: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A weight of zeros but for ``values``, each as far behind the last as its gap says; ValueError where outside."""
    places = torch.from_numpy(positions(fields.numpy()))
    weight = torch.zeros(shape.numel())
    if len(places) != len(values) or (len(places) and places[-1] >= len(weight)):
        raise ValueError(f"{len(values)} values at {len(places)} places do not fit a weight of shape {tuple(shape)}")
    weight[places] = values
    return weight.reshape(shape)
