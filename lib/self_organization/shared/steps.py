"""What each step of a self-organizing map computes: distances to units, and how far each unit follows the winner."""

from typing import NamedTuple

import numba
import numpy as np


class Grid(NamedTuple):
    """Where the units of a map are.

    across: (units,) how far across each unit is, in whole steps.
    down: (units,) the row of each unit.
    columns: (most steps across + 1,) the squared distance of so many steps across, in units of the radius.
    rows: (rows,) the squared distance of so many rows, in units of the radius.
    """

    across: np.ndarray
    down: np.ndarray
    columns: np.ndarray
    rows: np.ndarray


@numba.njit(cache=True, fastmath={"reassoc"})  # sums in any order, so that they are vectorized
def distance(unit: np.ndarray, sample: np.ndarray) -> float:
    """Return the squared distance of a unit and a sample, summed in float64; compiled.

    unit: (features,) float32 or float64.
    sample: (features,) float32 or float64.

    >>> distance(np.array([1.0, 2.0]), np.array([4.0, 6.0]))
    25.0
    """
    total = 0.0
    for k in range(len(sample)):
        total += (np.float64(sample[k]) - np.float64(unit[k])) ** 2
    return total


@numba.njit(cache=True)
def neighborhood(h: np.ndarray, c: int, rate: float, radius: float, grid: Grid) -> None:
    r"""Compute the share of its way to the sample that each unit goes when unit c wins (kohonen1982self); compiled.

    .. math:: h_i = \eta e^{-\lVert r_c - r_i \rVert^2 / 2\sigma^2}

    h: (units,) float32 or float64, overwritten.
    c: the winner.
    rate: eta, from 0 to 1.
    radius: sigma, above 0.
    grid: where the units are.

    >>> h, squares = np.empty(3), np.arange(3.0) ** 2
    >>> neighborhood(h, 1, 0.5, 1.0, Grid(np.arange(3), np.zeros(3, dtype=int), squares, squares[:1]))
    >>> h.round(3).tolist()
    [0.303, 0.5, 0.303]
    """
    # method
    # h_i = eta exp(-|r_c - r_i|^2 / 2 sigma^2) is a product of one factor for each direction,
    # so a grid needs few of them
    spread = max(2 * radius * radius, 1e-300)
    across, down = np.exp(-grid.columns / spread), np.exp(-grid.rows / spread)
    for i in range(len(h)):
        h[i] = across[abs(grid.across[i] - grid.across[c])] * down[abs(grid.down[i] - grid.down[c])] * rate
    # end of method
