r"""Edit distance of two architectures: how much must change to turn one into the other (jin2019autokeras).

.. math:: d(f_a, f_b) = D_l(L_a, L_b) + \lambda\, D_s(S_a, S_b)

:math:`D_l` edits the layers: an inserted or deleted layer costs 1, and a changed width costs
:math:`|w_a - w_b| / \max(w_a, w_b)`. :math:`D_s` pairs the skip connections: each one without a partner costs 1.
All costs are at most 1, so that both parts, and their sum, are metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

MOST_KEPT = 2000  # architectures whose distances are kept: copying a larger table costs more than it saves


class Skip(NamedTuple):
    """A skip connection.

    start: the layer that it leaves, counted from 0.
    end: the layer that it reaches, after start.
    kind: how it joins there, such as "add" or "concat".
    """

    start: int
    end: int
    kind: str = "add"


@dataclass(frozen=True)
class Description:
    """What the distance knows of an architecture. Architectures that differ must have different descriptions.

    convolutions: width of each convolution, 1 or more; where layers differ in more than their width, a number that
        tells them apart, such as how many weights they have.
    dense: width of each dense layer, 1 or more.
    skips: skip connections, in any order.

    Raises ValueError for a width below 1 and for a skip that does not lead forward.

    >>> Description((8, 16), skips=(Skip(1, 2), Skip(0, 1))) == Description((8, 16), skips=(Skip(0, 1), Skip(1, 2)))
    True
    """

    convolutions: tuple[int, ...] = ()
    dense: tuple[int, ...] = ()
    skips: tuple[Skip, ...] = ()

    def __post_init__(self) -> None:
        for name, widths in (("convolutions", self.convolutions), ("dense", self.dense)):
            for width in widths:
                if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
                    raise ValueError(f"{name} must be whole numbers of 1 or more, not {width!r}")
            object.__setattr__(self, name, tuple(int(width) for width in widths))
        for skip in self.skips:
            if not _leads_forward(skip):
                raise ValueError(
                    f"a skip must be a start of 0 or more, a later end and the name of a kind, not {skip!r}"
                )
        # one order for all, so that the same connections make equal descriptions
        object.__setattr__(self, "skips", tuple(sorted(Skip(*skip) for skip in self.skips)))


def _leads_forward(skip: object) -> bool:
    if not (isinstance(skip, tuple) and len(skip) == 3 and isinstance(skip[2], str)):
        return False
    return all(isinstance(place, int | np.integer) for place in skip[:2]) and 0 <= skip[0] < skip[1]


def distances(first: Sequence[Description], second: Sequence[Description], *, skip_weight: float = 0.1) -> np.ndarray:
    """Compute the edit distance of each of the first to each of the second.

    first, second: (m,) and (n,) architectures.
    skip_weight: lambda, above 0; default 0.1, as in the authors' code.

    Returns (m, n) float64. Raises ValueError for another skip_weight.

    >>> wide, deep = Description((64, 64)), Description((32, 64, 64), skips=(Skip(0, 2),))
    >>> distances([wide], [wide, deep])
    array([[0. , 1.1]])
    """
    _check(skip_weight)
    # method
    layers = sequence_distances([a.convolutions for a in first], [b.convolutions for b in second])
    layers += sequence_distances([a.dense for a in first], [b.dense for b in second])
    return layers + skip_weight * _all_skips_distances([a.skips for a in first], [b.skips for b in second])
    # end of method


def _check(skip_weight: float) -> None:
    if not 0 < skip_weight < np.inf:
        raise ValueError(f"skip_weight must be a finite number above 0, not {skip_weight!r}")


class Distances:
    """The same distances, kept for a search that asks for many of them again and again.

    skip_weight: lambda, above 0.

    Raises ValueError for another skip_weight.

    >>> Distances(0.1)([Description((64,))], [Description((64, 64)), Description((64,), skips=(Skip(0, 1),))])
    array([[1. , 0.1]])
    """

    def __init__(self, skip_weight: float) -> None:
        _check(skip_weight)
        self.skip_weight = skip_weight
        self._rows: dict[Description, int] = {}
        self._columns: dict[Description, int] = {}
        self._table = np.zeros((0, 0))

    def __call__(self, first: Sequence[Description], second: Sequence[Description]) -> np.ndarray:
        """Compute the edit distance of each of the first to each of the second, (m, n) float64.

        first: (m,) architectures, which may be new.
        second: (n,) architectures, most of which were asked for before.
        """
        if len(self._rows) > MOST_KEPT:
            self._rows, self._columns, self._table = {}, {}, np.zeros((0, 0))
        if new := _missing(second, self._columns):
            self._table = np.hstack([self._table, distances(list(self._rows), new, skip_weight=self.skip_weight)])
            self._columns |= {one: column for column, one in enumerate(new, len(self._columns))}
        if new := _missing(first, self._rows):
            self._table = np.vstack([self._table, distances(new, list(self._columns), skip_weight=self.skip_weight)])
            self._rows |= {one: row for row, one in enumerate(new, len(self._rows))}
        return self._table[np.ix_([self._rows[one] for one in first], [self._columns[one] for one in second])]


def _missing(asked: Sequence[Description], places: dict[Description, int]) -> list[Description]:
    return [one for one in dict.fromkeys(asked) if one not in places]


def sequence_distances(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> np.ndarray:
    """Compute the edit distances of sequences of widths, all pairs at once.

    first, second: m and n sequences of widths, 1 or more.

    Returns (m, n) float64.

    >>> sequence_distances([[8, 8]], [[8], [8, 16], []])
    array([[1. , 0.5, 2. ]])
    """
    (a, a_lengths), (b, b_lengths) = _padded(first), _padded(second)
    columns = np.arange(b.shape[1] + 1.0)
    row = np.broadcast_to(columns, (len(a), len(b), len(columns)))
    result = np.where(a_lengths[:, None] == 0, b_lengths, 0.0)
    for i in range(a.shape[1]):
        width = a[:, i, None, None]
        substituted = row[..., :-1] + np.abs(width - b) / np.maximum(width, b)
        # A[i, j] = min(A[i-1, j] + 1, A[i, j-1] + 1, A[i-1, j-1] + d(a_i, b_j)); the middle term is a running minimum
        row = row + 1
        row[..., 1:] = np.minimum(row[..., 1:], substituted)
        row = np.minimum.accumulate(row - columns, axis=-1) + columns
        ended = np.flatnonzero(a_lengths == i + 1)
        result[ended] = np.take_along_axis(row[ended], b_lengths[None, :, None], axis=-1)[..., 0]
    return result


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    padded = np.ones((len(sequences), lengths.max(initial=0)))  # what is after the end is never read
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, lengths


def _all_skips_distances(first: Sequence[tuple[Skip, ...]], second: Sequence[tuple[Skip, ...]]) -> np.ndarray:
    rows = {skips: row for row, skips in enumerate(dict.fromkeys(first))}  # many architectures have the same skips
    columns = {skips: column for column, skips in enumerate(dict.fromkeys(second))}
    table = np.array([skips_distance(a, b) for a in rows for b in columns]).reshape(len(rows), len(columns))
    return table[np.ix_([rows[skips] for skips in first], [columns[skips] for skips in second])]


@lru_cache(maxsize=100_000)  # a search meets few sets of skips, and each many times
def skips_distance(first: tuple[Skip, ...], second: tuple[Skip, ...]) -> float:
    """Pair two sets of skip connections at the least cost; one without a partner costs 1.

    first, second: skip connections.

    >>> skips_distance((Skip(0, 2), Skip(1, 3)), (Skip(1, 3),))
    1.0
    """
    if not first or not second:
        return float(len(first) + len(second))
    # method
    costs = np.array([[skip_distance(a, b) for b in second] for a in first])
    return float(costs[linear_sum_assignment(costs)].sum()) + abs(len(first) - len(second))
    # end of method


def skip_distance(first: Skip, second: Skip) -> float:
    """Compare start and length of two skip connections; those of different kinds are 1 apart.

    first, second: skip connections.

    >>> skip_distance(Skip(0, 2), Skip(1, 3)), skip_distance(Skip(0, 2, "add"), Skip(0, 2, "concat"))
    (0.3333333333333333, 1.0)
    """
    if first.kind != second.kind:
        return 1.0
    lengths = first.end - first.start, second.end - second.start
    differences = abs(first.start - second.start) + abs(lengths[0] - lengths[1])
    return differences / (max(first.start, second.start) + max(lengths))
