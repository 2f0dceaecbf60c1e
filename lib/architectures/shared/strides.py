"""The strides of a network, so that one network takes photographs of 224 pixels and digits of 28."""

from math import prod


def check_strides(strides: tuple[int, ...], *, count: int) -> None:
    """Raise ValueError unless there are ``count`` strides, each of them 1 or 2.

    strides: of the steps at which a network may halve its maps, from the images on.
    count: number of these steps in this network.

    >>> check_strides((2, 2), count=5)
    Traceback (most recent call last):
    ValueError: strides must be 5 numbers, each 1 or 2, not (2, 2)
    """
    whole = isinstance(strides, tuple | list) and all(type(stride) is int and stride in (1, 2) for stride in strides)
    if not whole or len(strides) != count:
        wanted = f"{count} numbers, each 1 or 2" if count > 1 else "one number, 1 or 2"
        raise ValueError(f"strides must be {wanted}, not {strides!r}")


def least(strides: tuple[int, ...]) -> int:
    """Return the smallest side, in pixels, of which the last stride of 2 still finds two pixels.

    strides: each 1 or 2; each 2 halves a side and rounds up.

    >>> least((2, 2, 2, 2, 2)), least((1, 1, 2, 2, 2)), least((1, 1))
    (17, 5, 1)
    """
    return prod(strides) // 2 + 1
