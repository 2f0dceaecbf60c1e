"""Check numbers that count something: samples, bins, steps."""

from numbers import Integral


def count(name: str, value: object, *, least: int = 1) -> int:
    """Check a number that counts something, and return it as an int.

    name: what an error message calls it.
    value: the number given, an int of Python, numpy or the like.
    least: the smallest number that is accepted, default 1.

    Returns the int.
    Raises ValueError for anything that is not a whole number, and for one below ``least``.

    >>> count("images", 20)
    20
    >>> count("images", 0)
    Traceback (most recent call last):
    ValueError: images must be 1 or more, not 0
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return int(value)
