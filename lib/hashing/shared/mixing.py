r"""A hash of whole numbers that is the same on every machine and in every version: buckets and signs.

The hash of key k is output k of the generator SplitMix64 (steele2014fast):

.. math:: z = s + (k + 1)\, \gamma, \qquad z \leftarrow (z \oplus z / 2^{30})\, a, \qquad
   z \leftarrow (z \oplus z / 2^{27})\, b, \qquad h(k) = z \oplus z / 2^{31},

modulo :math:`2^{64}`, with the seed s and three fixed odd numbers. Each step can be undone, so different keys never
have the same hash. Python's own ``hash`` would not do: it is salted, and differs from one process to the next.
"""

from numbers import Integral

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the odd number next to 2^64 divided by the golden ratio
A, B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SEEDS = 2**63  # a seed is below this, so that int64 holds it
SIGNS = 0x5349474E  # the number of the hash that signs come from: "SIGN" in ASCII


def splitmix64(keys: np.ndarray, seed: int) -> np.ndarray:
    """Hash whole numbers to 64 bits (steele2014fast).

    keys: whole numbers, 0 or larger, any shape.
    seed: from 0 to 2^63 - 1.

    Returns uint64 of the same shape. Raises ValueError for other keys and seeds.

    >>> [hex(value) for value in splitmix64(np.arange(2), seed=0)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    check_seed(seed)
    keys = np.asarray(keys)
    if keys.dtype.kind not in "iu" or (keys.size and keys.min() < 0):
        raise ValueError(f"the keys to hash must be whole numbers from 0 up, not {keys.dtype} from {_least(keys)}")
    # method
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64 on purpose
        z = np.uint64(seed) + (keys.astype(np.uint64) + np.uint64(1)) * GAMMA
        z = (z ^ (z >> np.uint64(30))) * A
        z = (z ^ (z >> np.uint64(27))) * B
        return z ^ (z >> np.uint64(31))
    # end of method


def _least(keys: np.ndarray) -> object:
    return keys.min() if keys.size else "nothing"


def buckets(keys: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Deal keys into buckets, uniformly at random: the hash modulo the number of buckets.

    keys: whole numbers, 0 or larger, any shape.
    count: of the buckets, 1 or more.
    seed: from 0 to 2^63 - 1.

    Returns int64 from 0 to ``count`` - 1, of the same shape. Raises ValueError for what is not accepted.

    >>> buckets(np.arange(8), count=3, seed=0).tolist()
    [1, 0, 1, 1, 1, 0, 2, 2]
    """
    if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count < SEEDS:
        raise ValueError(f"the number of buckets must be a whole number from 1 up, not {count}")
    return (splitmix64(keys, seed) % np.uint64(count)).astype(np.int64)


def signs(keys: np.ndarray, seed: int) -> np.ndarray:
    """Give each key +1 or -1, with probability 1/2 each.

    The sign comes from a hash of its own: bits of the bucket's hash would tie the sign to the bucket.

    keys: whole numbers, 0 or larger, any shape.
    seed: that of the buckets, from 0 to 2^63 - 1.

    Returns int8 of the same shape. Raises ValueError for what is not accepted.

    >>> signs(np.arange(8), seed=0).tolist()
    [-1, 1, 1, -1, -1, 1, -1, -1]
    """
    highest = splitmix64(keys, derived(seed, SIGNS)) >> np.uint64(63)
    return 1 - 2 * highest.astype(np.int8)


def derived(seed: int, number: int) -> int:
    """Make the seed of another hash, independent of the first: one for each layer, one for signs.

    seed: from 0 to 2^63 - 1.
    number: of the hash, 0 or larger.

    Returns a seed. Raises ValueError for what is not accepted.

    >>> derived(0, 0), derived(0, 1)
    (8147104208329303767, 3980143261097177850)
    """
    return int(splitmix64(np.array([number]), seed)[0]) >> 1


def check_seed(seed: int) -> None:
    """Raise ValueError unless ``seed`` is a whole number from 0 to 2^63 - 1.

    seed: the seed to check.

    >>> check_seed(-1)
    Traceback (most recent call last):
    ValueError: seed must be a whole number from 0 to 2^63 - 1, not -1
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed!r}")
