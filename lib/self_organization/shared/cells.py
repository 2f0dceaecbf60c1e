r"""A mesh of cells that form simplices: edges, triangles or tetrahedra, all of one dimension k.

A new cell is put in the middle of an edge, and every simplex that contains the edge is cut in two. So a mesh that began
as one simplex stays made of k-simplices, and keeps its shape: a disk where k = 2. Since edges are only ever cut, each
set of k + 1 cells that are all connected is one of the simplices: the edges describe the whole mesh.
"""

import numpy as np
from scipy.spatial.distance import cdist

from lib.self_organization.shared.graphs import cliques

LIMIT = 0.05  # share of the cells that one removal may take, as in the Java SOMToolbox; the paper names none


def first_simplex(dimension: int) -> np.ndarray:
    """Return the adjacency (k + 1, k + 1) of one simplex, in which all cells are connected.

    dimension: k, 1 or more.
    """
    return ~np.eye(dimension + 1, dtype=bool)


def mean_edge_lengths(positions: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """Return the mean length of the edges of each cell, (cells,) float64.

    positions: (cells, features).
    adjacency: (cells, cells) bool; each cell has an edge.
    """
    return (cdist(positions, positions) * adjacency).sum(1) / adjacency.sum(1)


def split(positions: np.ndarray, adjacency: np.ndarray, q: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Put a cell r in the middle of the longest edge of q, and cut all simplices of that edge in two.

    r is connected to q, to the other end f, and to all their common neighbors; the edge q-f is removed
    (fritzke1994growing). Without the edges to the common neighbors, the simplices would be lost.

    positions: (cells, features).
    adjacency: (cells, cells) bool, of k-simplices.
    q: the cell.
    dimension: k.

    Returns positions and adjacency with one more cell, the last; the given arrays are left as they were.

    >>> positions, adjacency = split(np.array([[0.0, 0], [2, 0], [1, 1]]), first_simplex(2), q=0, dimension=2)
    >>> positions[3].tolist(), np.flatnonzero(adjacency[3]).tolist(), bool(adjacency[0, 1])
    ([1.0, 0.0], [0, 1, 2], False)
    """
    # method
    neighbors = np.flatnonzero(adjacency[q])
    f = neighbors[cdist(positions[q : q + 1], positions[neighbors])[0].argmax()]
    common = np.flatnonzero(adjacency[q] & adjacency[f])
    # of the common neighbors, those that make a simplex with q and f; in a disk, all of them
    common = common[np.unique(cliques(adjacency[np.ix_(common, common)], dimension - 1))]
    positions = np.vstack([positions, (positions[q] + positions[f]) / 2])  # w_r = (w_q + w_f) / 2
    adjacency, r = np.pad(adjacency, (0, 1)), len(adjacency)
    adjacency[q, f] = adjacency[f, q] = False
    around = np.array([q, f, *common])
    adjacency[r, around] = adjacency[around, r] = True
    # end of method
    return positions, adjacency


def redistribute(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    r"""Give the new cell what the others lose, as their receptive fields F shrink; the sum stays as it was.

    .. math::
       \Delta\tau_c = \tau_c \frac{|F_c^{new}| - |F_c^{old}|}{|F_c^{old}|}, \qquad
       \tau_r = -\sum_c \Delta\tau_c

    (fritzke1994growing).

    values: (cells,) or (cells, outputs): resources, or output weights.
    kept: (cells,) the share of each field that is left, in [0, 1].

    Returns (cells + 1, ...) values; the new cell is the last.

    >>> redistribute(np.array([8.0, 1.0]), kept=np.array([0.25, 1.0])).tolist()
    [2.0, 1.0, 6.0]
    """
    change = values * (kept - 1).reshape(-1, *[1] * (values.ndim - 1))
    return np.concatenate([values + change, -change.sum(0, keepdims=True)]).astype(values.dtype, copy=False)


def grow(
    positions: np.ndarray,
    adjacency: np.ndarray,
    q: int,
    dimension: int,
    exponent: float,
    values: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    r"""Add a cell next to q, and give it its share of the other cells' values.

    The receptive field of a cell is taken as :math:`|F_c| \approx \bar l_c^{\,n}`, with the mean length of its edges
    (fritzke1994growing). A field cannot grow when a cell is added, but this estimate can; such a cell then keeps its
    values, since otherwise the new cell might get negative ones. The paper does not say so.

    positions: (cells, features).
    adjacency: (cells, cells) bool, of k-simplices.
    q: the cell next to which one is added.
    dimension: k.
    exponent: n.
    values: arrays to redistribute, (cells,) or (cells, outputs) each.

    Returns positions, adjacency and values with one more cell, the last; the given arrays are left as they were.
    """
    # method
    before = mean_edge_lengths(positions, adjacency)
    positions, adjacency = split(positions, adjacency, q, dimension)
    after = mean_edge_lengths(positions, adjacency)[:-1]
    ratios = np.divide(after, before, out=np.ones(len(before)), where=before > 0)
    kept = np.minimum(ratios, 1) ** exponent  # |F_new| / |F_old|
    values = [redistribute(each, kept) for each in values]
    # end of method
    return positions, adjacency, values


def can_grow(positions: np.ndarray, adjacency: np.ndarray, resources: np.ndarray, q: int) -> bool:
    """Tell whether a cell can be added next to q: some cell has a resource, and some edge of q has a length.

    positions: (cells, features).
    adjacency: (cells, cells) bool.
    resources: (cells,).
    q: the cell.
    """
    return bool(resources.max() > 0 and (positions[adjacency[q]] != positions[q]).any())


def densities(resources: np.ndarray, lengths: np.ndarray, exponent: float) -> np.ndarray:
    r"""Estimate how dense the samples are at each cell, as a multiple of their density over all cells.

    .. math:: \tilde p_c = \frac{h_c}{|F_c|} \sum_i |F_i|, \qquad h_c = \tau_c / \textstyle\sum_i \tau_i

    (fritzke1994growing).

    resources: (cells,), 0 or more.
    lengths: (cells,) mean edge lengths.
    exponent: n, in :math:`|F_c| \approx \bar l_c^{\,n}`.

    Returns (cells,) float64, infinite where a cell without a field has samples.

    >>> densities(np.array([3.0, 1.0]), np.array([1.0, 1.0]), exponent=2).tolist()
    [1.5, 0.5]
    """
    longest = lengths.max()
    fields = (lengths / longest if longest > 0 else np.ones_like(lengths)) ** exponent  # their scale cancels
    total = resources.sum()
    share = resources / total if total > 0 else np.full(len(resources), 1 / len(resources))
    return np.divide(share * fields.sum(), fields, out=np.where(share > 0, np.inf, 0.0), where=fields > 0)


def without(adjacency: np.ndarray, cell: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Remove a cell, and all edges and other cells that are then in no k-simplex.

    adjacency: (cells, cells) bool, of k-simplices.
    cell: the one to remove.
    dimension: k.

    Returns the cells that stay, (cells,) bool, and the adjacency of those; no cell stays if there was only one simplex.

    >>> _, two_triangles = split(np.array([[0.0, 0], [2, 0], [1, 1]]), first_simplex(2), q=0, dimension=2)
    >>> stays, adjacency = without(two_triangles, 0, dimension=2)
    >>> stays.tolist(), int(adjacency.sum()) // 2
    ([False, True, True, True], 3)
    """
    rest = adjacency.copy()
    rest[cell] = rest[:, cell] = False
    simplices = cliques(rest, dimension + 1)
    held = np.zeros_like(rest)
    for i in range(dimension + 1):
        for j in range(dimension + 1):
            held[simplices[:, i], simplices[:, j]] = i != j
    stays = np.flatnonzero(held.any(1))
    return np.isin(np.arange(len(held)), stays), held[np.ix_(stays, stays)]


def thin(
    positions: np.ndarray,
    adjacency: np.ndarray,
    resources: np.ndarray,
    dimension: int,
    exponent: float,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Remove the cells where samples are rare, the rarest first, but never the last simplex (fritzke1994growing).

    positions: (cells, features).
    adjacency: (cells, cells) bool, of k-simplices.
    resources: (cells,), 0 or more.
    dimension: k.
    exponent: n, in the estimate of receptive fields.
    threshold: eta, a density as a multiple of that over all cells; cells below it are removed, at most a twentieth of
        the cells at a time, or one if that is less.

    Returns the cells that stay, (cells,) bool, and the adjacency of those.
    """
    stays = np.ones(len(positions), dtype=bool)
    # method
    density = densities(resources, mean_edge_lengths(positions, adjacency), exponent)
    for cell in np.argsort(density, kind="stable")[: max(1, int(LIMIT * len(positions)))]:
        if stays[cell] and density[cell] < threshold:
            kept, rest = without(adjacency, int(stays[:cell].sum()), dimension)
            if kept.any():
                stays[stays], adjacency = kept, rest
    # end of method
    return stays, adjacency


def neighbors_in_a_row(adjacency: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the neighbors of all cells in one array, for compiled code.

    adjacency: (cells, cells) bool.

    Returns where the neighbors of each cell begin, (cells + 1,); the neighbors; and for each of them, the place at
    which its other end lists the same edge.

    >>> begins, neighbors, mirror = neighbors_in_a_row(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=bool))
    >>> begins.tolist(), neighbors.tolist(), mirror.tolist()
    ([0, 2, 3, 4], [1, 2, 0, 0], [2, 3, 0, 1])
    """
    cell, neighbor = np.nonzero(adjacency)
    return np.append(0, np.cumsum(adjacency.sum(1))), neighbor, np.lexsort((cell, neighbor))
