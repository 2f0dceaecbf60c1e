"""The positions of the few weights that are kept, as the gaps between them (relative index, han2016deep, section 3)."""

import numpy as np
import torch
from torch import Tensor

from lib.coding.coders import entropy_bits


def encode(positions: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Turn ascending positions into gaps of ``bits`` bits each, with filler entries where a gap is too long.

    A field :math:`f \in \{0, \dots, 2^g - 1\}` says that the next entry is :math:`f + 1` places on. A gap longer than
    :math:`2^g` is bridged by fillers: entries of value zero, each :math:`2^g` places on.

    positions: (n,), distinct, ascending and not negative.
    bits: g, 1 to 16.

    Returns (fields, kept), both (n + fillers,); ``kept`` is False at a filler. Raises ValueError for invalid positions
    or bits.

    >>> fields, kept = encode(np.array([1, 7]), bits=2)
    >>> fields.tolist(), kept.tolist(), positions(fields)[kept].tolist()
    ([1, 3, 1], [True, False, True], [1, 7])
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"gap bits must be in 1..16, not {bits}")
    positions = np.asarray(positions, dtype=np.int64)
    # method
    distance = np.diff(positions, prepend=-1)
    # end of method
    if len(distance) and distance.min() < 1:
        raise ValueError("positions must be distinct, ascending and not negative")
    # method
    fillers = (distance - 1) >> bits
    last = np.cumsum(fillers + 1) - 1  # the index of each entry, after its fillers
    fields = np.full(last[-1] + 1 if len(last) else 0, (1 << bits) - 1, dtype=np.int64)
    fields[last] = (distance - 1) & ((1 << bits) - 1)
    kept = np.zeros(len(fields), dtype=bool)
    kept[last] = True
    return fields, kept
    # end of method


def positions(fields: np.ndarray) -> np.ndarray:
    """Return where the entries are, fillers included: the inverse of :func:`encode`, which has the example.

    fields: (n,) gap fields.
    """
    return np.cumsum(np.asarray(fields, dtype=np.int64) + 1) - 1


def best_bits(positions: np.ndarray, *, filler_bits: float, choices: range = range(2, 11)) -> int:
    """Choose the cheapest width of the gap fields.

    The cost is the entropy of the fields, ``filler_bits`` for each filler, and 10 bits for each entry of the code's
    table.

    positions: (n,), distinct, ascending and not negative.
    filler_bits: what a filler costs besides its gap: the bits of its value.
    choices: the widths to compare, default 2 to 10.

    >>> best_bits(np.arange(0, 4000, 8), filler_bits=32)
    3
    """

    def cost(bits: int) -> float:
        fields, kept = encode(positions, bits)
        return entropy_bits(np.bincount(fields)) + filler_bits * np.count_nonzero(~kept) + 10 * len(np.unique(fields))

    return min(choices, key=cost)


def scatter(fields: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """Put the values into a weight of zeros, each after the one before by its gap.

    fields: (n,) gap fields, fillers included.
    values: (n,), 0 at a filler.
    shape: of the weight.

    Raises ValueError if there are not as many values as fields, and for an entry outside the weight.

    >>> scatter(torch.tensor([1, 0]), torch.tensor([5.0, 7.0]), torch.Size((2, 2)))
    tensor([[0., 5.],
            [7., 0.]])
    """
    places = torch.from_numpy(positions(fields.numpy()))
    weight = values.new_zeros(shape.numel())
    if len(places) != len(values) or (len(places) and places[-1] >= len(weight)):
        raise ValueError(f"{len(values)} values at {len(places)} places do not fit a weight of shape {tuple(shape)}")
    weight[places] = values
    return weight.reshape(shape)
