"""Numbers that count something: samples, bins, steps."""

from numbers import Integral


def count(name: str, value: object, *, least: int = 1) -> int:
    """Give a number that counts something as an int.

    name: what a message calls it.
    value: what was given, an int of Python, numpy or the like.
    least: the smallest number that is accepted, default 1.

    Returns the int.
    Raises ValueError for anything that is no whole number, and for one below ``least``.

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
