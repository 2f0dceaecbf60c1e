r"""Many steps of a self-organizing map at once: the same weights as step by step, in large maps about twice as fast.

Each step reads all weights twice, to find the winner and to move the units. In a large map with many features that is
where the time goes. Here the ``SIZE`` steps of a block share what they read.

**Distances.** One matrix product gives the squared distances :math:`q_{si}` of all samples s of a block to all units i,
and :math:`p_{st}` to each other. When unit i goes the part h of its way to sample t, its distances to later samples
follow from these numbers alone (Stewart's theorem on the sides of triangles):

.. math:: q_{si} \leftarrow q_{si} + h (p_{st} - q_{si}) - h (1 - h) q_{ti}

**Winners.** The table is in float32, so it only says which units may win: those within a margin of the least distance.
Where that is more than one, these units are brought up to date, and compared by their distances in float64, as the loop
does.

**Weights.** All other units take their steps when the block ends, four steps of four units at a time, so that weights
stay in registers meanwhile. Each weight goes through the same operations as in the loop, in the same order. That is why
the results are the same, and not only close: rounding, ties and the size of the blocks make no difference.
"""

import numba
import numpy as np

from lib.self_organization.shared import steps

SIZE = 32  # steps in a block: with fewer, matrix products are slow; with more, too many distances change at each step
WEIGHTS = 3200  # units times features from which blocks are faster than the loop; ``make bench`` measures it
GROUP = 4  # units that take their steps together; a sample is read once for all of them


def pay(count: int, units: int, features: int) -> bool:
    """Return whether blocks are faster than a loop over the steps. The weights are the same.

    count: of steps.
    units: of the map.
    features: of a sample.

    >>> pay(1000, 100, 784), pay(1000, 100, 2)
    (True, False)
    """
    return min(count, units, features) >= SIZE and units * features >= WEIGHTS


