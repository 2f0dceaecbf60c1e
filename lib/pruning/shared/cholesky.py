"""A Cholesky factor that gains and loses one row and column at a time."""

import numpy as np
from scipy.linalg.blas import dtpsv


class Cholesky:
    r"""The upper triangular R of :math:`A = R^\top R`, while A gains and loses rows and columns.

    Appending one, or solving with R, takes :math:`n^2/2` multiply-adds for n rows. The columns of R follow each other
    in memory, each down to the diagonal, so that a new one is appended without copying the others.

    most: the largest number of rows.

    >>> factor = Cholesky(2)
    >>> factor.append(np.zeros(0), 4.0)
    >>> factor.append(np.array([2.0]), 10.0)
    >>> factor.solve(np.array([6.0, 12.0]))  # A = [[4, 2], [2, 10]]
    array([1., 1.])
    """

    def __init__(self, most: int):
        self.packed, self.size = np.zeros(most * (most + 1) // 2), 0

    def forward(self, x: np.ndarray) -> np.ndarray:
        r"""Solve :math:`R^\top y = x`.

        x: (size,), float64.
        """
        return dtpsv(self.size, self.packed, x, trans=1) if self.size else x

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Solve A y = x.

        x: (size,), float64.
        """
        return dtpsv(self.size, self.packed, self.forward(x)) if self.size else x

    def append(self, column: np.ndarray, corner: float) -> None:
        """Add a row and a column at the end of A.

        column: (size,), what is above the new corner.
        corner: the new element on the diagonal; what is left of it, the pivot, must be positive.
        """
        above = self.forward(column)
        place = self._column(self.size)
        place[:-1], place[-1] = above, np.sqrt(corner - above @ above)
        self.size += 1

    def remove(self, place: int) -> None:
        """Remove a row and the matching column of A.

        place: its number, from 0.
        """
        rest = range(place + 1, self.size)
        lost = np.array([self._column(c)[place] for c in rest])  # the row of R whose diagonal element goes
        tail = np.zeros((len(rest), len(rest)), order="F")  # what is right of it and below, transposed
        for c in rest:
            tail[c - place - 1, : c - place] = self._column(c)[place + 1 :]
        for i in range(len(rest)):  # Givens rotations move the lost row into the rows below it
            length = np.hypot(tail[i, i], lost[i])
            cosine, sine, below = tail[i, i] / length, lost[i] / length, tail[i:, i].copy()
            tail[i:, i] = cosine * below + sine * lost[i:]
            lost[i:] = cosine * lost[i:] - sine * below
        for c in rest:
            old, new = self._column(c), self._column(c - 1)
            new[:place] = old[:place]
            new[place:] = tail[c - place - 1, : c - place]
        self.size -= 1

    def _column(self, number: int) -> np.ndarray:
        begin = number * (number + 1) // 2
        return self.packed[begin : begin + number + 1]