def aligned(values: np.ndarray) -> np.ndarray:
    """Copy an array to where a line of the processor's cache begins: a vector across two lines takes two reads.

    values: any array.

    Returns the copy, contiguous.

    >>> aligned(np.ones(3)).ctypes.data % 64
    0
    """
    memory = np.empty(values.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def train(
    weights: np.ndarray,
    samples: np.ndarray,
    order: np.ndarray,
    rates: np.ndarray,
    radii: np.ndarray,
    grid: steps.Grid,
) -> None:
    """Present samples to the units of a map (kohonen1982self), with the result of the loop in its file.

    weights: (units, features) float32 or float64, changed in place; fastest where :func:`aligned` made them.
    samples: (n, features) of the same type, at most 1e18 in size in float32 and 1e150 in float64.
    order: (T,) which sample is presented at each step.
    rates: (T,) eta at each step, from 0 to 1.
    radii: (T,) sigma at each step, above 0.
    grid: where the units are.

    >>> weights, squares = np.zeros((3, 2)), np.arange(3.0) ** 2
    >>> row = steps.Grid(np.arange(3), np.zeros(3, dtype=int), squares, squares[:1])
    >>> train(weights, np.ones((1, 2)), np.zeros(1, dtype=int), np.ones(1), np.ones(1), row)
    >>> weights[:, 0].round(3).tolist()
    [1.0, 0.607, 0.135]
    """
    block = aligned(np.empty((SIZE, weights.shape[1]), weights.dtype))
    _train(weights, samples, order, rates, radii, grid, block, float(np.finfo(weights.dtype).eps) / 2)


@numba.njit(cache=True)
def _train(
    weights: np.ndarray,
    samples: np.ndarray,
    order: np.ndarray,
    rates: np.ndarray,
    radii: np.ndarray,
    grid: steps.Grid,
    block: np.ndarray,
    rounding: float,
) -> None:
    units, features = weights.shape
    points = np.empty((units + SIZE, features), np.float32)  # units, and after them the samples of a block
    table = np.empty(SIZE * (units + SIZE), np.float32)
    h, narrow, less = np.empty((SIZE, units), weights.dtype), np.empty(units, np.float32), np.empty(units, np.float32)
    taken = np.empty(-(-units // GROUP), np.int64)  # how many steps of the block each group of units has taken
    for begin in range(0, len(order), SIZE):
        size = min(SIZE, len(order) - begin)
        x, q = block[:size], table[: size * (units + size)].reshape(size, units + size)
        for s in range(size):
            x[s] = samples[order[begin + s]]
        margin = _distances(weights, x, points[: units + size], q, rounding)
        taken[:] = 0
        for t in range(size):
            # c = argmin_i |x_t - w_i|
            limit = _least(q[t, :units]) + margin if margin < np.inf else np.inf
            rivals, c = 0, 0
            for i in range(units):
                if not q[t, i] > limit:  # what is no number may win too
                    rivals, c = rivals + 1, i
            if rivals > 1:
                c = _nearest(q[t], limit, weights, x, h, taken, t)
            steps.neighborhood(h[t], c, rates[begin + t], radii[begin + t], grid)
            _move(q, t, h[t], narrow, less)
        for group in range(len(taken)):
            _follow(weights, group, x, h, taken[group], size)


@numba.njit(cache=True)
def _distances(weights: np.ndarray, x: np.ndarray, points: np.ndarray, q: np.ndarray, rounding: float) -> float:
    """Squared distances of a block's samples to units, and after them to each other, into q; and the margin."""
    units, (size, features) = len(weights), x.shape
    center = np.zeros(features)  # around it numbers are small, and so are their errors
    for s in range(size):
        for k in range(features):
            center[k] += x[s, k] / size
    squares = np.empty(units + size)
    _center(weights, center, points[:units], squares[:units])
    _center(x, center, points[units:], squares[units:])
    # |x - w|^2 = |x|^2 + |w|^2 - 2 x.w
    q[:] = np.dot(points, points[units:].T).T  # samples times units takes OpenBLAS half as long again
    for s in range(size):
        row, square = q[s], squares[units + s]
        for i in range(units + size):
            row[i] = square + squares[i] - 2 * row[i]
    # The margin: how wrong the difference of two q of a sample can be. Let u be the rounding error of float32, F the
    # number of features, and r the longest vector from the center, of samples and units: units stay among them.
    # At first a q is wrong by at most e = (2 F + 12) u r^2: F for the sum x.w, the rest for rounding vectors and q.
    # A q that is wrong by e is a product x.w that is wrong by -e/2. A step replaces x.w and |w|^2 by averages of such
    # products and squares, so these errors do not grow: q stays within 3/2 e. Each step rounds q by at most 20 u r^2,
    # which stays within 30 u r^2. Two q make 2 (3 F + 18 + 30 SIZE) u r^2, less than 8 (F + 8 SIZE) u r^2.
    # In each step the loop rounds weights too, by v (4 r + |w|) where v is the rounding error of their type.
    # Two distances of at most 2 r then change by 8 r SIZE v (5 r + |center|).
    longest = max(squares.max(), 1e-30)  # below, products are no normal numbers of float32
    if longest > 1e37:  # above, 4 r^2 is no number of float32
        return np.inf
    r = np.sqrt(longest)
    drift = SIZE * rounding * (5 * r + np.sqrt((center**2).sum()))
    return 8 * r * ((features + 8 * SIZE) * 2.0**-24 * r + drift)


@numba.njit(cache=True, fastmath={"reassoc", "contract"})  # a sum in any order, so that it is vectorized
def _center(vectors: np.ndarray, center: np.ndarray, points: np.ndarray, squares: np.ndarray) -> None:
    """Vectors seen from the center, and their squared lengths."""
    for i in range(len(vectors)):
        vector, point, total = vectors[i], points[i], 0.0
        for k in range(len(center)):
            value = vector[k] - center[k]
            point[k] = value
            total += value * value
        squares[i] = total


@numba.njit(cache=True, fastmath={"nnan", "nsz"})  # vectorized where all are numbers, as they are below the margin inf
def _least(values: np.ndarray) -> float:
    least = values[0]
    for i in range(len(values)):
        least = min(least, values[i])
    return least


@numba.njit(cache=True)
def _nearest(
    q: np.ndarray, limit: float, weights: np.ndarray, x: np.ndarray, h: np.ndarray, taken: np.ndarray, t: int
) -> int:
    """Of the units whose q is not above ``limit``, the nearest to sample t at step t; of several the first."""
    least, c = np.inf, 0
    for i in range(len(weights)):
        if not q[i] > limit:
            group = i // GROUP
            _follow(weights, group, x, h, taken[group], t)
            taken[group] = t
            distance = steps.distance(weights[i], x[t])
            if distance < least:
                least, c = distance, i
    return c


@numba.njit(cache=True, fastmath={"contract"})
def _move(q: np.ndarray, t: int, h: np.ndarray, narrow: np.ndarray, less: np.ndarray) -> None:
    """The distances of later samples after step t, in which each unit goes the part h of its way."""
    units = len(h)
    for i in range(units):
        narrow[i], less[i] = h[i], h[i] * (1 - h[i]) * q[t, i]
    for s in range(t + 1, len(q)):
        row, between = q[s], q[s, units + t]
        # q_si += h_i (p_st - q_si) - h_i (1 - h_i) q_ti
        for i in range(units):
            row[i] += narrow[i] * (between - row[i]) - less[i]


@numba.njit(cache=True, fastmath={"contract"})  # as the loop has it
def _follow(weights: np.ndarray, group: int, x: np.ndarray, h: np.ndarray, begin: int, end: int) -> None:
    """Let a group of units take the steps of a block from ``begin`` to before ``end``."""
    first, last = group * GROUP, min((group + 1) * GROUP, len(weights))
    if last - first == GROUP:
        w = weights[first], weights[first + 1], weights[first + 2], weights[first + 3]
        while begin + 4 <= end:
            y, part = (x[begin], x[begin + 1], x[begin + 2], x[begin + 3]), h[begin : begin + 4, first:last]
            h0, h1, h2, h3 = _column(part, 0), _column(part, 1), _column(part, 2), _column(part, 3)
            for k in range(x.shape[1]):
                now = y[0][k], y[1][k], y[2][k], y[3][k]
                w[0][k], w[1][k] = _four(w[0][k], h0, now), _four(w[1][k], h1, now)
                w[2][k], w[3][k] = _four(w[2][k], h2, now), _four(w[3][k], h3, now)
            begin += 4
    for s in range(begin, end):
        for i in range(first, last):
            unit, sample, part_of_way = weights[i], x[s], h[s, i]
            for k in range(x.shape[1]):
                unit[k] += part_of_way * (sample[k] - unit[k])


@numba.njit(cache=True)
def _column(h: np.ndarray, i: int) -> tuple[float, float, float, float]:
    return h[0, i], h[1, i], h[2, i], h[3, i]


@numba.njit(cache=True, fastmath={"contract"})
def _four(w: float, h: tuple[float, float, float, float], x: tuple[float, float, float, float]) -> float:
    """A weight after four steps."""
    # w += h (x - w)
    w += h[0] * (x[0] - w)
    w += h[1] * (x[1] - w)
    w += h[2] * (x[2] - w)
    w += h[3] * (x[3] - w)
    return w
